"""A large corpus in the embedded store: how fast it is built, what it takes, how soon it answers.

    python benchmarks/large.py [--documents 1000000] [--dim 128] [--keep DIR]

A model of token vectors encodes the made-up text, so what is measured is everything around a model.
The build is the child process that `reindexer upgrade` starts. Its speed is that of the replay
alone; what the HNSW graph and the verification take is told beside it. Queries are asked of
`reindexer serve`, by one client over HTTP. A restart is that service from the start of Python to
its first answer.

The target of 5 ms says nothing of HTTP. The search itself is what the service has in `took_ms`.

--keep builds into a folder, or uses what an earlier run has built there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.corpus import documents, fill, queries, static_model
from benchmarks.report import Report, percentile, read_arguments, seconds
from benchmarks.service import Asker, serving
from reindexer.data_directory import open_data_directory
from reindexer.journal import Build
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from search.processes import children_of, descendants_of

N_WARM, N_QUERIES = 100, 500
RESTARTS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--keep", type=Path, help="folder for what is built")
    arguments = read_arguments(parser)
    report = Report(
        f"large: {arguments.documents:,} documents, {arguments.dim} dimensions",
        path=arguments.report,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        settings = Settings(data_dir=folder / "data")
        _build(report, folder, settings, arguments.documents, arguments.dim)
        _search(report, settings)
        _restart(report, settings)
        _nothing_to_do(report, settings)
    return report.exit_code()


def _build(report: Report, folder: Path, settings: Settings, n_documents: int, dim: int) -> None:
    model = folder / "model"
    if not model.exists():
        static_model(model, dim)
    with open_data_directory(settings) as data:
        if data.corpus.head() < n_documents:
            ingest_s = seconds(lambda: fill(data.corpus, documents(n_documents)))
            rate = n_documents / ingest_s
            report.figure("ingest, making the text included", rate, "documents/s", digits=0)
        if data.catalog.live() is not None:
            return
        watch = _Watch()
        upgrade(data, str(model), on_progress=watch.look)
    report.figure("build, replay alone", watch.rate, "passages/s", at_least=5_000, digits=0,
                  note=watch.shares)  # fmt: skip
    report.figure("graph, verification, lexical index, cut-over", watch.rest_s, "s", digits=0)
    report.figure("resident memory of a build's processes", watch.resident_gb, "GB", at_most=2.5)
    report.figure("  the same with the graph", watch.resident_all_gb, "GB")


class _Watch:
    """A build from the outside: its row in the journal, and the memory of its processes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._replayed_at: float | None = None
        self._build: Build | None = None
        self._resident_kib = self._all_kib = 0

    def look(self, build: Build) -> None:
        self._build = build
        together = sum(_resident_kib(pid) for pid in descendants_of(os.getpid()))
        self._all_kib = max(self._all_kib, together)
        if build.docs_done < build.docs_total:
            self._resident_kib = self._all_kib
        elif self._replayed_at is None:
            self._replayed_at = time.monotonic()

    @property
    def rate(self) -> float:
        """Passages a second, by the build's own clock of its stages."""
        assert self._build is not None
        return self._build.encoded / self._build.busy_s

    @property
    def shares(self) -> str:
        assert self._build is not None
        stages = self._build.stages
        total = sum(stages.values())
        return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in stages.items())

    @property
    def rest_s(self) -> float:
        return time.monotonic() - (self._replayed_at or self._began)

    @property
    def resident_gb(self) -> float:
        return self._resident_kib / 1024**2

    @property
    def resident_all_gb(self) -> float:
        return self._all_kib / 1024**2


def _resident_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) if found else 0


def _search(report: Report, settings: Settings) -> None:
    taken_ms: list[float] = []
    answers: list[dict[str, Any]] = []
    with serving(settings) as (url, pid), contextlib.closing(Asker(url)) as client:
        for text in queries(N_WARM + N_QUERIES):
            began = time.perf_counter()
            answers.append(client.ask(text))
            taken_ms.append(1e3 * (time.perf_counter() - began))
        processes = {"the service": pid}
        processes |= {f"the collection's process {child}": child for child in children_of(pid)}
        resident = {what: _resident_kib(of) / 1024**2 for what, of in processes.items()}
    taken_ms, answers = taken_ms[N_WARM:], answers[N_WARM:]
    parts = ", ".join(
        f"{part} {statistics.median(answer['took_ms'][part] for answer in answers):.2f}"
        for part in ("encode", "lexical", "dense", "fuse", "hydrate", "total")
    )
    report.figure(
        "hybrid over HTTP, p50", statistics.median(taken_ms), "ms", at_most=5,
        note=f"p99 {percentile(taken_ms, 0.99):.1f} ms; in the service {parts}",
    )  # fmt: skip
    searching_ms = statistics.median(answer["took_ms"]["total"] for answer in answers)
    report.figure("  of it the search itself, p50", searching_ms, "ms", at_most=5)
    for what, gb in resident.items():
        report.figure(f"resident memory of {what}", gb, "GB")


def _restart(report: Report, settings: Settings) -> None:
    taken_s = []
    for _ in range(RESTARTS):
        began = time.monotonic()
        with serving(settings) as (url, _pid):
            with contextlib.closing(Asker(url)) as client:
                client.ask("first")
            taken_s.append(time.monotonic() - began)
    note = ", ".join(f"{taken:.1f}" for taken in taken_s)
    report.figure("restart to first answer", statistics.median(taken_s), "s", at_most=3, note=note)


def _nothing_to_do(report: Report, settings: Settings) -> None:
    command = [sys.executable, "-m", "reindexer", "--data-dir", str(settings.data_dir)]
    taken_s: list[float] = []
    encoded: Sequence[object] = ()
    for _ in range(RESTARTS):
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--quiet", "sync", "--json"], check=True, capture_output=True, text=True
        )
        taken_s.append(time.monotonic() - began)
        encoded = [*encoded, json.loads(done.stdout)["encoded"]]
    report.figure(
        "`reindexer sync`, nothing to do", statistics.median(taken_s), "s", at_most=1,
        note=f"encoded {encoded}",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
