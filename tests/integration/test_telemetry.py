"""Metrics and traces of a service: what happens is counted, cheaply, and documented."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from reindexer.access import access_of
from reindexer.cutover import cut_over
from reindexer.service import ReindexerService
from reindexer.stages import StageClock
from search import traces
from search.api_limits import ApiLimits
from search.api_metrics import _Counted
from search.app import create_app
from search.catalog_metrics import CatalogMetrics
from search.drain import Drain
from search.errors import DatabaseUnavailable, DeadlineExceeded, Overloaded, RateLimited
from search.keys import ApiKeys
from search.telemetry import Telemetry, start_metrics_server
from tests.word_directory import WordDirectory

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"
LOCAL = "http://localhost"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """docs@1 is live, docs@2 is ready."""
    with WordDirectory(tmp_path_factory.mktemp("telemetry") / "data") as directory:
        directory.put_many(f"d{number}" for number in range(20))
        directory.go_live(directory.build("word@1"))
        directory.build("word@2")
        yield directory


@pytest.fixture(scope="module")
def service(built: WordDirectory) -> Iterator[ReindexerService]:
    service = ReindexerService(built, host="127.0.0.1", port=0)
    assert service.manager.wait_until_open("docs@1", timeout_s=60)
    service.manager.follow()
    yield service
    service.close()


@pytest.fixture
def client(service: ReindexerService, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """Counts begin at nothing."""
    telemetry = Telemetry(service.telemetry.status)
    monkeypatch.setattr(service, "telemetry", telemetry)
    return TestClient(create_app(service), base_url=LOCAL, raise_server_exceptions=False)


def scraped(client: TestClient) -> dict[str, float]:
    """Value by name and labels, as Prometheus reads them."""
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    found = {}
    for line in answer.text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def documented() -> dict[str, str]:
    """Type by name, from the tables."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", DOCUMENTATION.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a metric is described twice"
    return dict(rows)


# -- what is counted -------------------------------------------------------------------------------


def test_a_query_is_timed_by_leg_and_mode(client: TestClient) -> None:
    for mode in ("hybrid", "hybrid", "lexical"):
        assert client.post("/search", json={"query": "all of d3", "mode": mode}).is_success

    found = scraped(client)

    timed = "reindexer_query_duration_seconds_count"
    for leg in ("encode", "lexical", "dense", "fuse", "hydrate", "total"):
        assert found[f'{timed}{{leg="{leg}",mode="hybrid"}}'] == 2
    assert found[f'{timed}{{leg="total",mode="lexical"}}'] == 1
    assert "reindexer_query_batch_size_sum" in found
    assert found["reindexer_queries_waiting"] == 0
    assert f'{timed}{{leg="dense",mode="lexical"}}' not in found
    requests = "reindexer_http_requests_total"
    assert found[f'{requests}{{method="POST",route="/search",status="200"}}'] == 3


