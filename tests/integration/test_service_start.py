"""Other verbs find a service once it answers, and wait for one that is on its way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from reindexer.journal import SYNC_LEASE
from reindexer.running_service import RunningService
from reindexer.service_address import ServiceAddress
from reindexer.worker import Worker
from search.errors import DatabaseUnavailable
from tests import running_service
from tests.word_directory import WordDirectory

WAIT_S = 60.0


def test_a_service_that_loads_is_not_found_before_it_answers_and_is_waited_for(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.put_many(f"d{number}" for number in range(5))
    directory.go_live(directory.build("word@1"))
    starting = running_service.RunningService(directory)
    loads, may_go_on = threading.Event(), threading.Event()
    load = starting.service.manager.wait_until_live

    def slowly(timeout_s: float) -> bool:
        done = load(timeout_s)
        loads.set()
        assert may_go_on.wait(WAIT_S)
        return done

    monkeypatch.setattr(starting.service.manager, "wait_until_live", slowly)
    monkeypatch.setattr("reindexer.running_service.process_name", lambda: "elsewhere:1:1")
    with ThreadPoolExecutor(2) as threads:
        started = threads.submit(starting.__enter__)
        assert loads.wait(WAIT_S)
        found = threads.submit(RunningService.find, directory)
        assert ServiceAddress.read(directory.path) is None
        may_go_on.set()
        started.result(WAIT_S)
        try:
            service = found.result(WAIT_S)
            assert service is not None
            with service:
                assert service.info()["generation"] == "docs@1"
            assert httpx.get(f"{service.url}/readyz").status_code == 200
        finally:
            starting.__exit__(None, None, None)
    assert RunningService.find(directory) is None


def test_the_worker_begins_once_the_service_answers(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered_at: list[ServiceAddress | None] = []

    def start(_worker: Worker) -> None:
        answered_at.append(ServiceAddress.read(directory.path))

    monkeypatch.setattr(Worker, "start", start)
    with running_service.RunningService(directory) as running:
        assert [address.url for address in answered_at if address is not None] == [running.url]
    assert len(answered_at) == 1


def test_before_the_first_switch_the_scoring_is_compiled_already(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = threading.Event()
    monkeypatch.setattr("reindexer.service.warm_lexical", compiled.set)

    with running_service.RunningService(directory):
        assert compiled.wait(WAIT_S)


def test_a_start_that_fails_gives_everything_back(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> None:
        raise DatabaseUnavailable("it is away")

    service = running_service.RunningService(directory).service
    monkeypatch.setattr(directory.catalog, "live", gone)

    with pytest.raises(DatabaseUnavailable, match="it is away"):
        service.run(on_ready=lambda _url: None)
    assert directory.journal.holder(SYNC_LEASE) is None
    assert ServiceAddress.read(directory.path) is None


def test_nobody_is_waited_for_where_no_service_is(directory: WordDirectory) -> None:
    with directory.journal.lease(SYNC_LEASE):
        assert RunningService.find(directory) is None
