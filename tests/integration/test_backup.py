"""Backup and restore: under writes, after a kill, when damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from reindexer import backup
from reindexer.backup import make_backup
from reindexer.backup_folder import BackupFolder
from reindexer.errors import BackupDamaged, LeaseHeld, TargetNotEmpty
from reindexer.journal import SYNC_LEASE
from reindexer.restore import check_backup, restore
from search.database import Database, sqlite_url
from search.errors import DatabaseTooNew
from search.stored_points import from_frames, to_frame
from search.stored_rows import rows_from_bytes, rows_to_bytes
from search.table_rows import read_parts, table_names
from tests.filled_directory import WORDS, answers, fill, state, sync
from tests.running_service import RunningService
from tests.word_directory import WordDirectory


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "backups")


@pytest.fixture
def filled(directory: WordDirectory) -> WordDirectory:
    """The same again, for a test that changes it."""
    return fill(directory)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[WordDirectory]:
    with WordDirectory(tmp_path / "target") as target:
        yield target


def occupy(directory: WordDirectory) -> None:
    """Another corpus of 30 documents, with a live generation and a saved lexical index."""
    directory.put_many(f"other{number}" for number in range(29))
    directory.go_live(directory.build("word@7"))
    directory.put("other", "a horse of another corpus")
    sync(directory)


def test_a_backup_made_under_writes_comes_back_with_equal_digests_and_answers(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            filled.put(f"d{number % 150}", f"{WORDS[number % 5]} edited {number}")
            if number % 7 == 3:
                filled.corpus.delete([f"d{(number * 3) % 150}"])
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = make_backup(filled, place)
    finally:
        stop.set()
        writer.join()
    assert made.backup.head_seq > 121, "nothing was written meanwhile"

    restored = restore(target, place)

    assert restored.to_encode == ()
    assert target.corpus.head() == made.backup.head_seq
    sync(target)
    # The same history up to the backup's head, and from there on the same writes.
    missed = filled.corpus.changes(made.backup.head_seq, 100_000)
    for change in missed:
        if change.document is None:
            target.corpus.delete([change.doc_id])
        else:
            target.corpus.put([change.document])
    sync(filled)
    sync(target)
    here, there = state(filled), state(target)
    assert {(row.doc_id, row.content_hash) for row in here["documents"] if not row.deleted} == {
        (row.doc_id, row.content_hash) for row in there["documents"] if not row.deleted
    }
    assert answers(filled) == answers(target)


def test_everything_is_as_it_was_when_nothing_was_written_meanwhile(
    origin: WordDirectory, kept: str, target: WordDirectory
) -> None:
    report = restore(target, kept)
    assert state(target) == state(origin)
    assert answers(target) == answers(origin)
    assert report.to_encode == ()
    assert target.journal.holder(SYNC_LEASE) is None
    assert sync(target) == 0, "vectors are restored, not encoded again"


def test_changes_that_the_copied_vectors_lack_are_replayed(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    """The watermark is read before the vectors, the corpus after them."""
    filled.put("d3", "river edited and not yet replayed")
    filled.corpus.delete(["d4"])
    make_backup(filled, place)
    restore(target, place)
    assert sync(target) == 2, "one document in two generations"
    sync(filled)
    assert state(target) == state(filled)
    for directory in (filled, target):  # the restored seqs are no obstacle to new ones
        directory.put("d3", "horse written after the restore")
        sync(directory)
    assert state(target) == state(filled)
    assert answers(target) == answers(filled)


def test_replay_that_goes_on_during_a_backup_leaves_no_gap(
    filled: WordDirectory, target: WordDirectory, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copied catalog is ahead of the copied vectors, and both are replayed from behind."""
    keep_lexical = backup._keep_lexical

    def write_and_sync(data: WordDirectory, folder: BackupFolder) -> Any:
        data.put("d7", "horse written after the vectors were copied")
        data.corpus.delete(["d8"])
        sync(data)
        return keep_lexical(data, folder)

    monkeypatch.setattr(backup, "_keep_lexical", write_and_sync)
    make_backup(filled, place)
    restore(target, place)
    assert sync(target) == 2, "one document in two generations"
    assert state(target) == state(filled)
    assert answers(target) == answers(filled)


def test_a_second_backup_sends_what_has_changed(filled: WordDirectory, place: str) -> None:
    first = make_backup(filled, place)
    again = make_backup(filled, place)
    filled.put_many(f"new{number}" for number in range(4_100))  # two parts more
    grown = make_backup(filled, place, collections=False)
    assert first.sent_bytes > 0
    assert again.sent_bytes < first.sent_bytes / 10
    old_parts = {file.sha256 for file in again.backup.tables["documents"].files[:-1]}
    assert old_parts <= {file.sha256 for file in grown.backup.tables["documents"].files}


