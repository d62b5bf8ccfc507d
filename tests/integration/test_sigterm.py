"""SIGTERM in the middle of a verb: exit code 143, one line, leases given back, and the same command
goes on. `serve`, `worker` and builds drain: test_cli, test_worker, acceptance. `train` is in
test_cli_train, with a kill behind it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from reindexer.backup import make_backup
from reindexer.selftest.sandbox import PREFIX
from search import tables
from tests import warm_processes
from tests.verb_process import WAIT_S, run_verb
from tests.word_directory import WordDirectory

N_DOCUMENTS = 40


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # Python runs the handler between two of its own instructions


def _end_in_a_destructor() -> None:
    class Dying:
        def __del__(self) -> None:
            _end()

    Dying()
    time.sleep(0.2)  # a long step of the verb


def _standby(data: WordDirectory) -> None:
    data.go_live(data.build("word@2"))


def _with_changes(data: WordDirectory) -> None:
    data.put_many(f"new{number}" for number in range(N_DOCUMENTS))


def _next(data: WordDirectory) -> None:
    data.build("word@2")


def _failed(data: WordDirectory) -> None:
    data.catalog.move(data.build("word@2"), "failed", reason="to be pruned")


def _backed_up(data: WordDirectory) -> None:
    make_backup(data, "place")


def _nothing(_data: WordDirectory) -> None:
    """As it is."""


RESTORE = ["restore", "place", "--overwrite", "--yes"]
CASES: dict[str, tuple[Callable[[WordDirectory], None], list[str], str]] = {
    "ingest": (_nothing, ["ingest", "rows.jsonl"], "corpus.write"),
    "sync": (_with_changes, ["sync"], "upsert.acknowledged"),
    "cutover": (_next, ["cutover", "docs@2"], "cutover.requested"),
    "rollback": (_standby, ["rollback"], "cutover.prepared"),
    "prune": (_failed, ["prune", "--yes"], "prune.fenced"),
    "backup": (_nothing, ["backup", "place"], "reindexer.backup_folder:BackupFolder.keep"),
    "restore": (_backed_up, RESTORE, "reindexer.backup_folder:BackupFolder.fetch"),
    "restore of vectors": (_backed_up, RESTORE, "collection.named"),
    "verify": (_next, ["verify", "docs@2"], "search.generations:Catalog.get"),
}


@pytest.mark.parametrize("verb", CASES)
def test_sigterm_gives_leases_back_and_the_same_command_goes_on(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare, arguments, at = CASES[verb]
    Path("rows.jsonl").write_text(
        "".join(f'{{"id": "r{n}", "text": "row {n}"}}\n' for n in range(N_DOCUMENTS))
    )
    with WordDirectory(tmp_path / "data") as data:
        data.put_many(f"d{number}" for number in range(N_DOCUMENTS))
        data.go_live(data.build("word@1"))
        prepare(data)
        before = data.catalog.pointers(), data.corpus.head(), data.store.names()

    code, said = run_verb(tmp_path, arguments, at=at, happens=_end)

    assert code == 143, said
    assert re.search(r"^Error: ended by SIGTERM; what was acknowledged is kept", said, re.M), said
    assert "Traceback" not in said
    with WordDirectory(tmp_path / "data") as data:
        assert (data.catalog.pointers(), data.corpus.head(), data.store.names()) == before
        with data.database.read() as connection:
            leases = connection.execute(sa.select(tables.leases)).all()
        assert [lease.name for lease in leases if lease.expires_at] == []
        if verb == "backup":
            assert not list(Path("place").glob("backups/*"))

    code, said = run_verb(tmp_path, arguments)

    assert code == 0, said


def test_sigterm_is_not_lost_in_a_destructor(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data") as data:
        data.put("d", "text")
        data.go_live(data.build("word@1"))
        _with_changes(data)

    code, said = run_verb(tmp_path, ["sync"], at="upsert.begin", happens=_end_in_a_destructor)

    assert code == 143, said
    assert said.startswith("Error: ended by SIGTERM"), said


def test_sigterm_takes_the_sandbox_of_a_selftest_away(tmp_path: Path) -> None:
    said = tmp_path / "said"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "NO_COLOR": "1"}
    process = warm_processes.start_verb(
        ["selftest", "kill", "--kills", "100"], environment=environment, stderr=said
    )
    deadline = time.monotonic() + WAIT_S
    while not list(tmp_path.glob(f"{PREFIX}*/*")):
        assert process.is_alive(), said.read_text()
        assert time.monotonic() < deadline, "the selftest made no sandbox"
        time.sleep(0.01)
    process.terminate()
    process.join(WAIT_S)

    assert process.exitcode == 143, said.read_text()
    assert list(tmp_path.iterdir()) == [said]
