"""What one process counts and times, for Prometheus.

Each process has a registry of its own. What the database knows (lag, builds, jobs) is not counted
here a second time: it is read when somebody scrapes. docs/metrics.md describes every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from search.catalog_metrics import CatalogMetrics
from search.query_times import QueryTimes

if TYPE_CHECKING:
    from threading import Thread
    from wsgiref.simple_server import WSGIServer

    from search.answer import Answer

Rejection = Literal["overload", "rate", "size", "deadline", "drain"]

# Seconds. Half a millisecond is a leg in memory, ten seconds a model on a busy machine.
LATENCY_BUCKETS = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5,
    1.0, 2.5, 10.0,
)  # fmt: skip
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
NO_ROUTE = "none"  # of a request for a path that does not exist; the path itself could be anything


class Telemetry:
    """The metrics of one process. Safe to use from several threads."""

    def __init__(
        self, status: Callable[[], Mapping[str, Any]] | None = None, *, is_open: bool = False
    ) -> None:
        """status: reads what `status --json` prints; asked when somebody scrapes, once a second at
        most. is_open: whether /metrics needs no key, also where everything else does."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody looks at them
        self.status = status
        self.is_open = is_open
        self.query_times = QueryTimes()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        if status is not None:
            registry.register(CatalogMetrics(status))
        self._query_seconds = Histogram(
            "reindexer_query_duration_seconds",
            "Time that a part of a query took; leg total is all of it.",
            ["leg", "mode"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._degraded = Counter(
            "reindexer_degraded_answers_total",
            "Answers that had to do without a part.",
            ["part"],
            registry=registry,
        )
        self._requests = Counter(
            "reindexer_http_requests_total",
            "HTTP requests that were answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "reindexer_http_request_duration_seconds",
            "Time from a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._rejected = Counter(
            "reindexer_http_requests_rejected_total",
            "HTTP requests that were refused for load, size or time.",
            ["reason"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "reindexer_http_requests_in_flight",
            "HTTP requests that are being answered.",
            registry=registry,
        )
        self.queries_waiting = Gauge(
            "reindexer_queries_waiting",
            "Queries that wait for their turn to be encoded.",
            registry=registry,
        )
        self._query_batch = Histogram(
            "reindexer_query_batch_size",
            "Queries that were encoded together.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._encoded_passages = Counter(
            "reindexer_encoded_passages_total",
            "Passages that this process encoded to keep generations in step.",
            registry=registry,
        )
        self._encoded_tokens = Counter(
            "reindexer_encoded_tokens_total",
            "Tokens of those passages.",
            registry=registry,
        )
        self._sync_errors = Counter(
            "reindexer_sync_errors_total",
            "Times that a generation could not be brought in step.",
            ["generation"],
            registry=registry,
        )
        self._legs: dict[tuple[str, str], Histogram] = {}
        self._routes: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def answered(self, answer: Answer) -> None:
        """A query was answered."""
        for leg, took_ms in answer.took_ms._asdict().items():
            if took_ms > 0.0:
                self._leg(leg, answer.mode).observe(took_ms / 1e3)
        for part in answer.degraded:
            self._degraded.labels(part).inc()

    def _leg(self, leg: str, mode: str) -> Histogram:
        found = self._legs.get((leg, mode))  # `labels` would take a lock and five times as long
        if found is None:
            found = self._legs[leg, mode] = self._query_seconds.labels(leg, mode)
        return found

    def responded(self, method: str, route: str, status: int, took_s: float) -> None:
        """An HTTP request was answered."""
        found = self._routes.get((method, route, status))
        if found is None:
            found = self._routes[method, route, status] = (
                self._requests.labels(method, route, str(status)),
                self._request_seconds.labels(method, route),
            )
        counter, histogram = found
        counter.inc()
        histogram.observe(took_s)

    def rejected(self, reason: Rejection) -> None:
        self._rejected.labels(reason).inc()

    def encoded_together(self, n_queries: int) -> None:
        self._query_batch.observe(n_queries)

    def encoded(self, passages: int, tokens: int) -> None:
        """By this process, while it brought a generation in step."""
        self._encoded_passages.inc(passages)
        self._encoded_tokens.inc(tokens)

    def sync_failed(self, generation: str) -> None:
        self._sync_errors.labels(generation).inc()


class MetricsServer:
    """Answers GET /metrics in a thread of its own, for processes that have no API."""

    def __init__(self, server: WSGIServer, thread: Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = int(server.server_port)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def start_metrics_server(
    port: int, telemetry: Telemetry, *, host: str = "127.0.0.1"
) -> MetricsServer:
    """port 0: any that is free. Raises OSError when it is taken."""
    return MetricsServer(*start_http_server(port, addr=host, registry=telemetry.registry))
