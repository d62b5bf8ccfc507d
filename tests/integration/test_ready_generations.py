"""A generation that is ready can be asked, and compared with the live one, before the switch."""

from __future__ import annotations

import time

import httpx
import pytest

from reindexer import running_service
from reindexer.data_directory import DataDirectory
from reindexer.live import open_live, points_of
from reindexer.prune import plan_prune, prune
from search import serving
from search.searcher import SearchRequest
from tests.running_service import RunningService
from tests.word_directory import WordDirectory

pytestmark = pytest.mark.usefixtures("nothing_is_due")


def test_a_service_that_has_not_opened_what_is_asked_is_left_again(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[running_service.RunningService] = []
    find = running_service.RunningService.find

    def noted(data: DataDirectory) -> running_service.RunningService | None:
        service = find(data)
        if service is not None:
            asked.append(service)
        return service

    directory.put_many(f"d{number}" for number in range(20))
    directory.go_live(directory.build("word@1"))
    ready = directory.build("word@2")
    monkeypatch.setattr(running_service.RunningService, "find", noted)
    with RunningService(directory):
        with open_live(directory, ready) as answers:
            assert answers.search(SearchRequest(query="d3"))["generation"] == ready
        with points_of(directory, directory.catalog.get(ready)) as pages:
            assert sum(len(points) for points, _ in pages) == 20
    assert len(asked) == 2
    assert all(service._http.is_closed for service in asked)


def test_a_ready_generation_is_compared_over_http_and_pruned_afterwards(
    directory: WordDirectory,
) -> None:
    directory.put_many(f"d{number}" for number in range(20))
    directory.go_live(directory.build("word@1"))
    ready = directory.build("word@2")
    with RunningService(directory) as running:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            page = client.get("/compare", params={"q": "d3"})
            body = {"query": "d3", "generation": ready}
            answer = client.post("/search", json=body).json()
            assert client.post("/search", json={"query": "d3"}).json()["generation"] == "docs@1"
        assert page.status_code == 200
        assert f'value="{ready}:hybrid" selected' in page.text
        assert answer["generation"] == ready

        directory.catalog.move(ready, "failed", reason="cancelled")
        dropped = prune(directory, plan_prune(directory))

        assert ready in [item.name for item in dropped]
        assert directory.catalog.get(ready).state == "pruned"


def test_a_ready_generation_that_nobody_asks_any_more_is_closed(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "ASKED_IDLE_S", 0.5)
    directory.put_many(f"d{number}" for number in range(5))
    directory.go_live(directory.build("word@1"))
    names = [directory.build("word@2"), directory.build("word@3")]
    with RunningService(directory) as running:
        manager = running.service.manager
        for name in names:
            with manager.acquire(name) as searcher:
                assert searcher.generation == name
        deadline = time.monotonic() + 20
        while len(manager.opened()) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [item.name for item in manager.opened()] == ["docs@1"]
