"""One foreign vector in 100,000: how long the doctor takes to find it in a whole installation.

    python benchmarks/doctor.py [--documents 100000] [--dim 384]

The installation is a real one: documents, a registered model, a live generation with its graph and
its lexical index. One vector of it is exchanged for another, with everything else about it right.
Measured is the verb, from the start of Python to its exit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.corpus import doc_id, documents, fill, static_model, vectors
from benchmarks.report import Report, read_arguments
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.settings import Settings
from reindexer.upgrade import upgrade

MAX_S = 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    arguments = read_arguments(parser)
    n, dim = arguments.documents, arguments.dim
    report = Report(f"doctor: {n:,} documents, {dim} dimensions", path=arguments.report)
    with tempfile.TemporaryDirectory() as temporary:
        model, folder = static_model(Path(temporary) / "model", dim), Path(temporary) / "data"
        with open_data_directory(Settings(data_dir=folder)) as data:
            fill(data.corpus, documents(n))
            upgrade(data, str(model))
            healthy, healthy_s = _doctor(folder)
            _exchange_one(data, doc_id(n // 2), dim)
        problems, found_s = _doctor(folder)
    named = [text for text in problems if f"{n - 1:,} of {n:,}" in text and doc_id(n // 2) in text]
    report.figure("problems of a healthy installation", len(healthy), exactly=0, digits=0)
    report.figure("  looked through in", healthy_s, "s", at_most=MAX_S)
    report.figure(f"foreign vectors found, 1 of {n:,}", len(named), exactly=1, digits=0)
    report.figure("  found in", found_s, "s", at_most=MAX_S)
    return report.exit_code()


def _exchange_one(data: DataDirectory, document: str, dim: int) -> None:
    live = data.catalog.live()
    assert live is not None
    collection = data.store.open(live.collection, live.recipe.fingerprint)
    points, _ = collection.stored([document])
    collection.upsert(points[:1], vectors(1, dim))
    collection.close()


def _doctor(folder: Path) -> tuple[list[str], float]:
    """What it calls a problem, and in how many seconds."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "reindexer", "--data-dir", str(folder), "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
    )
    seconds = time.perf_counter() - began
    findings: list[dict[str, Any]] = json.loads(done.stdout)["findings"]
    return [finding["found"] for finding in findings if finding["state"] == "problem"], seconds


if __name__ == "__main__":
    sys.exit(main())
