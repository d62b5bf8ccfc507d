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
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reindexer.backup import make_backup
from reindexer.selftest.sandbox import PREFIX
from search import tables
from tests import warm_processes
from tests.word_directory import WordDirectory

N_DOCUMENTS = 40
WAIT_S = 90


def _verb(data_dir: Path, arguments: list[str], at: str | None, said: Path) -> None:
    """Runs in a process of its own. at: a kill point, or a method as module:Class.method."""
    from reindexer import cli, data_directory
    from search.processes import die_with_parent
    from training import kill_points

    die_with_parent(os.getppid())
    for descriptor in (1, 2):
        file = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
    data_directory.open_data_directory = _open  # type: ignore[assignment]
    if at is not None and ":" in at:
        _end_in(at)
    elif at is not None:
        kill_points.listen(partial(_end_at, at))
    cli.cli.main(["--data-dir", str(data_dir), *arguments])


def _open(settings: Any) -> Any:
    from reindexer.selftest.word_directory import WordDirectory as Words

    return Words(settings)


def _end_at(wanted: str, point: str) -> None:
    if point == wanted:
        _end()


def _end_in(method: str) -> None:
    import importlib

    module, _, path = method.partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    before = getattr(owner, name)

    def ended(*args: Any, **options: Any) -> Any:
        result = before(*args, **options)
        _end()
        return result

    setattr(owner, name, ended)


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # Python runs the handler between two of its own instructions


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


CASES: dict[str, tuple[Callable[[WordDirectory], None], list[str], str]] = {
    "ingest": (_nothing, ["ingest", "rows.jsonl"], "corpus.write"),
    "sync": (_with_changes, ["sync"], "upsert.acknowledged"),
    "cutover": (_next, ["cutover", "docs@2"], "cutover.requested"),
    "rollback": (_standby, ["rollback"], "cutover.prepared"),
    "prune": (_failed, ["prune", "--yes"], "prune.fenced"),
    "backup": (_nothing, ["backup", "place"], "reindexer.backup_folder:BackupFolder.keep"),
    "restore": (
        _backed_up,
        ["restore", "place", "--overwrite", "--yes"],
        "reindexer.backup_folder:BackupFolder.fetch",
    ),
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
        before = data.catalog.pointers(), data.corpus.head()

    code, said = _run(tmp_path, arguments, at)

    assert code == 143, said
    assert re.search(r"^Error: ended by SIGTERM; what was acknowledged is kept", said, re.M), said
    assert "Traceback" not in said
    with WordDirectory(tmp_path / "data") as data:
        assert (data.catalog.pointers(), data.corpus.head()) == before
        with data.database.read() as connection:
            leases = connection.execute(sa.select(tables.leases)).all()
        assert [lease.name for lease in leases if lease.expires_at] == []
        if verb == "backup":
            assert not list(Path("place").glob("backups/*"))

    code, said = _run(tmp_path, arguments, None)

    assert code == 0, said


def _run(folder: Path, arguments: list[str], at: str | None) -> tuple[int | None, str]:
    said = folder / f"said-{time.monotonic_ns()}"
    process = warm_processes.start(_verb, folder / "data", arguments, at, said)
    process.join(WAIT_S)
    return process.exitcode, said.read_text()


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
