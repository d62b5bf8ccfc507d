"""A process that replays much leaves the lexical index compacted: a service would have to do it
while it answers."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from reindexer.data_directory import DataDirectory
from reindexer.selftest.static_model import write_static_model
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from search.documents import Document
from search.lexical import MIN_PENDING
from search.processes import run_module
from search.recipe import AnalyzerRecipe
from tests.filled_directory import sync
from training.kill_points import ENVIRONMENT_VARIABLE

MANY = MIN_PENDING + 500  # due, and not so many that they are compacted while they are applied


def put(data: DataDirectory, text: str) -> None:
    data.corpus.put([Document.of(doc_id=f"d{n}", text=f"{text} w{n}") for n in range(MANY)])


def pending(data: DataDirectory, analyzer: AnalyzerRecipe) -> int:
    """On disk."""
    index = data.open_lexical(analyzer, writable=False)
    assert index.watermark == data.corpus.head()
    return index.pending


def test_a_build_and_a_sync_leave_no_compaction_to_a_service(tmp_path: Path) -> None:
    write_static_model(tmp_path / "static", seed=0)
    with DataDirectory(Settings(data_dir=tmp_path / "data", device="cpu")) as data:
        put(data, "w1")
        analyzer = upgrade(data, str(tmp_path / "static")).generation.recipe.analyzer
        assert pending(data, analyzer) == 0

        put(data, "w2")
        assert sync(data) == MANY
        assert pending(data, analyzer) == 0


def test_a_sync_that_was_killed_before_the_lexical_index_was_saved_is_made_good_by_the_next(
    tmp_path: Path,
) -> None:
    write_static_model(tmp_path / "static", seed=0)
    with DataDirectory(Settings(data_dir=tmp_path / "data", device="cpu")) as data:
        put(data, "w1")
        analyzer = upgrade(data, str(tmp_path / "static")).generation.recipe.analyzer
        put(data, "w2")
        killed = subprocess.run(
            run_module("reindexer", "--data-dir", str(data.path), "sync"),
            env={**os.environ, ENVIRONMENT_VARIABLE: "lexical.arrays"},
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL
        behind = data.open_lexical(analyzer, writable=False)
        assert behind.watermark < data.corpus.head()

        assert sync(data) == 0
        assert pending(data, analyzer) == 0
