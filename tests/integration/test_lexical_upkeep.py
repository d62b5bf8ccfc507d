"""A process that replays much leaves the lexical index compacted: a service would have to do it
while it answers."""

from __future__ import annotations

from pathlib import Path

from reindexer.data_directory import DataDirectory
from reindexer.selftest.static_model import write_static_model
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from search.documents import Document
from search.lexical import MIN_PENDING
from search.recipe import AnalyzerRecipe
from tests.filled_directory import sync

MANY = MIN_PENDING + 500  # due, and not so many that they are compacted while they are applied


def put(data: DataDirectory, text: str) -> None:
    data.corpus.put([Document.of(doc_id=f"d{n}", text=f"{text} w{n}") for n in range(MANY)])


def pending(data: DataDirectory, analyzer: AnalyzerRecipe) -> int:
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
