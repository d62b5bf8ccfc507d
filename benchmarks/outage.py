"""A build whose Qdrant server goes away in the middle, and comes back.

    python benchmarks/outage.py [--seconds 60] [--documents 4000]

The server is a stand-in in a process of its own; it cuts every connection and refuses new ones. The
build is the real one, in a child process, and nobody helps it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.corpus import documents, fill
from benchmarks.report import Report, read_arguments, seconds
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from tests.qdrant_server import QdrantServer
from tests.tiny_models import make_tiny_model

WRITES = "PUT .*/points$"
FIRST_WRITES = 3  # before the server goes away


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--documents", type=int, default=4_000)
    arguments = read_arguments(parser)
    report = Report(
        f"outage: a server gone for {arguments.seconds:g} s, {arguments.documents:,} documents",
        path=arguments.report,
    )
    with tempfile.TemporaryDirectory() as temporary, QdrantServer() as server:
        model = make_tiny_model(Path(temporary) / "model", kind="static")
        settings = Settings(
            data_dir=Path(temporary) / "data",
            store_kind="qdrant",
            store_url=server.url,
            window=256,
        )
        with open_data_directory(settings) as data:
            fill(data.corpus, documents(arguments.documents))
            _measure(report, data, server, str(model), arguments.seconds)
    return report.exit_code()


def _measure(
    report: Report, data: DataDirectory, server: QdrantServer, model: str, outage_s: float
) -> None:
    outage = Outage(server, outage_s)
    outage.start()
    took_s = seconds(lambda: upgrade(data, model))
    outage.join()
    live = data.catalog.live()
    assert live is not None
    collection = data.store.open(live.collection, live.recipe.fingerprint)
    stored = Counter(
        (point.doc_id, point.number) for page in collection.scan_points() for point in page
    )
    found = {doc_id for doc_id, _ in stored}
    changes = data.corpus.changes(0, data.corpus.head())
    report.figure(
        "documents lost", sum(c.doc_id not in found for c in changes), digits=0, exactly=0
    )
    report.figure("passages stored twice", sum(n - 1 for n in stored.values()), digits=0, exactly=0)
    report.figure("the build in all", took_s, "s", digits=1)
    report.figure(
        "from the server's return to the next write", outage.back_s, "s", digits=1, at_most=10
    )


class Outage(threading.Thread):
    """Lets the server go away in the middle of the writing."""

    def __init__(self, server: QdrantServer, seconds: float) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._seconds = seconds
        self.back_s = float("inf")

    def run(self) -> None:
        self._wait_for_writes(FIRST_WRITES)
        self._server.refuse(self._seconds)
        time.sleep(self._seconds)
        back = time.monotonic()
        self._wait_for_writes(self._server.requests(WRITES) + 1)
        self.back_s = time.monotonic() - back

    def _wait_for_writes(self, count: int) -> None:
        while self._server.requests(WRITES) < count:
            time.sleep(0.005)


if __name__ == "__main__":
    sys.exit(main())
