"""What a user sees of a verb that meets a full disk: one line with a reason, exit code 1, nothing
changed; and the same command goes on once there is room. Builds, files, services: test_full_disk.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from reindexer.backup import make_backup
from search.tables import query_log
from tests.small_disk import SmallDisk, small_disk
from tests.verb_process import run_verb
from tests.word_directory import WordDirectory

N_DOCUMENTS = 40


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def fill(folder: Path) -> None:
    SmallDisk(folder).fill()


def installation(folder: Path) -> WordDirectory:
    """One generation is live."""
    data = WordDirectory(folder / "data")
    data.put_many(f"d{number}" for number in range(N_DOCUMENTS))
    data.go_live(data.build("word@1"))
    return data


def changed(data: WordDirectory) -> None:
    data.put_many(f"new{number}" for number in range(N_DOCUMENTS))


def with_next(data: WordDirectory) -> None:
    data.build("word@2")


def with_standby(data: WordDirectory) -> None:
    data.go_live(data.build("word@2"))


def backed_up(data: WordDirectory) -> None:
    make_backup(data, "place")


DATABASE = r"database or disk is full; free some disk space \(`reindexer prune`\) and try again"
COLLECTION = r"cannot write to collection .* is full: 0 MB free, .* make room \(`reindexer prune`\)"
OPENING = r"cannot open collection .* is full: 0 MB free, .* make room \(`reindexer prune`\)"
FILE = r"No space left on device.*; make room on that disk \(`reindexer prune` does"
RESTORE = ["restore", "place", "--overwrite", "--yes"]
UNPUBLISH = "reindexer.data_directory:DataDirectory.unpublish_lexicals"  # just before its rows
# What is there before, the verb, where the disk is full from then on, and what it says.
CASES: dict[str, tuple[Callable[[WordDirectory], None], list[str], str, str]] = {
    "a cut-over": (with_next, ["cutover", "docs@2"], "cutover.prepared", DATABASE),
    "a rollback": (with_standby, ["rollback"], "cutover.prepared", DATABASE),
    "a sync's vectors": (changed, ["sync"], "upsert.begin", COLLECTION),
    "a sync's watermark": (changed, ["sync"], "upsert.acknowledged", DATABASE),
    "a sync's words": (changed, ["sync"], "lexical.arrays", FILE),
    "a restore's vectors": (backed_up, RESTORE, "collection.named", OPENING),
    "a restore's own files": (backed_up, RESTORE, "index.built", FILE),
    "a restore's rows": (backed_up, RESTORE, UNPUBLISH, DATABASE),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verb_says_that_the_disk_is_full_and_goes_on_once_there_is_room(
    case: str, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(disk.folder / "data")
    prepare, arguments, at, expected = CASES[case]
    with installation(disk.folder) as data:
        prepare(data)
        before = data.catalog.pointers(), data.corpus.head(), data.store.names()

    code, said = run_verb(tmp_path, arguments, at=at, happens=partial(fill, disk.folder))

    assert code == 1, said
    assert re.search(f"^(Error|Warning): .*{expected}", said, re.M), said
    assert "Traceback" not in said
    assert "unexpected" not in said
    disk.make_room()
    with WordDirectory(disk.folder / "data") as data:
        pointers = data.catalog.pointers()
        assert (pointers.live, pointers.standby) == (before[0].live, before[0].standby)
        assert data.corpus.head() == before[1]
        assert data.store.names() == before[2], "something half is left"
        assert not list(data.path.glob(".restore-*"))

    code, said = run_verb(tmp_path, arguments)

    assert code == 0, said


def test_a_prune_makes_room_on_a_disk_without_a_free_byte(disk: SmallDisk, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(disk.folder / "data")
    with installation(disk.folder) as data:
        data.catalog.move(data.build("word@2"), "failed", reason="to be pruned")
    disk.fill()

    code, said = run_verb(tmp_path, ["generations"])
    assert code == 1, said
    assert "disk I/O error, because the disk is full; free some disk space (`rein" in said, said
    code, said = run_verb(tmp_path, ["prune", "--yes"])

    assert (code, "Dropped docs@2" in said) == (0, True), said
    code, said = run_verb(tmp_path, ["generations"])
    assert (code, "docs@2" in said) == (0, False), said
    disk.make_room()
    with WordDirectory(disk.folder / "data") as data:
        assert (data.path / "spare").stat().st_blocks, "nothing is set aside for the next time"


REPORTS = {
    "gate.html": ["verify", "docs@1", "--report"],
    "pairs.jsonl": ["pairs", "build", "source.jsonl", "-o"],
    "split": ["pairs", "split", "source.jsonl", "-o"],
    "clicks.jsonl": ["feedback", "export", "-o"],
}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installation and pairs, on a disk that has room."""
    folder = tmp_path_factory.mktemp("elsewhere")
    rows = [{"anchor": f"what is {n} of", "positive": f"text {n}"} for n in range(200)]
    (folder / "source.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with installation(folder) as data:
        log_a_query(data)
    return folder


def log_a_query(data: WordDirectory) -> None:
    row = {"query_id": "q", "at": time.time(), "generation": "docs@1", "mode": "hybrid"}
    with data.database.write() as connection:
        shown = {"query": "all", "query_hash": "", "hits": '["d1"]', "took_ms": 1.0}
        connection.execute(query_log.insert().values(**row, **shown))


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_on_a_full_disk_leaves_the_one_before(
    name: str, disk: SmallDisk, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere)
    out = disk.folder / name
    if out.suffix:
        out.write_text("the one before")
    disk.fill()
    before = sorted(path for path in disk.folder.rglob("*") if path.is_file())

    code, said = run_verb(elsewhere, [*REPORTS[name], str(out)])

    assert code == 1, said
    assert re.search(rf"^Error: No space left on device: {out}.*; make room on that", said, re.M)
    assert sorted(path for path in disk.folder.rglob("*") if path.is_file()) == before
    assert not out.is_file() or out.read_text() == "the one before"
    disk.make_room()
    code, said = run_verb(elsewhere, [*REPORTS[name], str(out)])
    assert code == 0, said
