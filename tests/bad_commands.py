"""Command lines that nobody should type, and what may come of them: one line that says what is
wrong, and an exit code that means something.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from hypothesis import strategies as st

from reindexer import data_directory
from reindexer.cli import cli
from reindexer.selftest import word_directory
from reindexer.settings import Settings
from tests import bad_inputs as bad
from tests.bad_sources import Check
from tests.word_directory import WordDirectory

# {} is where something bad goes. None of these writes where it is told to, reaches out, or takes
# long; whatever is written lies in the data directory.
COMMANDS: Sequence[str] = (
    "{}", "{} {}", "--set {} settings", "--config {} status", "settings {}", "completion {}",
    "ingest {}", "ingest rows.jsonl --format {}", "ingest rows.jsonl --source {}",
    "ingest rows.jsonl --id-field {} --text-field {}", "ingest rows.csv --title-field {} --again",
    "ingest sqlite:///rows.db --table {}", "ingest sqlite:///rows.db --query {}",
    "ingest sqlite:///rows.db --table docs --updated-at {}", "ingest sqlite:///{} --table docs",
    "search {}", "search all -k {}", "search all --filter {}", "search all --mode {} --explain",
    "search all --generation {} --json", "evaluate {}", "evaluate judged --split {}",
    "tune judged --split {} --dry-run", "keys create {}", "keys create k --scope {} --rate {}",
    "keys revoke {}", "feedback summary --since {}", "sync {}", "pairs audit {}",
    "pairs audit pairs.jsonl --seed {} --sample {}", "models show {}", "models verify {}",
    "models remove {} --yes", "plan {}", "build {}", "resume {}", "cancel {}", "scale {}",
    "verify {}", "cutover {}", "cutover {} --override {}", "schedule set {} {} --every {}",
    "schedule set nightly sync --cron {}", "schedule set nightly prune --every 1d --argument {}",
    "schedule remove {}", "schedule run {}", "schedule jobs --limit {}", "generations show {}",
    "status --interval {}", "restore {} --list", "pairs build {} -o out.jsonl",
    "pairs build pairs.jsonl -o out.jsonl --rename {} --min-score {}",
    "pairs split pairs.jsonl -o split --test-share {} --seed {}",
)  # fmt: skip

EXIT_CODES = (0, 1, 2, 3, 4)


def _command_line(command: str, texts: Sequence[str], seed: int) -> list[str]:
    """Some of the texts in the places that the command has; now and then with a byte changed."""
    chance = random.Random(seed)
    result = []
    for word in command.split(" "):
        raw = word.replace("{}", chance.choice(texts)).encode("utf-8", "surrogatepass")
        if "{}" in word and chance.random() < 0.2:
            raw = bad.damaged(raw, seed)
        given = os.fsdecode(raw.replace(b"\0", b""))  # no shell can hand a zero over
        result.append("x" if _leads_out(given) else given)
    return result


def _leads_out(word: str) -> bool:
    """Away from the folder that the command runs in, on disk or over the network."""
    return word.startswith("/") or "\n/" in word or ("://" in word and "sqlite:///" not in word)


arguments: st.SearchStrategy[list[str]] = st.builds(
    _command_line,
    st.sampled_from(COMMANDS),
    st.lists(bad.texts, min_size=1, max_size=3),
    st.integers(0, 2**63),
)


class _KeptOpen(word_directory.WordDirectory):
    """Not closed after each command: opening takes longer than most of them."""

    def close(self) -> None:
        """Whoever closes it calls `end`."""

    def end(self) -> None:
        super().close()


@contextmanager
def a_terminal(folder: Path) -> Iterator[Check]:
    """An installation with a live generation, in a folder that paths like ../.. do not leave."""
    home = folder / "a" / "b" / "c"
    home.mkdir(parents=True)
    with WordDirectory(home / "data", run_worker=False) as directory:
        directory.put_many(f"d{number}" for number in range(5))
        directory.go_live(directory.build("word@1"))
    _write_examples(home)
    environment = {name: None for name in os.environ if name.startswith("REINDEXER_")}
    runner = CliRunner(env={**environment, "HOME": str(home), "NO_COLOR": "1"})
    opened: Any = data_directory.open_data_directory
    before = Path.cwd()
    kept: list[_KeptOpen] = []

    def open_kept(settings: Settings) -> _KeptOpen:
        found = next((directory for directory in kept if directory.settings == settings), None)
        if found is None:
            found = _KeptOpen(settings)
            kept.append(found)
        return found

    def check(words: list[str]) -> None:
        done = runner.invoke(cli, ["--data-dir", str(home / "data"), *words])
        assert done.exit_code in EXIT_CODES, (words, done.exit_code, done.exception)
        assert "Traceback" not in done.output, (words, done.output)
        assert "Error: unexpected " not in done.stderr, (words, done.stderr)
        assert done.exit_code == 0 or done.stderr, words

    data_directory.open_data_directory = open_kept
    os.chdir(home)
    try:
        yield check
    finally:
        os.chdir(before)
        data_directory.open_data_directory = opened
        for directory in kept:
            directory.end()


def _write_examples(folder: Path) -> None:
    import sqlite3

    (folder / "rows.jsonl").write_bytes(bad.to_json(bad.DOCUMENT))
    (folder / "rows.csv").write_bytes(bad.CSV)
    (folder / "pairs.jsonl").write_bytes(b"\n".join([bad.to_json(bad.PAIR)] * 3))
    with contextlib.closing(sqlite3.connect(folder / "rows.db")) as connection:
        connection.execute("CREATE TABLE docs (id, text, updated)")
        connection.execute("INSERT INTO docs VALUES ('d1', 'text', 1)")
        connection.commit()
    (folder / "judged" / "qrels").mkdir(parents=True)
    (folder / "judged" / "corpus.jsonl").write_text('{"_id": "d1", "text": "all of d1"}\n')
    (folder / "judged" / "queries.jsonl").write_text('{"_id": "q1", "text": "all of d1"}\n')
    (folder / "judged" / "qrels" / "test.tsv").write_text("q1\td1\t1\n")
