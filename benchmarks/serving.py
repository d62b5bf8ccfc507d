"""Hybrid search over HTTP: how many queries, how soon, and what a build and writes do to them.

    python benchmarks/serving.py [--documents 100000] [--clients 1 2 4] [--seconds 10] [--keep DIR]
        [--p99-target 5]

One `reindexer serve` on the embedded store, a model of token vectors, clients that are processes of
their own and keep their connections. The baseline of HTTP is the same search called in this
process, which has a copy of the generation open, by turns: 100 queries here, the same 100 over
HTTP.

The governor keeps a build to `search.p99_target_ms`, or to 1.3 times what queries take without it
where that is more. The default of 50 ms would leave it nothing to do here.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import httpx

from benchmarks.corpus import documents, fill, queries
from benchmarks.report import Report, percentile, queries_by_turns, read_arguments
from benchmarks.service import Asker, serving
from reindexer.data_directory import open_data_directory
from reindexer.live import opened_here
from reindexer.recipes import find_model
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from search.searcher import SearchRequest
from tests.acceptance.clients import Answered, Clients
from tests.tiny_models import make_tiny_model

DIM = 256  # of usual models of token vectors
N_QUERIES = 1_000
ROUNDS = 3  # over all queries, in a process and over HTTP
WARM_UP_S = 1.0
PACED_CLIENTS, PAUSE_S = 2, 0.02  # a service that is busy, and not full
WRITES, WRITE_PAUSE_S = 100, 0.05
BUILD_QUERIES = 1_000  # at least, during the build; it is given up then


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--p99-target", type=float, default=5.0, help="in ms, of the governor")
    parser.add_argument("--keep", type=Path, help="folder for what is built")
    arguments = read_arguments(parser)
    report = Report(
        f"serving: {arguments.documents:,} documents, {DIM} dimensions, k 10", path=arguments.report
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        settings = Settings(data_dir=folder / "data")
        second = _prepare(folder, settings, arguments.documents)
        texts = queries(N_QUERIES)
        copy = Settings(data_dir=Path(temporary) / "copy")
        shutil.copytree(settings.data_dir, copy.data_dir)
        target = str(arguments.p99_target)
        with serving(settings, REINDEXER_SEARCH_P99_TARGET_MS=target) as (url, _):
            _compare_http(report, url, copy, texts)
            shutil.rmtree(copy.data_dir)
            _throughput(report, url, texts, arguments.clients, arguments.seconds)
            _visibility(report, url, texts)
            _build(report, url, texts, second, arguments.seconds)
    return report.exit_code()


def _prepare(folder: Path, settings: Settings, n_documents: int) -> str:
    """A live generation of the first model; returns the second model, which has none."""
    models = [folder / f"model-{seed}" for seed in (1, 2)]
    for seed, path in enumerate(models, 1):
        if not path.exists():
            make_tiny_model(path, kind="static", seed=seed, dim=DIM)
    with open_data_directory(settings) as data:
        if data.corpus.head() < n_documents:
            fill(data.corpus, documents(n_documents))
        if data.catalog.live() is None:
            upgrade(data, str(models[0]))
        return str(find_model(data, str(models[1])))


def _asked(
    url: str, texts: Sequence[str], count: int, for_s: float, *, pause_s: float = 0.0
) -> list[Answered]:
    """What so many clients got in the seconds after they were warm."""
    with _clients(url, texts, count, pause_s) as clients:
        time.sleep(WARM_UP_S)
        began = time.monotonic()
        time.sleep(for_s)
        ended = time.monotonic()
    assert not clients.failures, clients.failures[:3]
    return [answer for answer in clients.answers if began <= answer.at and answer.until <= ended]


def _clients(url: str, texts: Sequence[str], count: int, pause_s: float = 0.0) -> Clients:
    return Clients([url], texts, count=count, pause_s=pause_s, modes=["hybrid"], explain=False)


def _taken_ms(answers: Sequence[Answered]) -> list[float]:
    return [answer.took_s * 1e3 for answer in answers]


# -- the measurements ------------------------------------------------------------------------------


def _compare_http(report: Report, url: str, copy: Settings, texts: Sequence[str]) -> None:
    """What HTTP adds for one client: the same queries in a process and over a connection."""
    with open_data_directory(copy) as data:
        live = data.catalog.live()
        assert live is not None
        with opened_here(data, live.name) as opened, contextlib.closing(Asker(url)) as client:

            def in_process(text: str) -> None:
                opened.searcher.search(SearchRequest(query=text))

            here_ms, served_ms = queries_by_turns([in_process, client.ask], list(texts) * ROUNDS)
    in_process_p50, served_p50 = statistics.median(here_ms), statistics.median(served_ms)
    report.figure("hybrid in process, p50", in_process_p50, "ms", note="baseline")
    report.figure("hybrid over HTTP, one client, p50", served_p50, "ms")
    report.figure("HTTP adds, p50", served_p50 - in_process_p50, "ms", at_most=1.5)


def _throughput(
    report: Report, url: str, texts: Sequence[str], counts: Sequence[int], for_s: float
) -> None:
    best = 0.0
    for count in counts:
        taken_ms = _taken_ms(_asked(url, texts, count, for_s))
        rate, p99_ms = len(taken_ms) / for_s, percentile(taken_ms, 0.99)
        note = f"p50 {statistics.median(taken_ms):.1f} ms, p99 {p99_ms:.1f} ms"
        report.figure(f"{count} clients at full rate", rate, "queries/s", digits=0, note=note)
        if p99_ms <= 25:
            best = max(best, rate)
    report.figure("most at p99 ≤ 25 ms", best, "queries/s", digits=0, at_least=300)


def _visibility(report: Report, url: str, texts: Sequence[str]) -> None:
    """From the PUT until both legs of a hybrid search have the document."""
    seen_s = []
    with (
        _clients(url, texts, PACED_CLIENTS, PAUSE_S) as clients,
        httpx.Client(base_url=url, timeout=30) as http,
    ):
        for number in range(WRITES):
            word = f"novel{number}word{time.time_ns()}"
            document = {"doc_id": f"new-{number}", "text": f"{word} {texts[number]}"}
            began = time.monotonic()
            http.put("/documents", json={"documents": [document]}).raise_for_status()
            while not _is_visible(http, document["text"], document["doc_id"]):
                time.sleep(0.005)
            seen_s.append(time.monotonic() - began)
            time.sleep(WRITE_PAUSE_S)
    assert not clients.failures, clients.failures[:3]
    note = f"p50 {statistics.median(seen_s):.2f} s, {WRITES} writes while queries run"
    report.figure("from PUT to both legs, p99", percentile(seen_s, 0.99), "s", at_most=1, note=note)


def _is_visible(http: httpx.Client, text: str, doc_id: str) -> bool:
    answer = http.post("/search", json={"query": text, "explain": True}).raise_for_status().json()
    return any(
        hit["doc_id"] == doc_id and None not in (hit["lexical_rank"], hit["dense_rank"])
        for hit in answer["hits"]
    )


def _build(report: Report, url: str, texts: Sequence[str], model: str, for_s: float) -> None:
    """The same paced load with and without a build, in turn: the build is paused in between."""
    idle_ms: list[float] = []
    busy_ms: list[float] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        body = {"model": model, "cut_over": False}
        build_id = http.post("/builds", json=body).raise_for_status().json()["build_id"]
        while len(busy_ms) < BUILD_QUERIES and _is_encoding(http, build_id):
            paced = _asked(url, texts, PACED_CLIENTS, for_s / 2, pause_s=PAUSE_S)
            if http.post(f"/builds/{build_id}/pause").status_code == 409:
                break  # it ended meanwhile
            busy_ms += _taken_ms(paced)
            _wait_until_paused(http, build_id)
            paced = _asked(url, texts, PACED_CLIENTS, for_s / 2, pause_s=PAUSE_S)
            idle_ms += _taken_ms(paced)
            http.post(f"/builds/{build_id}/resume")
        http.post(f"/builds/{build_id}/cancel")
    if not busy_ms:
        raise SystemExit("the build ended before it could be measured; use more --documents")
    idle, busy = percentile(idle_ms, 0.99), percentile(busy_ms, 0.99)
    report.figure("p99 without a build", idle, "ms", note="baseline")
    report.figure("p99 during a build", busy, "ms", note=f"{len(busy_ms):,} queries")
    report.figure("p99 during / without a build", busy / idle, at_most=1.3)


def _is_encoding(http: httpx.Client, build_id: int) -> bool:
    """Waits until it gets ahead; False when it has ended."""
    before = None
    while True:
        build = http.get(f"/builds/{build_id}").raise_for_status().json()
        if build["state"] in ("done", "failed", "cancelled"):
            return False
        if build["state"] == "running" and before is not None and build["docs_done"] > before:
            return True
        before = build["docs_done"]
        time.sleep(0.2)


def _wait_until_paused(http: httpx.Client, build_id: int) -> None:
    while http.get(f"/builds/{build_id}").json()["state"] in ("running", "queued"):
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
