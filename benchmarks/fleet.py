"""What clients of three serving processes notice of 20 cut-overs and rollbacks.

    python benchmarks/fleet.py [--documents 300] [--clients 2] [--switches 20] [--steady 10]

One PostgreSQL, one stand-in of a Qdrant server (the real one when QDRANT_URL is set), clients at
full rate, one writer. Every answer is scored again from the generation it names. The stand-in does
one request at a time, so what it takes itself is taken off the worst stall.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.report import Report, percentile, read_arguments
from reindexer.cutover import cut_over
from tests.acceptance.clients import Answered, Clients
from tests.acceptance.conftest import text_of
from tests.acceptance.fleet import Fleet, Oracle, Writer
from tests.postgresql_server import postgresql_server
from tests.qdrant_server import QdrantServer
from tests.tiny_models import make_tiny_model

MEMBERS = 3
QUERIES = [text_of(number) for number in range(40)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--switches", type=int, default=20)
    parser.add_argument("--steady", type=float, default=10.0, help="seconds before the switches")
    arguments = read_arguments(parser)
    report = Report(
        f"fleet: {MEMBERS} serving processes, {arguments.clients} clients, "
        f"{arguments.switches} switches, {arguments.documents:,} documents",
        path=arguments.report,
    )
    texts = {f"d{number}": text_of(number) for number in range(arguments.documents)}
    with (
        tempfile.TemporaryDirectory() as temporary,
        QdrantServer() as server,
        postgresql_server() as database_url,
    ):
        folder = Path(temporary)
        fleet = Fleet(
            folder,
            database_url=database_url,
            store_url=os.environ.get("QDRANT_URL", server.url),
        )
        try:
            fleet.put(texts.items())
            for seed in (1, 2):
                model = make_tiny_model(folder / f"model-{seed}", kind="static", seed=seed)
                cut_over(fleet.data, fleet.build(model))
            fleet.start(MEMBERS)
            _measure(report, fleet, server, arguments)
        finally:
            fleet.close()
    return report.exit_code()


def _measure(
    report: Report, fleet: Fleet, server: QdrantServer, arguments: argparse.Namespace
) -> None:
    oracle = Oracle(fleet, QUERIES)
    urls = [member.url for member in fleet.members]
    with (
        Clients(urls, QUERIES, count=arguments.clients) as clients,
        Writer(urls, oracle.versions) as writer,
    ):
        time.sleep(2.0)  # until connections and caches are warm
        server.slowest_ms()
        began = time.monotonic()
        time.sleep(arguments.steady)
        steady_slowest_ms = server.slowest_ms()
        switching = time.monotonic()
        switches = [fleet.switch() for _ in range(arguments.switches)]
        ended = time.monotonic()
        slowest_ms = server.slowest_ms()
    steady = _ms(clients.between(began, switching))
    during = _ms(clients.between(switching, ended))
    failed = len(clients.failures) + len(writer.failures)
    report.figure("failed", failed, digits=0, exactly=0)
    report.figure("mixed", len(oracle.mixed(clients.answers)), digits=0, exactly=0)
    report.figure(
        "answers, steady",
        len(steady) / (switching - began),
        "/s",
        digits=0,
        note=f"worst {max(steady):.0f} ms, {steady_slowest_ms:.0f} ms of it the store at most",
    )
    report.figure("answers, while switching", len(during) / (ended - switching), "/s", digits=0)
    report.figure("p50, while switching", statistics.median(during), "ms")
    report.figure("p99, steady", percentile(steady, 0.99), "ms", note="baseline")
    report.figure("p99, while switching", percentile(during, 0.99), "ms")
    report.figure(
        "p99, while switching / steady",
        percentile(during, 0.99) / percentile(steady, 0.99),
        at_most=1.25,
    )
    report.figure(
        "worst stall beyond the store's own",
        max(during) - slowest_ms,
        "ms",
        digits=0,
        at_most=50,
        note=f"{max(during):.0f} ms, the store {slowest_ms:.0f} ms",
    )
    report.figure(
        "switch until all answer from the next one, worst",
        max(switch.switch_s for switch in switches),
        "s",
        at_most=1.0,
    )


def _ms(answers: Sequence[Answered]) -> list[float]:
    return [1e3 * answer.took_s for answer in answers]


if __name__ == "__main__":
    sys.exit(main())