def test_routes_are_counted_as_declared_so_that_ids_do_not_become_labels(
    client: TestClient,
) -> None:
    client.get("/documents/d1")
    client.get("/documents/d2")
    client.get("/no/such/path")

    found = scraped(client)

    prefix = "reindexer_http_requests_total"
    requests = {name: n for name, n in found.items() if name.startswith(prefix)}
    assert 2 in requests.values()
    assert not any("d1" in name or "/no/such" in name for name in requests)
    assert requests[f'{prefix}{{method="GET",route="none",status="404"}}'] == 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Overloaded("64 requests are under way"), "overload"),
        (RateLimited("60 requests a minute", retry_after_s=1), "rate"),
        (DeadlineExceeded("30 s have passed"), "deadline"),
    ],
)
def test_refusals_are_counted_by_reason(
    client: TestClient,
    service: ReindexerService,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    def refuse(*_arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(service.manager, "acquire", refuse)
    assert client.get("/search", params={"q": "one"}).status_code in (429, 504)

    assert scraped(client)[f'reindexer_http_requests_rejected_total{{reason="{reason}"}}'] == 1


def test_queries_that_are_encoded_together_are_counted_as_one_batch(
    service: ReindexerService,
) -> None:
    client = TestClient(create_app(service), base_url=LOCAL)
    before = scraped(client)
    queries = [{"query": f"all of d{number}"} for number in range(3)]
    assert client.post("/search/batch", json={"queries": queries}).is_success
    after = scraped(client)

    added = {name: after[name] - before.get(name, 0.0) for name in after}
    assert added["reindexer_query_batch_size_sum"] == 3
    assert added["reindexer_query_batch_size_count"] == 1


@pytest.mark.usefixtures("client")
def test_a_body_that_is_too_large_is_counted_as_refused(
    service: ReindexerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "limits", ApiLimits(max_body_bytes=10))
    client = TestClient(create_app(service), base_url=LOCAL)
    assert client.post("/search", json={"query": "one two three"}).status_code == 413

    assert scraped(client)['reindexer_http_requests_rejected_total{reason="size"}'] == 1


def test_an_answer_without_a_leg_is_counted_as_degraded(
    client: TestClient, service: ReindexerService, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = service.manager.current
    assert current is not None

    def fail(*_arguments: Any) -> Any:
        raise RuntimeError("gone")

    monkeypatch.setattr(type(current.searcher), "encode", fail)
    assert client.get("/search", params={"q": "all of d3"}).json()["degraded"] == ["dense"]

    assert scraped(client)['reindexer_degraded_answers_total{part="dense"}'] == 1


def test_the_latency_of_queries_reaches_the_catalog_with_the_heartbeat(
    built: WordDirectory, service: ReindexerService
) -> None:
    client = TestClient(create_app(service), base_url=LOCAL)
    for _ in range(5):
        assert client.get("/search", params={"q": "all of d3"}).is_success
    service.manager._last_heartbeat = 0.0
    service.manager.follow()

    (process,) = built.catalog.processes.seen()

    assert process.load is not None
    assert process.load.queries_per_s > 1
    assert 0 < process.load.p50_ms <= process.load.p99_ms


# -- what the database knows -----------------------------------------------------------------------


def test_lag_is_told_in_documents_and_in_seconds(client: TestClient, built: WordDirectory) -> None:
    labels = '{generation="docs@1",role="live"}'
    assert scraped(client)[f"reindexer_generation_lag_documents{labels}"] == 0
    seq = built.put("new", "a new document")
    time.sleep(1.1)  # until what was read is not fresh any more, and the change has an age

    found = scraped(client)

    assert found[f"reindexer_generation_lag_documents{labels}"] == 1
    assert 1.0 <= found[f"reindexer_generation_lag_seconds{labels}"] < 30
    assert found["reindexer_corpus_head_seq"] == seq
    live = next(name for name in found if name.startswith("reindexer_live_generation_info"))
    assert 'generation="docs@1"' in live
    assert 'model="word@1"' in live
    assert 'fingerprint="' in live


def test_scraping_reads_the_database_once_a_second_at_most() -> None:
    now, reads = [0.0], []

    def status() -> Any:
        reads.append(now[0])
        raise DatabaseUnavailable("gone")

    collector = CatalogMetrics(status, clock=lambda: now[0])
    for now[0] in (0.0, 0.4, 0.9, 1.1, 1.9, 2.2):
        list(collector.collect())

    assert reads == [0.0, 1.1, 2.2]


def test_without_a_database_the_rest_is_still_told() -> None:
    def status() -> Any:
        raise DatabaseUnavailable("gone")

    telemetry = Telemetry(status)
    telemetry.sync_failed("docs@1")

    assert telemetry.registry.get_sample_value("reindexer_database_up") == 0
    labels = {"generation": "docs@1"}
    assert telemetry.registry.get_sample_value("reindexer_sync_errors_total", labels) == 1


def test_a_worker_answers_metrics_without_an_api() -> None:
    server = start_metrics_server(0, Telemetry())

    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    server.close()

    assert "process_resident_memory_bytes" in text
    assert "reindexer_encoded_passages_total" in text


# -- who may look ----------------------------------------------------------------------------------


def test_where_keys_are_asked_for_any_key_may_scrape(
    service: ReindexerService, built: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ApiKeys(built.database)
    key, secret = keys.create("prometheus", scopes=["write"])
    access = access_of(built.database, built.settings, host="0.0.0.0", token="t", insecure=False)
    monkeypatch.setattr(service, "access", access)
    client = TestClient(create_app(service))

    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": f"Bearer {secret}"}).status_code == 200
    monkeypatch.setattr(service.telemetry, "is_open", True)
    assert client.get("/metrics").status_code == 200
    keys.revoke(key.id)


# -- the documentation -----------------------------------------------------------------------------


def test_the_documentation_describes_every_metric_and_no_other() -> None:
    def status() -> Any:
        raise AssertionError("names are known without asking")

    telemetry = Telemetry(status)
    families = [
        family
        for collector in telemetry.registry._collector_to_names
        for family in (
            collector.describe() if hasattr(collector, "describe") else collector.collect()
        )
    ]
    found = {}
    for family in families:
        name = family.name
        if family.type == "counter":
            name += "_total"
        if family.type == "info":
            name += "_info"
        if name.startswith("reindexer_"):
            found[name] = family.type

    assert found == documented()


# -- what it costs ---------------------------------------------------------------------------------


def test_counting_adds_less_than_50_microseconds_to_a_request() -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        scope["route"] = route
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(_message: Any) -> None: ...

    async def receive() -> Any: ...

    route = FastAPI().routes[0]
    counted = _Counted(app, telemetry=Telemetry(), drain=Drain())

    async def took_s(called: Any) -> float:
        n = 300
        began = time.perf_counter()
        for _ in range(n):
            scope = {"type": "http", "method": "GET", "path": "/search", "headers": []}
            await called(scope, receive, send)
        return (time.perf_counter() - began) / n

    async def best(called: Any) -> float:
        return min([await took_s(called) for _ in range(10)])

    added_us = (asyncio.run(best(counted)) - asyncio.run(best(app))) * 1e6

    assert added_us < 50


# -- traces ----------------------------------------------------------------------------------------


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    traces.start("test", exporter=exporter)
    yield exporter
    traces.stop()


def test_a_request_is_traced_with_its_parts_below_the_callers_span(
    client: TestClient, spans: InMemorySpanExporter
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "X-Request-Id": "r-7"}
    assert client.post("/search", json={"query": "all of d3"}, headers=headers).is_success

    found = {span.name: span for span in spans.get_finished_spans()}

    request, search = found["POST /search"], found["search"]
    assert f"{request.context.trace_id:032x}" == trace
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == parent
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 200
    assert request.attributes["reindexer.request_id"] == "r-7"
    assert search.attributes is not None
    assert search.attributes["generation"] == "docs@1"
    assert _parent_of(search) == request.context.span_id
    for part in ("lexical", "encode", "dense", "fuse", "hydrate"):
        assert _parent_of(found[part]) == search.context.span_id


def _parent_of(span: Any) -> int:
    assert span.parent is not None
    return int(span.parent.span_id)


def test_a_cut_over_is_traced(
    built: WordDirectory, service: ReindexerService, spans: InMemorySpanExporter
) -> None:
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.02):
            service.manager.follow()
            service._step()

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        cut_over(built, "docs@2")
    finally:
        stop.set()
        thread.join()

    (span,) = [span for span in spans.get_finished_spans() if span.name == "cut_over"]
    assert span.attributes is not None
    assert span.attributes["generation"] == "docs@2"


def test_nothing_of_opentelemetry_is_imported_unless_it_is_asked_for() -> None:
    code = (
        "import sys, search.traces, reindexer.stages\n"
        "with search.traces.span('x'): pass\n"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_stages_of_a_build_are_traced_below_it(spans: InMemorySpanExporter) -> None:
    with traces.span("build"):
        clock = StageClock()

        def encode() -> None:
            with clock.timed("encode"):
                pass

        thread = threading.Thread(target=encode)
        thread.start()
        thread.join()

    found = {span.name: span for span in spans.get_finished_spans()}

    assert _parent_of(found["encode"]) == found["build"].context.span_id
