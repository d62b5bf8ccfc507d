"""What the database knows, as metrics: read when somebody scrapes, and not more often than once a
second, so that scraping cannot hurt."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from search.errors import SearchError

log = logging.getLogger(__name__)

FRESH_S = 1.0
ROLES = ("live", "standby")
JOB_STATES = ("queued", "running", "done", "failed", "cancelled")
SWITCHES = ("cut_over", "rollback")

Status = Mapping[str, Any]


class CatalogMetrics(Collector):
    """The figures of `status --json`. Every process of an installation shows the same ones."""

    def __init__(
        self, status: Callable[[], Status], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._status = status
        self._clock = clock
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._made_at: float | None = None

    def describe(self) -> Iterable[Metric]:
        """The names, without asking the database."""
        return [_database_up(True), *_metrics(_NOTHING)]

    def collect(self) -> Iterable[Metric]:
        with self._lock:  # a second scrape meanwhile waits for what the first one reads
            now = self._clock()
            if self._made_at is None or now - self._made_at >= FRESH_S:
                self._metrics = self._read()
                self._made_at = self._clock()
            return self._metrics

    def _read(self) -> list[Metric]:
        try:
            return [_database_up(True), *_metrics(self._status())]
        except SearchError as error:
            log.warning("metrics without what the database knows: %s", error)
            return [_database_up(False)]


def _database_up(is_up: bool) -> Metric:
    return _gauge("reindexer_database_up", "Whether the database answers.", float(is_up))


def _metrics(status: Status) -> Iterable[Metric]:
    yield _gauge(
        "reindexer_corpus_documents", "Documents of record.", status["corpus"]["documents"]
    )
    yield _gauge(
        "reindexer_corpus_head_seq", "Number of the last change.", status["corpus"]["head_seq"]
    )
    yield from _generations(status)
    yield from _builds(status["builds"])
    jobs = GaugeMetricFamily("reindexer_jobs", "Jobs for workers.", labels=["state"])
    for state in JOB_STATES:
        jobs.add_metric([state], status["jobs"].get(state, 0))
    yield jobs
    switches = CounterMetricFamily(
        "reindexer_cut_overs", "Switches of the live generation.", labels=["kind"]
    )
    for kind in SWITCHES:
        switches.add_metric([kind], status["switches"].get(kind, 0))
    yield switches
    yield _gauge(
        "reindexer_serving_processes", "Processes that answer queries.", len(status["searchers"])
    )


def _generations(status: Status) -> Iterable[Metric]:
    info = InfoMetricFamily("reindexer_live_generation", "What answers come from.")
    live = status["live"]
    if live is not None:
        names = ("generation", "model", "fingerprint")
        info.add_metric([], {name: live[name] for name in names})
    yield info
    labels = ["generation", "role"]
    watermark = GaugeMetricFamily(
        "reindexer_generation_watermark_seq", "Last change that was applied.", labels=labels
    )
    lag_docs = GaugeMetricFamily(
        "reindexer_generation_lag_documents", "Changes still to be applied.", labels=labels
    )
    lag_s = GaugeMetricFamily(
        "reindexer_generation_lag_seconds", "Age of the oldest of them.", labels=labels
    )
    for role in ROLES:
        generation = status[role]
        if generation is not None:
            values = [generation["generation"], role]
            watermark.add_metric(values, generation["watermark"])
            lag_docs.add_metric(values, generation["lag_docs"])
            lag_s.add_metric(values, generation["lag_s"])
    yield from (watermark, lag_docs, lag_s)


def _builds(builds: Iterable[Status]) -> Iterable[Metric]:
    """The newest builds, as many as `status` lists."""
    labels = ["generation"]
    running = GaugeMetricFamily(
        "reindexer_build_running", "1 while it runs, 0 when it does not.", labels=labels
    )
    total = GaugeMetricFamily(
        "reindexer_build_documents", "Documents that it is to apply.", labels=labels
    )
    done = GaugeMetricFamily(
        "reindexer_build_documents_done", "Documents that it has applied.", labels=labels
    )
    rate = GaugeMetricFamily(
        "reindexer_build_documents_per_second", "How fast, on average of its run.", labels=labels
    )
    pace = GaugeMetricFamily(
        "reindexer_build_pace_ratio", "Share of full speed that queries leave it.", labels=labels
    )
    passages = CounterMetricFamily(
        "reindexer_build_encoded_passages", "Passages that it has encoded.", labels=labels
    )
    tokens = CounterMetricFamily(
        "reindexer_build_encoded_tokens", "Tokens of those passages.", labels=labels
    )
    batches = CounterMetricFamily(
        "reindexer_build_encoded_batches", "Batches that they were encoded in.", labels=labels
    )
    stages = CounterMetricFamily(
        "reindexer_build_stage_seconds",
        "Time that each stage took; they overlap.",
        labels=["generation", "stage"],
    )
    for build in builds:
        name = [build["generation"]]
        is_running = build["state"] == "running"
        running.add_metric(name, float(is_running))
        total.add_metric(name, build["docs_total"])
        done.add_metric(name, build["docs_done"])
        passages.add_metric(name, build["encoded"])
        tokens.add_metric(name, build["tokens"])
        batches.add_metric(name, build["batches"])
        if is_running:
            rate.add_metric(name, build["docs_per_s"])
            pace.add_metric(name, 1.0 if build["pace"] is None else build["pace"])
        for stage, seconds in build["stages"].items():
            stages.add_metric([*name, stage], seconds)
    yield from (running, total, done, rate, pace, passages, tokens, batches, stages)


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_text, value=value)


_NOTHING: Status = {
    "corpus": {"documents": 0, "head_seq": 0},
    "live": None,
    "standby": None,
    "builds": (),
    "jobs": {},
    "switches": {},
    "searchers": (),
}
