"""A PostgreSQL server that is stopped and started again under us, as for an upgrade of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from reindexer import journal
from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.journal import BUILD_LEASE
from search.errors import DatabaseUnavailable
from tests.postgresql_server import PostgresqlServer, restartable_postgresql_server
from tests.running_service import RunningService
from tests.word_directory import WordDirectory
from training import kill_points

DOWN_S = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresqlServer]:
    with restartable_postgresql_server() as started:
        yield started


@pytest.fixture
def data(server: PostgresqlServer, tmp_path: Path) -> Iterator[WordDirectory]:
    with WordDirectory(tmp_path / "data", database_url=server.url, window=64) as opened:
        yield opened


def test_a_service_refuses_while_its_database_is_away_and_comes_back_by_itself(
    server: PostgresqlServer, data: WordDirectory
) -> None:
    data.put("first", "all of first")
    data.go_live(data.build("word@1"))
    acknowledged: list[str] = []
    refused: list[httpx.Response] = []
    with RunningService(data) as running, httpx.Client(base_url=running.url) as client:
        assert client.get("/readyz").status_code == 200
        enough = threading.Event()

        def write() -> None:
            number = 0
            with httpx.Client(base_url=running.url, timeout=30) as own:
                while not enough.is_set():
                    number += 1
                    name = f"w{number}"
                    answer = own.put(f"/documents/{name}", json={"text": f"all of {name}"})
                    if answer.is_success:
                        acknowledged.append(name)
                    else:
                        refused.append(answer)
                    time.sleep(0.01)

        writer = threading.Thread(target=write)
        writer.start()
        _wait_for(lambda: len(acknowledged) > 5)
        server.stop()
        _wait_for(lambda: bool(refused))
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200
        found = client.get("/search", params={"q": "first"}, timeout=30)
        time.sleep(DOWN_S)
        server.start()
        before = len(acknowledged)
        _wait_for(lambda: len(acknowledged) > before + 5)
        enough.set()
        writer.join()

        _wait_for(lambda: client.get("/readyz").status_code == 200)
        _wait_for(lambda: (info := client.get("/info").json())["watermark"] == info["head_seq"])
        assert client.get("/info").json()["problem"] is None
        assert (found.status_code, found.json()["degraded"]) == (200, ["corpus"])
        for answer in refused:
            assert answer.status_code == 503, answer.text
            assert answer.headers["content-type"] == "application/problem+json"
            assert "check that it is running" in answer.json()["detail"], answer.text
        stored = data.corpus.get_many(acknowledged)
        assert [name for name in acknowledged if name not in stored] == []
        hits = client.get("/search", params={"q": acknowledged[-1], "k": 3}).json()["hits"]
        assert acknowledged[-1] in [hit["doc_id"] for hit in hits]


def test_a_build_whose_database_was_away_goes_on_from_its_checkpoint(
    server: PostgresqlServer, data: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LEASE_S", 4.0)  # what could not be given back runs out
    data.put_many(f"d{number}" for number in range(300))
    name = data.record("word@2").name
    data.journal.record_build(name, start_head=data.corpus.head(), docs_total=300)
    checkpoints = 0

    def stop_after_the_second(point: str) -> None:
        nonlocal checkpoints
        checkpoints += point == "checkpoint.commit"
        if checkpoints == 2 and point == "upsert.begin":
            server.stop()

    def run() -> int:
        with data.journal.lease(BUILD_LEASE, wait_s=30) as lease:
            job = BuildJob(generation=name, token=lease.token, settings={})
            return run_to_its_end(data, BuildRun(data, job), name)

    kill_points.listen(stop_after_the_second)
    try:
        assert run() == 1
    finally:
        kill_points.listen(None)
    with pytest.raises(DatabaseUnavailable):
        data.corpus.head()
    server.start()
    watermark = data.catalog.watermark(name)
    assert 0 < watermark < data.corpus.head()

    assert run() == 0

    generation = data.catalog.get(name)
    collection = data.store.open(generation.collection, generation.recipe.fingerprint)
    stored = [point.doc_id for page in collection.scan_points() for point in page]
    collection.close()
    live = {f"d{number}" for number in range(300)}
    assert live <= set(stored)
    assert len(stored) == data.corpus.count()


def _wait_for(happened: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
