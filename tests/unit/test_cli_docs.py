"""Every verb explains itself, and docs/cli.md says what the verbs say.

`python -m tests.unit.test_cli_docs` writes the page anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from reindexer.cli import SECTIONS, cli
from reindexer.cli_verb import Verb, VerbGroup, global_options

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = """# Commands

Written from the commands' own help by `just docs`; a test compares it.

`python -m reindexer` is the same command as `reindexer`. Every listing and every report has
`--json`: one JSON document on stdout and nothing else there; progress, warnings and questions go to
stderr.

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed, or rows were rejected |
| 2 | usage: a flag, a setting, or a question that nobody is there to answer |
| 3 | a gate refused |
| 4 | another process holds the lease, or has the embedded collection open |
| 130 | Ctrl-C |
| 143 | SIGTERM: leases are given back; `serve` and `worker` drain and exit with 0 |

These options may stand before or after the verb:

"""


def _verbs() -> Iterator[tuple[str, Verb | VerbGroup]]:
    """Each verb with its full name, in the order of the help."""
    context = click.Context(cli)
    for section in SECTIONS.values():
        for name in section:
            command = cli.get_command(context, name)
            assert isinstance(command, Verb | VerbGroup), f"{name} is not made with Verb"
            yield name, command
            if isinstance(command, VerbGroup):
                for inner, below in command.commands.items():
                    assert isinstance(below, Verb)
                    yield f"{name} {inner}", below


VERBS = list(_verbs())
each_verb = pytest.mark.parametrize(("name", "command"), VERBS, ids=[name for name, _ in VERBS])


def reference() -> str:
    """docs/cli.md, from the commands."""
    parts = [HEAD + _options(global_options(hidden=False))]
    for title, names in SECTIONS.items():
        parts.append(f"## {title}\n")
        for name, command in VERBS:
            if name.split()[0] in names:
                parts.append(_verb(name, command))
    return "\n".join(parts)


def _verb(name: str, command: Verb | VerbGroup) -> str:
    context = click.Context(command, info_name=f"reindexer {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"### {name}\n", f"`reindexer {name} {usage}`\n", _prose(command), ""]
    own = [param for param in command.params if isinstance(param, click.Option)]
    shown = _options([option for option in own if not option.hidden])
    if shown:
        lines += [shown]
    lines += ["```sh", *command.examples, "```\n"]
    if command.json_fields:
        lines += [f"`--json`: {_code(command.json_fields)}\n"]
    return "\n".join(lines)


def _prose(command: click.Command) -> str:
    return re.sub(r"(?m)^ +", "", (command.help or "").strip())


def _options(options: list[click.Option]) -> str:
    lines = []
    for option in options:
        record = option.get_help_record(click.Context(cli))
        if record is not None:
            about = re.sub(r"\s+", " ", record[1]).strip()
            lines.append(f"- `{record[0]}`" + (f": {about}" if about else ""))
    return "\n".join(lines) + "\n" if lines else ""


def _code(json_fields: str) -> str:
    """What is JSON as code, and the words around it as words."""
    found = re.sub(r"([\[{\"][^;]*[\]}\"])", r"`\1`", json_fields)
    return found if "`" in found else f"`{json_fields}`"


@each_verb
def test_each_verb_has_help_and_an_example(name: str, command: Verb | VerbGroup) -> None:
    first_line = (command.help or "").strip().splitlines()[0]
    assert first_line.endswith((".", "?"))
    assert command.examples
    assert any(f"reindexer {name}" in example for example in command.examples)
    for option in (param for param in command.params if isinstance(param, click.Option)):
        assert option.help or isinstance(option.type, click.Choice), f"{option.name} has no help"


GROUPS = [(), *((name,) for name, command in VERBS if isinstance(command, VerbGroup))]


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: " ".join(path) or "reindexer")
def test_no_line_of_a_list_of_verbs_is_cut_on_a_terminal_of_80_columns(
    path: tuple[str, ...],
) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"], terminal_width=80).output
    _, _, listed = shown.partition("Begin:" if not path else "Commands:")
    assert listed
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


@each_verb
def test_json_is_documented_where_it_is_offered(name: str, command: Verb | VerbGroup) -> None:
    offers = any(param.name == "as_json" for param in command.params)
    assert offers == bool(command.json_fields), name


@each_verb
def test_global_options_may_follow_the_verb(name: str, command: Verb | VerbGroup) -> None:
    flags = {flag for param in command.params for flag in param.opts}
    assert {"--data-dir", "--config", "--set", "--quiet", "-v"} <= flags, name


def test_the_reference_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `just docs`"


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
