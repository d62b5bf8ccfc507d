"""What the documentation says exists: pages, headings, commands, options, variables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reindexer.cli import cli
from reindexer.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
LEAST_QUESTIONS = 25
# Variables that are no settings: the key of `status --url`, and where a test kills a process.
OTHER_VARIABLES = {"REINDEXER_KEY", "REINDEXER_KILL_POINT"}
# Files and kill points that look like settings.
OTHER_NAMES = {"feedback.key", "lexical.manifest", "cutover.swap", "prune.fenced"}
_FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\[[^\]\n]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:^|[\s(]|bin/)reindexer (?=[a-z-])")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# -- links -----------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: dict[str, int] = {}
    result = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", _FENCE.sub("", page.read_text()), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        again = found.get(slug, 0)
        found[slug] = again + 1
        result.add(f"{slug}-{again}" if again else slug)
    return result


def broken_links(page: Path) -> Iterator[str]:
    """Relative links that lead to no file, or to no heading of it."""
    for target in _LINK.findall(_FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"{target}: there is no {path}"
        elif anchor and anchor not in anchors(path):
            yield f"{target}: {path.name} has no such heading"


@each_page
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    assert list(broken_links(page)) == []


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Two words\n[a](#two-words) [b](#three) [c](gone.md) [d](https://x.example)")
    assert [line.partition(":")[0] for line in broken_links(page)] == ["#three", "gone.md"]


def test_the_index_lists_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    listed = {target.partition("#")[0] for target in _LINK.findall(index)}
    missing = {page.name for page in DOCS.glob("*.md")} - listed - {"index.md"}
    assert not missing, "name them in docs/index.md"


def test_the_readme_leads_to_the_index_and_ends_early() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/index.md)" in readme
    assert len(readme.splitlines()) <= 110


# -- commands --------------------------------------------------------------------------------------


def commands(text: str) -> Iterator[list[str]]:
    """The words after `reindexer` of each command in code, inline or in a block."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = _FENCE.sub("", text)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"^    (.+)$", rest, re.MULTILINE)
    lines += re.findall(r"`([^`\n]+)`", rest)
    for line in lines:
        if line.startswith("helm "):
            continue  # its chart has the same name
        for found in _COMMAND.finditer(line):
            words = _words(line[found.end() :])
            if words:
                yield words


def _words(line: str) -> list[str]:
    """Up to what the shell takes as the end of a command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words = []
    try:
        for word in lexer:
            if word[0] in "();<>|&":
                break
            words.append(word)
    except ValueError:  # prose with an apostrophe
        return line.split()
    return words


def wrong(words: list[str]) -> str | None:
    """Why this is no command that there is; None when it is one."""
    command: click.Command = cli
    context = click.Context(cli)
    n_arguments = 0
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name = word.partition("=")[0]
        if word[0] in "[{…" or word == "...":
            return None  # a pattern, and no command
        if name.startswith("-") and len(name) > 1:
            options = [
                item for item in command.params if name in (*item.opts, *item.secondary_opts)
            ]
            if not options:
                return f"no option {name}"
            option = options[0]
            is_flag = isinstance(option, click.Option) and (option.is_flag or option.count)
            if not is_flag and "=" not in word:
                if not rest:
                    return f"{name} without a value"
                value = rest.pop(0)
                choices = option.type.choices if isinstance(option.type, click.Choice) else ()
                if choices and value.islower() and value not in choices:
                    return f"{name} {value}"
        elif isinstance(command, click.Group):
            found = command.get_command(context, word)
            if found is None:
                return f"no verb {word}"
            command = found
        else:
            n_arguments += 1
    most = [item.nargs for item in command.params if isinstance(item, click.Argument)]
    if -1 not in most and n_arguments > sum(most):
        return f"{n_arguments} arguments"
    return None


@each_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    found = {" ".join(words): wrong(words) for words in commands(page.read_text())}
    assert {text: why for text, why in found.items() if why} == {}


@pytest.mark.parametrize(
    "line",
    [
        "frobnicate",
        "search hello --fast",
        "keys destroy x",
        "rollback docs@2",
        "search x --mode fuzzy",
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str) -> None:
    (words,) = commands(f"```sh\nreindexer {line}   # a comment\n```\n")
    assert wrong(words) is not None


@each_page
def test_every_variable_that_is_named_exists(page: Path) -> None:
    known = {row["environment"] for row in Settings().rows()} | OTHER_VARIABLES
    named = set(re.findall(r"\bREINDEXER_[A-Z0-9_]+[A-Z0-9]\b", page.read_text()))
    assert named <= known


@each_page
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {row["key"] for row in Settings().rows()}
    sections = {key.partition(".")[0] for key in known if "." in key}
    for section, key in re.findall(r"`([a-z]+)\.([a-z0-9_]+)(?: = [^`]*)?`", page.read_text()):
        is_module = any((ROOT / section).glob(f"{key}*"))
        if section in sections and not is_module and f"{section}.{key}" not in OTHER_NAMES:
            assert f"{section}.{key}" in known


# -- what if ---------------------------------------------------------------------------------------


def _sections(page: Path) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^### (.+)$", page.read_text(), flags=re.MULTILINE)
    return zip(parts[1::2], parts[2::2], strict=True)


def test_what_if_answers_every_question_with_a_command() -> None:
    sections = list(_sections(DOCS / "what-if.md"))
    assert len(sections) >= LEAST_QUESTIONS
    without = [title for title, text in sections if not any(commands(text.split("\n## ")[0]))]
    assert without == []