def test_old_backups_go_with_the_objects_that_nobody_needs(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    for number in range(3):
        filled.put("changing", f"version {number}")
        make_backup(filled, place)
    filled.put("changing", "the last version")
    report = make_backup(filled, place, keep=2)
    assert len(report.removed) == 2
    folder = BackupFolder(place)
    assert len(folder.names()) == 2
    needed = {file.sha256 for name in folder.names() for file in folder.read(name).files()}
    assert {file.name for file in (Path(place) / "objects").iterdir()} == needed
    restore(target, place)
    document = target.corpus.get("changing")
    assert document is not None
    assert document.text == "the last version"


def test_a_damaged_backup_is_refused_and_nothing_is_changed(
    kept: str, target: WordDirectory, place: str
) -> None:
    shutil.copytree(kept, place)
    made = BackupFolder(place).newest()
    target.put("mine", "what was here before")
    before = state(target)
    largest = max((Path(place) / "objects").iterdir(), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.raises(BackupDamaged, match=largest.name):
        check_backup(place)
    with pytest.raises(BackupDamaged, match="Nothing was changed"):
        restore(target, place, overwrite=True)
    largest.unlink()
    with pytest.raises(BackupDamaged, match="is missing"):
        restore(target, place, overwrite=True)
    assert state(target) == before
    assert not list(target.path.glob(".restore-*"))

    manifest = Path(place) / "backups" / made
    manifest.write_bytes(manifest.read_bytes()[:-20])
    with pytest.raises(BackupDamaged, match="no finished backup"):
        restore(target, place, overwrite=True)


def test_a_target_that_is_not_empty_is_refused_unless_it_may_be_replaced(
    origin: WordDirectory, kept: str, target: WordDirectory
) -> None:
    occupy(target)
    with pytest.raises(TargetNotEmpty, match="30 documents and 1 generations"):
        restore(target, kept)
    old = target.store.names()
    restore(target, kept, overwrite=True)
    expected, found = state(origin), state(target)
    assert found == expected
    assert answers(target) == answers(origin), "the old lexical index is gone"
    assert not set(old) & set(target.store.names()), "the old collections are gone"
    assert len(target.store.names()) == 2
    assert target.catalog.events.newest(1)[0]["kind"] == "restore"


def test_a_restore_that_fails_late_leaves_the_target_as_it_was(
    origin: WordDirectory, kept: str, target: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupy(target)
    before, said = state(target), answers(target)
    with monkeypatch.context() as patch:
        patch.setattr("reindexer.restore_rows.continue_numbers", _fail)
        with pytest.raises(RuntimeError, match="late"):
            restore(target, kept, overwrite=True)
    assert state(target) == before
    assert answers(target) == said

    with monkeypatch.context() as patch:
        patch.setattr("reindexer.restore._put_lexical", _fail)
        with pytest.raises(RuntimeError, match="late"):
            restore(target, kept, overwrite=True)
    assert state(target) == state(origin), "the transaction was it"
    assert answers(target) == answers(origin), "the lexical index is rebuilt, not the old one"


def _fail(*_arguments: object) -> None:
    raise RuntimeError("late")


def test_a_lease_token_goes_on_above_all_that_were_given_out(
    origin: WordDirectory, kept: str, target: WordDirectory
) -> None:
    with origin.journal.lease(SYNC_LEASE) as zombie:
        restore(target, kept)
        with target.journal.lease(SYNC_LEASE) as fresh:
            assert fresh.token > zombie.token + 1_000_000


def test_who_works_here_is_named_and_nothing_is_restored(kept: str, target: WordDirectory) -> None:
    with target.journal.lease(SYNC_LEASE), pytest.raises(LeaseHeld, match="sync"):
        restore(target, kept)
    target.catalog.processes.heartbeat(
        "elsewhere:1:1", address="http://a", generation=None, prepared=None, problem=None
    )
    with pytest.raises(LeaseHeld, match="stop it first"):
        restore(target, kept)


def test_without_vectors_replay_makes_them_again(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    expected = state(filled)
    ready = filled.build("word@3")
    unfinished = filled.record("word@4")
    filled.journal.record_build(unfinished.name, start_head=1, docs_total=1)
    filled.journal.record_build(ready, start_head=1, docs_total=1)
    assert make_backup(filled, place, collections=False).backup.collections == {}
    report = restore(target, place)
    assert report.to_encode == ("docs@1", "docs@2")
    assert sync(target) == 242
    assert state(target) == expected
    for name in (ready, unfinished.name):
        assert (target.catalog.get(name).state, target.catalog.watermark(name)) == (
            "building",
            0,
        )
        assert "begins again" in str(target.journal.build_of(name).reason)


def test_a_backup_of_the_first_schema_is_migrated(
    origin: WordDirectory, kept: str, target: WordDirectory, place: str, tmp_path: Path
) -> None:
    shutil.copytree(kept, place)
    folder = BackupFolder(place)
    old = folder.read(folder.newest())
    first = Database(sqlite_url(tmp_path / "first.db"))
    first.migrate(revision="0001")
    with first.read() as connection:
        columns = {
            name: [column["name"] for column in sa.inspect(connection).get_columns(name)]
            for name in sa.inspect(connection).get_table_names()
        }
    first.close()
    tables = {}
    for name, table in old.tables.items():
        if name not in columns:
            continue
        kept = [column for column in table.columns if column in columns[name]]
        at = [table.columns.index(column) for column in kept]
        files = tuple(
            folder.keep(
                file.path,
                rows_to_bytes(
                    [
                        [row[i] for i in at]
                        for row in rows_from_bytes(
                            (Path(place) / "objects" / file.sha256).read_bytes()
                        )
                    ]
                ),
            )
            for file in table.files
        )
        tables[name] = replace(table, columns=tuple(kept), files=files)
    assert len(tables) < len(old.tables)
    folder.finish(
        replace(old, schema_revision="0001", tables=tables, made_at="2099-01-01T00:00:00.000000")
    )
    restore(target, place)
    assert state(target) == state(origin)

    folder.finish(replace(old, schema_revision="9999", made_at="2099-01-02T00:00:00.000000"))
    with pytest.raises(DatabaseTooNew, match="schema 9999"):
        restore(target, place, overwrite=True)


def test_a_backup_that_is_killed_leaves_the_one_before_it(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    first = make_backup(filled, place)
    expected = state(filled)
    filled.put_many(f"late{number}" for number in range(200))
    filled.database.close()
    code = (
        "import sys, time\n"
        "from reindexer import backup_folder\n"
        "from tests.word_directory import WordDirectory\n"
        "from reindexer.backup import make_backup\n"
        "from pathlib import Path\n"
        "keep, n = backup_folder.BackupFolder.keep, 0\n"
        "def slow(self, path, content):\n"
        "    global n\n"
        "    n += 1\n"
        "    if n == 12:\n"
        "        print('now', flush=True); time.sleep(60)\n"
        "    return keep(self, path, content)\n"
        "backup_folder.BackupFolder.keep = slow\n"
        "make_backup(WordDirectory(Path(sys.argv[1])), sys.argv[2])\n"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(filled.path), place],
        stdout=subprocess.PIPE,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    # As a killed copy leaves them: an object that is only half there, and one that nobody needs.
    objects = Path(place) / "objects"
    needed = {file.sha256 for file in first.backup.files()}
    half = next(file for file in objects.iterdir() if file.name not in needed)
    os.truncate(half, half.stat().st_size // 2)
    torn = objects / ("f" * 64)
    torn.touch()

    assert BackupFolder(place).names() == [first.name]
    restore(target, place)
    assert state(target) == expected
    again = make_backup(filled, place, keep=1)
    assert check_backup(place)[0] == again.name
    assert not torn.exists()


def test_a_running_service_hands_out_the_vectors_that_it_owns(
    filled: WordDirectory, target: WordDirectory, place: str
) -> None:
    expected, said = state(filled), answers(filled)
    with RunningService(filled) as running:
        headers = {"X-Reindexer-Token": running.service.token}
        with httpx.Client(base_url=running.url, headers=headers, timeout=60) as client:
            _wait_until_open(client, {"docs@1", "docs@2"})
            made = make_backup(filled, place)
            with pytest.raises(LeaseHeld, match="stop it first"):
                restore(filled, place, overwrite=True)
            assert client.get("/generations/docs@9/points").status_code == 404
            assert httpx.get(f"{running.url}/healthz").status_code == 200
    assert set(made.backup.collections) == {"docs@1", "docs@2"}
    shutil.rmtree(filled.path / "collections")
    restore(target, place)
    assert state(target) == expected
    assert answers(target) == said


def _wait_until_open(client: httpx.Client, wanted: set[str]) -> None:
    deadline = time.monotonic() + 60
    while not wanted <= set(client.get("/info").json()["open"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_frames_are_read_however_they_are_cut(origin: WordDirectory) -> None:
    live = origin.catalog.live()
    assert live is not None
    collection = origin.store.open(live.collection, live.recipe.fingerprint)
    with contextlib.closing(collection):
        pages = list(collection.scan(batch=50))
    raw = b"".join(to_frame(points, vectors) for points, vectors in pages)
    cut = [raw[at : at + 997] for at in range(0, len(raw), 997)]
    read = list(from_frames(cut))
    assert [points for points, _ in read] == [points for points, _ in pages]
    assert all((one == other).all() for (_, one), (_, other) in zip(read, pages, strict=True))


def test_parts_stay_the_same_until_their_rows_change(origin: WordDirectory) -> None:
    with origin.database.read() as connection:
        names = table_names()
        assert "searchers" not in names
        assert {"documents", "generations", "api_keys", "query_log", "feedback"} <= set(names)
        for name in names:
            assert list(read_parts(connection, name)) == list(read_parts(connection, name))
