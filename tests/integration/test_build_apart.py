"""A build whose collection is filled by a process of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reindexer import build_process
from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.build_process import run_build
from reindexer.errors import BuildFailed
from reindexer.journal import BUILD_LEASE
from search.processes import children_of
from tests.word_directory import WordDirectory
from training import kill_points

N_DOCUMENTS, WINDOW = 300, 64


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[WordDirectory]:
    with WordDirectory(tmp_path / "data", window=WINDOW) as opened:
        yield opened


@pytest.fixture
def name(directory: WordDirectory) -> str:
    """Of a generation that is to be built."""
    directory.put_many(f"d{number}" for number in range(N_DOCUMENTS))
    name = directory.record("word@1").name
    directory.journal.record_build(name, start_head=directory.corpus.head(), docs_total=N_DOCUMENTS)
    return name


@pytest.fixture(autouse=True)
def no_listener() -> Iterator[None]:
    yield
    kill_points.listen(None)


def build(directory: WordDirectory, name: str) -> int:
    with directory.journal.lease(BUILD_LEASE) as lease:
        job = BuildJob(generation=name, token=lease.token, settings={})
        return run_to_its_end(directory, BuildRun(directory, job, apart_from=0), name)


def test_it_is_filled_there_and_its_graph_made_here(directory: WordDirectory, name: str) -> None:
    at: dict[str, set[int]] = {}
    before = set(children_of(os.getpid()))
    kill_points.listen(lambda point: at.setdefault(point, set(children_of(os.getpid())) - before))

    assert build(directory, name) == 0

    assert len(at["upsert.acknowledged"]) == 1
    assert at["index.begin"] == set()
    assert directory.catalog.get(name).state == "ready"


def test_a_build_whose_other_process_is_gone_says_so_and_goes_on(
    directory: WordDirectory, name: str
) -> None:
    before = set(children_of(os.getpid()))
    acknowledged = 0

    def listener(point: str) -> None:
        nonlocal acknowledged
        acknowledged += point == "upsert.acknowledged"
        if acknowledged == 2:
            (other,) = set(children_of(os.getpid())) - before
            os.kill(other, signal.SIGKILL)
            kill_points.listen(None)

    kill_points.listen(listener)
    assert build(directory, name) == 1
    reason = directory.journal.build_of(name).reason or ""
    assert f"had collection {directory.catalog.get(name).collection!r} open is gone" in reason
    assert "signal 9" in reason
    assert 0 < directory.catalog.watermark(name) < N_DOCUMENTS

    assert build(directory, name) == 0
    generation = directory.catalog.get(name)
    collection = directory.store.open(generation.collection, generation.recipe.fingerprint)
    stored = sorted(point.doc_id for page in collection.scan_points() for point in page)
    collection.close()
    assert stored == sorted(f"d{number}" for number in range(N_DOCUMENTS))
    assert directory.journal.build_of(name).encoded <= N_DOCUMENTS + WINDOW


def test_a_build_that_hangs_is_ended_and_says_so(
    directory: WordDirectory, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(build_process, "STILL_S", 0.5)
    monkeypatch.setattr(build_process, "run_module", lambda *_arguments: asleep)
    generation = directory.catalog.get(name)

    with (
        directory.journal.lease(BUILD_LEASE) as lease,
        pytest.raises(BuildFailed, match=r"SIGKILL .*, because it did nothing .* resume`"),
    ):
        run_build(directory, generation, lease, evaluation=None, on_progress=lambda _build: None)

    assert directory.journal.build_of(name).state == "failed"
    assert build(directory, name) == 0
