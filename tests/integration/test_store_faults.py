"""A Qdrant server that refuses, stalls, is overloaded or hangs up: nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reindexer.build import BuildRun
from reindexer.build_job import BuildJob
from reindexer.journal import BUILD_LEASE
from reindexer.verify import Verification
from search import qdrant_calls
from search.dense import CollectionSpec, Point
from search.dense_qdrant import QdrantStore
from search.errors import StoreUnavailable
from tests import plain_points
from tests.qdrant_server import QdrantServer
from tests.word_directory import WordDirectory

SEED_1 = f"{1:064x}"  # the fingerprint of word@1
SPEC = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=8)
N_POINTS = 600  # three requests of 256 at the most
WRITES = r"PUT .*/points$"


@pytest.fixture(scope="module")
def started() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


@pytest.fixture
def server(started: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> QdrantServer:
    started.clear()
    monkeypatch.setattr(qdrant_calls, "FIRST_PAUSE_S", 0.002)
    return started


def a_store(server: QdrantServer, **options: Any) -> QdrantStore:
    """Patient enough that a slow machine is no fault; a test of the time-out says how long."""
    return QdrantStore(url=server.url, ready_poll_s=0.001, **{"timeout_s": 30, **options})


def points(seq: int = 1) -> list[Point]:
    return plain_points.points(N_POINTS, seq=seq)


VECTORS = np.eye(8, dtype=np.float32)[np.arange(N_POINTS) % 8]


# -- single requests -------------------------------------------------------------------------------


FAULTS: dict[str, dict[str, Any]] = {
    "time-out": {"kind": "slow", "seconds": 1.5, "times": 1},
    "429": {"kind": "status", "status": 429, "times": 2},
    "429 with a pause": {"kind": "status", "status": 429, "retry_after_s": 1, "times": 1},
    "500": {"kind": "status", "status": 500, "times": 2},
    "503 now and then": {"kind": "status", "status": 503, "share": 0.4, "seed": 3},
    "cut before the write": {"kind": "cut", "times": 2},
    "cut after the write": {"kind": "cut_after_write", "times": 2},
    "cut now and then": {"kind": "cut_after_write", "share": 0.4, "seed": 1},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_loses_and_doubles_nothing(server: QdrantServer, fault: str) -> None:
    timeout_s = 1 if fault == "time-out" else 30
    store = a_store(server, patience_s=20.0, timeout_s=timeout_s)
    collection = store.create("docs-1", SPEC)
    server.fail(**FAULTS[fault])
    collection.upsert(points(), VECTORS)
    if fault == "time-out":
        time.sleep(1.0)  # the one given up is done too; a delete must not overtake it
    collection.remove_older({"d1": 2, "d2": 1})
    server.heal()
    assert server.requests(WRITES) > 3, "no write was tried again"
    stored = [point.doc_id for page in collection.scan_points() for point in page]
    assert sorted(stored) == sorted(point.doc_id for point in points() if point.doc_id != "d1")
    store.close()


def test_a_write_that_arrives_late_replaces_nothing_newer(server: QdrantServer) -> None:
    """The client gave it up, the server had it lie about, and a newer one came in between."""
    store = a_store(server, timeout_s=1)
    collection = store.create("docs-1", SPEC)
    server.fail("slow", seconds=1.6, only=WRITES, times=1)
    first = threading.Thread(target=collection.upsert, args=(points(seq=1)[:1], VECTORS[:1]))
    first.start()
    while not server.requests(WRITES):
        time.sleep(0.01)
    collection.upsert(points(seq=2)[:1], VECTORS[1:2])
    first.join()
    time.sleep(0.8)  # until the late one is done
    stored, vectors = collection.stored(["d0"])
    assert [point.seq for point in stored] == [2]
    np.testing.assert_array_equal(vectors, VECTORS[1:2])
    store.close()


def test_a_server_asks_for_a_pause_and_gets_it(server: QdrantServer) -> None:
    store = a_store(server, patience_s=20.0)
    server.fail("status", status=429, retry_after_s=1, times=1)
    began = time.monotonic()
    assert store.names() == []
    assert time.monotonic() - began >= 1.0
    store.close()


def test_who_has_no_patience_is_told_at_once_what_to_do(server: QdrantServer) -> None:
    store = a_store(server)
    store.names()
    server.refuse(2.0)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match=r"no answer .*check that the server runs.*store\.u"):
        store.names()
    assert time.monotonic() - began < 1.0
    _wait_until_back(store)
    store.close()


def test_a_query_does_not_wait_for_a_server_that_is_overloaded(server: QdrantServer) -> None:
    store = a_store(server)
    collection = store.create("docs-1", SPEC)
    collection.upsert(points(), VECTORS)
    server.fail("cut", times=1)  # as after a restart of the server
    assert len(collection.search(VECTORS[0], 3)) == 3
    server.fail("status", status=503, only="query")
    before = server.requests("query")
    with pytest.raises(StoreUnavailable):
        collection.search(VECTORS[0], 3)
    assert server.requests("query") - before == qdrant_calls.HURRIED_ATTEMPTS
    store.close()


def test_waiting_ends_when_somebody_says_so_and_after_its_time(server: QdrantServer) -> None:
    class Enough(Exception):
        pass

    reasons: list[str] = []

    def enough(reason: str) -> None:
        reasons.append(reason)
        if len(reasons) == 6:
            raise Enough

    server.fail("status", status=503)
    store = a_store(server, patience_s=60.0, on_wait=enough)
    with pytest.raises(Enough):
        store.names()
    assert "get_collections at http://127.0.0.1" in reasons[0]
    store.close()
    store = a_store(server, patience_s=0.3)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.names()
    assert 0.3 <= time.monotonic() - began < 3.0
    store.close()


def _wait_until_back(store: QdrantStore) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            store.names()
            return
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


# -- a build ---------------------------------------------------------------------------------------

OUTAGE_S = 3.0
N_DOCUMENTS = 300


@pytest.fixture
def data(server: QdrantServer, tmp_path: Path) -> Iterator[WordDirectory]:
    with WordDirectory(
        tmp_path / "data", store_kind="qdrant", store_url=server.url, window=64
    ) as opened:
        yield opened


class Building:
    """A build in a thread, as its process runs it."""

    def __init__(self, data: WordDirectory) -> None:
        data.put_many(f"d{number}" for number in range(N_DOCUMENTS))
        self.data = data
        self.name = data.record("word@1").name
        data.journal.record_build(self.name, start_head=data.corpus.head(), docs_total=N_DOCUMENTS)
        self.outcome: object = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self.data.journal.lease(BUILD_LEASE) as lease:
            run = BuildRun(
                self.data, BuildJob(generation=self.name, token=lease.token, settings={})
            )
            self.data.wait_for_store(run.store_is_away)
            try:
                self.outcome = run.run()
            except Exception as error:
                self.outcome = error

    def __enter__(self) -> Building:
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.thread.join()

    def reason(self) -> str | None:
        return self.data.journal.build_of(self.name).reason


def test_a_build_outlives_a_server_that_is_gone_for_a_while(
    server: QdrantServer, data: WordDirectory
) -> None:
    server.fail("slow", seconds=0.05, only=WRITES)  # so that there is a middle
    with Building(data) as build:
        _wait_for(lambda: server.requests(WRITES) > 2)
        server.refuse(OUTAGE_S)
        _wait_for(lambda: "waiting for the store: upsert" in (build.reason() or ""))
    assert isinstance(build.outcome, Verification), build.outcome
    assert build.outcome.passed, build.outcome.reasons
    assert build.reason() is None
    collection = data.store.open(data.catalog.get(build.name).collection, SEED_1)
    stored = sorted(point.doc_id for page in collection.scan_points() for point in page)
    assert stored == sorted(f"d{number}" for number in range(N_DOCUMENTS))


def test_a_build_that_waits_for_the_server_can_be_paused(
    server: QdrantServer, data: WordDirectory
) -> None:
    server.fail("status", status=503, only=WRITES)
    with Building(data) as build:
        _wait_for(lambda: build.reason() is not None)
        build_id = data.journal.build_of(build.name).build_id
        data.journal.update_build(build_id, wanted="pause")
        asked = time.monotonic()
    assert time.monotonic() - asked < 2.0
    assert getattr(build.outcome, "wanted", None) == "pause", build.outcome


def _wait_for(happened: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
