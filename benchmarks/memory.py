"""Memory of a build in a small and in a large corpus: it must not follow the corpus.

    python benchmarks/memory.py [--documents 10000 100000] [--rounds 3]

Each figure comes from a process of its own, and is how much its anonymous resident memory (pages
that belong to the process alone; files that are mapped are not in it) rose above what it was with
the model loaded and warm, at the highest of samples 5 ms apart.

The engine is set aside by a collection that takes its time and keeps nothing. So every queue of the
build is full, and what is measured is all that it holds: documents, passages, tokens, vectors and
points on their way. Beside it stand, with no target, the same build into a real collection, whose
indexes are in memory and do follow the corpus, and the whole build process of an upgrade: model,
HNSW index, verification, lexical index, and the files that it maps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.corpus import documents, fill
from benchmarks.report import Report, read_arguments
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.recipes import recipe_for
from reindexer.replay import Replay
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from reindexer.window import window_docs
from search.dense import DenseCollection, FloatMatrix, Point
from search.processes import descendants_of
from search.recipe import Recipe
from search.splitter import Splitter
from tests.tiny_models import make_tiny_model

MODEL = "tiny@1"
DIM = 64
SAMPLE_S = 0.005
WARM_UP = 100  # documents
SINK_S = 0.05  # for every 1,024 points or less


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = read_arguments(parser)
    if arguments.child:
        print(json.dumps(_child(arguments.folder, CHILDREN[arguments.child])))
        return 0
    small, large = arguments.documents
    report = Report(
        f"memory of a build: {small:,} and {large:,} documents",
        ["anonymous resident memory"],
        path=arguments.report,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folders = {size: _corpus(Path(temporary), size) for size in (small, large)}
        own_mib: dict[int, list[float]] = {size: [] for size in folders}
        for _ in range(arguments.rounds):
            for size, folder in folders.items():
                own_mib[size].append(_measure("sink", folder))
        medians = {size: statistics.median(values) for size, values in own_mib.items()}
        for size, values in own_mib.items():
            report.figure(
                f"{size:,} documents, model and engine aside",
                medians[size],
                "MiB",
                digits=1,
                note=f"{min(values):.1f} to {max(values):.1f} MiB",
            )
        report.figure("large / small", medians[large] / medians[small], at_least=0.9, at_most=1.1)
        for size, folder in folders.items():
            report.figure(
                f"{size:,} documents, with the engine", _measure("engine", folder), "MiB", digits=1
            )
        for size, folder in folders.items():
            report.figure(
                f"{size:,} documents, whole process", _whole_process(folder), "MiB", digits=0
            )
    return report.exit_code()


def _corpus(folder: Path, n_documents: int) -> Path:
    data_dir = folder / str(n_documents)
    model = make_tiny_model(folder / f"model-{n_documents}" / "tiny", kind="static", dim=DIM)
    with open_data_directory(Settings(data_dir=data_dir)) as data:
        fill(data.corpus, documents(n_documents))
        data.registry.register(str(model))
    return data_dir


def _measure(child: str, folder: Path) -> float:
    """MiB by which the child's memory rose."""
    command = [sys.executable, __file__, "--child", child, "--folder", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rose: float = json.loads(done.stdout)
    return rose


def _whole_process(folder: Path) -> float:
    """MiB of the processes of a real upgrade at their highest, mapped files included."""
    highest_kib = 0
    with open_data_directory(Settings(data_dir=folder)) as data:

        def look(_build: object) -> None:
            nonlocal highest_kib
            together = sum(_kib("VmHWM", str(pid)) for pid in descendants_of(os.getpid()))
            highest_kib = max(highest_kib, together)

        upgrade(data, MODEL, on_progress=look)
    return highest_kib / 1024


# -- in a process of its own -----------------------------------------------------------------------


def _child(folder: Path, create: Callable[[DataDirectory, Recipe], DenseCollection]) -> float:
    with open_data_directory(Settings(data_dir=folder)) as data:
        encoder = data.load_encoder(MODEL)
        recipe = recipe_for(data, data.registry.resolve(MODEL))
        splitter = Splitter(recipe.splitter, encoder)
        warm_up = [c.document for c in data.corpus.changes(0, WARM_UP) if c.document is not None]
        encoder.encode_tokenized(splitter.split_all(warm_up)[1])
        del warm_up
        collection = create(data, recipe)
        replay = Replay(
            corpus=data.corpus,
            collection=collection,
            encoder=encoder,
            splitter=splitter,
            window=window_docs(data.settings, encoder.device),
            checkpoint=lambda _progress: None,
        )
        gc.collect()
        head = data.corpus.head()
        with _Peak() as peak:
            replay.run(0, head, fresh_until=head)
        collection.close()
    return peak.rose_mib


class _Sink:
    """A collection that takes its time and keeps nothing."""

    def upsert(self, _points: Sequence[Point], _vectors: FloatMatrix) -> None:
        time.sleep(SINK_S)

    def close(self) -> None: ...


def _sink(_data: DataDirectory, _recipe: Recipe) -> Any:
    return _Sink()


def _engine(data: DataDirectory, recipe: Recipe) -> DenseCollection:
    return data.store.create(f"memory-{time.time_ns()}", recipe.collection_spec("docs@0"))


CHILDREN = {"sink": _sink, "engine": _engine}


class _Peak:
    """The highest anonymous resident memory while it is entered, above that at the beginning."""

    def __enter__(self) -> _Peak:
        self._stop = threading.Event()
        self._began = self._highest = _anonymous_kib()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rose_mib(self) -> float:
        return (self._highest - self._began) / 1024

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            self._highest = max(self._highest, _anonymous_kib())


def _anonymous_kib() -> int:
    return _kib("RssAnon", "self")


def _kib(name: str, pid: str) -> int:
    """A figure of a process from Linux; 0 when the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
