"""The embedded store under SIGKILL, with two owners, and with damaged files."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from search import edge_collection
from search.dense import CollectionSpec, Point
from search.dense_edge import EdgeStore
from search.errors import CollectionDamaged, CollectionMissing, StoreError, StoreLocked
from search.owner_lock import OwnerLock

DIM = 8
SPEC = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=DIM)

# Writes batches for ever, and says which have been acknowledged.
WRITER = """
    import sys
    from pathlib import Path
    import numpy as np
    from search.dense import CollectionSpec, Point
    from search.dense_edge import EdgeStore

    spec = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=8)
    collection = EdgeStore(Path(sys.argv[1])).create("docs-1", spec)
    first = int(sys.argv[2])
    for batch in range(first, first + 1_000_000):
        points = [
            Point(doc_id=f"{batch}/{i}", number=0, count=1, seq=batch + 1, content_hash="c",
                  text_hash="t", start=0, end=1, metadata={"batch": batch})
            for i in range(100)
        ]
        collection.upsert(points, np.full((100, 8), batch + 1, dtype=np.float32))
        if batch % 3 == 2:
            collection.remove_older({f"{batch - 1}/{i}": batch + 1 for i in range(100)})
        print(batch, flush=True)
"""

HOLDER = """
    import sys, time
    from pathlib import Path
    from search.dense_edge import EdgeStore

    collection = EdgeStore(Path(sys.argv[1])).open("docs-1", "aaaa")
    print("open", flush=True)
    time.sleep(60)
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> str:
    """What it had written until then."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    return said


def a_point(doc_id: str, seq: int = 1) -> Point:
    return Point(
        doc_id=doc_id,
        number=0,
        count=1,
        seq=seq,
        content_hash="c",
        text_hash="t",
        start=0,
        end=1,
        metadata={},
    )


@pytest.fixture
def store(tmp_path: Path) -> EdgeStore:
    return EdgeStore(tmp_path)


def test_a_killed_writer_loses_nothing_it_acknowledged(store: EdgeStore, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    acknowledged: list[int] = []
    for _ in range(6):
        first = acknowledged[-1] + 1 if acknowledged else 0
        writer = start(WRITER, tmp_path, first)
        assert writer.stdout is not None
        acknowledged.append(int(writer.stdout.readline()))
        time.sleep(rng.uniform(0.0, 0.3))
        # A line that the kill cut short was not an acknowledgement.
        said = kill(writer).rpartition("\n")[0]
        acknowledged.extend(map(int, said.splitlines()))

    collection = store.open("docs-1", "aaaa")
    stored = {point.doc_id for batch in collection.scan_points() for point in batch}
    for batch in acknowledged:
        if batch % 3 == 1 and batch == acknowledged[-1]:
            continue  # the kill may have come after its deletion and before the acknowledgement
        deleted = batch % 3 == 1
        for i in range(100):
            assert (f"{batch}/{i}" in stored) is not deleted, (batch, i)
    collection.close()


def test_a_collection_has_one_owner_process(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    holder = start(HOLDER, tmp_path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    try:
        with pytest.raises(StoreLocked, match=rf"open in process {holder.pid} .*reindexer serve"):
            store.open("docs-1", "aaaa", wait_s=0.05)
        with pytest.raises(StoreLocked):
            EdgeStore(tmp_path).open("docs-1", "aaaa", wait_s=0.0)
    finally:
        kill(holder)
    # Its lock died with it.
    store.open("docs-1", "aaaa", wait_s=5.0).close()


def test_opening_waits_for_the_owner_to_close(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    holder = start(
        HOLDER.replace("time.sleep(60)", "time.sleep(0.3); collection.close()"), tmp_path
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    store.open("docs-1", "aaaa", wait_s=10.0).close()
    assert holder.wait() == 0
    holder.stdout.close()


def test_one_process_cannot_open_a_collection_twice(store: EdgeStore) -> None:
    first = store.create("docs-1", SPEC)
    with pytest.raises(StoreLocked, match=rf"already open in this process \(pid {os.getpid()}\)"):
        store.open("docs-1", "aaaa", wait_s=0.0)
    first.upsert([a_point("a")], np.ones((1, DIM), dtype=np.float32))  # unharmed
    first.close()
    again = store.open("docs-1", "aaaa", wait_s=0.0)
    assert again.count() == 1
    again.close()


def test_a_lock_file_that_a_drop_takes_away_meanwhile_is_not_owned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock-docs-1"
    locks = 0

    def flock_after_a_drop(descriptor: int, operation: int) -> None:
        nonlocal locks
        locks += 1
        if locks == 1:
            path.unlink()
        flock(descriptor, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", flock_after_a_drop)
    owner = OwnerLock(path, "docs-1", wait_s=0.0, owner=1)
    with pytest.raises(StoreLocked):
        OwnerLock(path, "docs-1", wait_s=0.0, owner=2)
    owner.release()


def test_a_failed_open_gives_the_lock_back(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    spec = tmp_path / "docs-1" / "collection.json"
    text = spec.read_text()
    spec.write_text("{")
    for _ in range(2):
        with pytest.raises(CollectionDamaged):
            store.open("docs-1", "aaaa", wait_s=0.0)
    spec.write_text(text)
    store.open("docs-1", "aaaa", wait_s=0.0).close()


def test_drop_leaves_a_collection_that_is_open(
    store: EdgeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.dense_edge.OWNER_WAIT_S", 0.05)
    store.create("docs-1", SPEC).close()
    holder = start(HOLDER, tmp_path)
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(StoreLocked):
            store.drop("docs-1")
        assert store.names() == ["docs-1"]
    finally:
        kill(holder)


def test_a_creation_killed_half_way_starts_over(store: EdgeStore, tmp_path: Path) -> None:
    half = tmp_path / ".new-docs-1"
    (half / "shard").mkdir(parents=True)
    (half / "shard" / "edge_config.json").write_text("{")
    (tmp_path / "docs-1").mkdir()
    assert store.names() == []
    with pytest.raises(CollectionMissing, match="reindexer doctor"):
        store.open("docs-1", "aaaa")
    collection = store.create("docs-1", SPEC)
    assert collection.count() == 0
    collection.close()
    assert not half.exists()


def test_a_drop_killed_half_way_is_completed_at_the_next_start(tmp_path: Path) -> None:
    EdgeStore(tmp_path).create("docs-1", SPEC).close()
    (tmp_path / "docs-1").rename(tmp_path / ".trash-docs-1-1234")
    (tmp_path / "not ours").mkdir()
    again = EdgeStore(tmp_path)
    assert again.names() == []
    assert not list(tmp_path.glob(".trash-*"))
    assert (tmp_path / "not ours").exists()


def test_drop_leaves_nothing_behind(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    store.drop("docs-1")
    assert list(tmp_path.iterdir()) == []


def test_a_collection_without_its_spec_is_damaged_not_replaced(
    store: EdgeStore, tmp_path: Path
) -> None:
    store.create("docs-1", SPEC).close()
    (tmp_path / "docs-1" / "collection.json").unlink()
    for attempt in (
        lambda: store.open("docs-1", "aaaa"),
        lambda: store.create("docs-1", SPEC),
    ):
        with pytest.raises(CollectionDamaged, match=r"collection.json.*reindexer upgrade"):
            attempt()
    assert store.names() == ["docs-1"]


@pytest.mark.parametrize("damage", ["no shard", "cut", "garbage"])
def test_damaged_engine_files_are_reported_as_such(
    store: EdgeStore, tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    collection = store.create("docs-1", SPEC)
    collection.upsert([a_point("a")], np.ones((1, DIM), dtype=np.float32))
    collection.close()
    shard = tmp_path / "docs-1" / "shard"
    if damage == "no shard":
        shard.rename(tmp_path / "elsewhere")
    else:
        for file in (*shard.rglob("segment.json"), *shard.glob("edge_config.json")):
            file.write_bytes(b"" if damage == "cut" else b"\xff\x00nonsense")
    with pytest.raises(CollectionDamaged, match=r"cannot open collection 'docs-1'.*reindexer"):
        store.open("docs-1", "aaaa")
    capfd.readouterr()  # a panic of the engine writes to stderr


def test_a_collection_of_a_newer_release_is_refused(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    path = tmp_path / "docs-1" / "collection.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CollectionDamaged, match="format 99, this release reads 1"):
        store.open("docs-1", "aaaa")


def test_a_closed_collection_says_so(store: EdgeStore) -> None:
    collection = store.create("docs-1", SPEC)
    collection.close()
    with pytest.raises(StoreError, match="has been closed"):
        collection.count()
    with pytest.raises(StoreError, match="has been closed"):
        collection.upsert([a_point("a")], np.ones((1, DIM), dtype=np.float32))


def test_closing_ends_the_searches_of_other_threads_in_order(store: EdgeStore) -> None:
    collection = store.create("docs-1", SPEC)
    collection.upsert([a_point("a")], np.ones((1, DIM), dtype=np.float32))
    ends: list[BaseException] = []

    def search() -> None:
        try:
            while True:
                collection.search(np.ones(DIM, dtype=np.float32), 1)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    collection.close()
    for thread in threads:
        thread.join()
    assert [type(end) for end in ends] == [StoreError] * 3
    assert all("has been closed" in str(end) for end in ends)


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a\x00b", "x" * 200])
def test_a_name_that_is_not_a_plain_folder_name_is_refused(store: EdgeStore, name: str) -> None:
    for attempt in (
        lambda: store.create(name, SPEC),
        lambda: store.open(name, "aaaa"),
        lambda: store.drop(name),
    ):
        with pytest.raises(StoreError, match="cannot name a collection"):
            attempt()


def test_disk_bytes_counts_the_files(store: EdgeStore) -> None:
    collection = store.create("docs-1", SPEC)
    assert store.disk_bytes("docs-9") is None
    assert (store.disk_bytes("docs-1") or 0) > 10_000
    collection.close()


class _Spied:
    """The engine's shard, with its flushes counted."""

    def __init__(self, shard: object) -> None:
        self._shard = shard
        self.flushes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._shard, name)

    def flush(self) -> None:
        self.flushes += 1
        self._shard.flush()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("bulk", "flushes"), [(True, 7), (False, 3)])
def test_what_a_restart_reads_again_does_not_grow_with_the_collection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bulk: bool, flushes: int
) -> None:
    """Whoever opens it after a kill waits until all that was not flushed has been read."""
    monkeypatch.setattr(edge_collection, "BULK_FLUSH_POINTS", 500)
    monkeypatch.setattr(edge_collection, "FLUSH_POINTS", 1_000)
    store = EdgeStore(tmp_path)
    collection = store.create("docs-1", SPEC)
    if not bulk:
        collection.close()
        collection = store.open("docs-1", "aaaa")
    spied = _Spied(collection._shard)
    collection._shard = spied  # type: ignore[assignment]

    for seq in range(1, 35):
        points = [a_point(f"{seq}/{i}", seq) for i in range(100)]
        collection.upsert(points, np.ones((100, DIM), dtype=np.float32))
    collection.remove_older({f"1/{i}": 100 for i in range(100)})

    assert spied.flushes == flushes
    collection.close()
