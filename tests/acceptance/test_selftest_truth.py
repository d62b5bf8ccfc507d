"""What the selftest compares with sees every single fault, wherever it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reindexer.replay import Replay
from reindexer.selftest import verbs
from reindexer.selftest import writes as writing
from reindexer.selftest.digest import differences, take_digest
from reindexer.selftest.texts import document
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search import tables
from search.documents import Change
from search.lexical import LexicalIndex

N_DOCUMENTS = 12


class Installed:
    """docs@2 live, docs@1 standby, each with an analyzer of its own, and the truth about them."""

    def __init__(self, data: WordDirectory, english: WordDirectory) -> None:
        self.data = data
        self.truth = Truth()
        for number in range(N_DOCUMENTS):
            self.truth.put(data.corpus, document(number), "insert")
        for directory, model in ((english, "word@1"), (data, "word@2")):
            verbs.go_live(directory, verbs.build(directory, model))
        # Documents that both generations have not seen, so that both lexical indexes are saved.
        self.truth.put(data.corpus, document(N_DOCUMENTS), "insert")
        verbs.sync(data)

    def analyzer(self, name: str) -> str:
        return self.data.catalog.get(name).recipe.analyzer.id

    def faults(self, **options: Any) -> list[str]:
        return self.truth.faults(self.data, **options)

    def collection(self, name: str) -> Any:
        generation = self.data.catalog.get(name)
        store = self.data.store.open(generation.collection, generation.recipe.fingerprint)
        return closing(store)


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    settings = Settings(data_dir=tmp_path / "data", language="none", device="cpu")
    with (
        WordDirectory(settings) as data,
        WordDirectory(replace(settings, language="english")) as english,
    ):
        yield Installed(data, english)


def test_what_is_right_has_no_faults(installed: Installed) -> None:
    assert installed.faults(in_step=True) == []


def test_other_metadata_beside_a_vector_is_a_fault(installed: Installed) -> None:
    for name, doc_id, lost in (("docs@1", "d3", {}), ("docs@2", "d7", {"group": "g5"})):
        with installed.collection(name) as collection:
            (point,), vectors = collection.stored([doc_id])
            metadata = {**point.metadata, **lost} if lost else {}
            collection.upsert([replace(point, metadata=metadata)], vectors)

    faults = installed.faults()

    assert sorted(fault.partition(";")[0] for fault in faults) == [
        "live docs@2: d7#0 is stale or wrong",
        "standby docs@1: d3#0 is stale or wrong",
    ]


def test_writes_that_lose_their_metadata_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    point = Replay._point
    monkeypatch.setattr(Replay, "_point", lambda *at: replace(point(*at), metadata={}))

    proof = writing.prove_writes(operations=80)

    (broken,) = [promise for promise in proof.promises if not (promise.kept or promise.of_speed)]
    assert broken.name == "no write lost, stale or resurrected"
    assert any("is stale or wrong" in line for line in broken.detail)


@pytest.mark.parametrize("name", ["docs@1", "docs@2"])
def test_a_change_that_a_lexical_index_dropped_is_a_fault(
    installed: Installed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    analyzer, apply = installed.analyzer(name), LexicalIndex.apply

    def careless(index: LexicalIndex, changes: Sequence[Change]) -> None:
        is_it = index._recipe.id == analyzer
        apply(index, [item for item in changes if not (is_it and item.doc_id == "d3")])

    for number in (3, 4):
        installed.truth.put(installed.data.corpus, document(number, 2, group=2), "edit")
    monkeypatch.setattr(LexicalIndex, "apply", careless)
    verbs.sync(installed.data)
    monkeypatch.undo()

    faults = installed.faults(in_step=True)
    assert [fault.partition(";")[0] for fault in faults] == [
        f"lexical index {analyzer}: d3 is stale or wrong",
        f"lexical index {analyzer}: d3 is not found by its text and metadata",
    ]


def test_a_lexical_index_that_is_behind_is_a_fault_once_all_is_said_to_be_visible(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyzer, save = installed.analyzer("docs@1"), LexicalIndex.save

    def forgetful(index: LexicalIndex) -> None:
        if index._recipe.id != analyzer:
            save(index)

    installed.truth.put(installed.data.corpus, document(3, version=2), "edit")
    monkeypatch.setattr(LexicalIndex, "save", forgetful)
    verbs.sync(installed.data)

    assert installed.faults() == []  # as after a kill: the next process brings it on
    assert installed.faults(in_step=True) == [f"lexical index {analyzer}: 1 changes behind"]


def test_lexical_indexes_that_differ_have_other_digests(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, scan = take_digest(installed.data), LexicalIndex.scan
    for analyzer in map(installed.analyzer, ("docs@1", "docs@2")):

        def without_d3(
            index: LexicalIndex, analyzer: str = analyzer
        ) -> Iterator[tuple[str, int, str]]:
            is_it = index._recipe.id == analyzer
            return (row for row in scan(index) if not (is_it and row[0] == "d3"))

        monkeypatch.setattr(LexicalIndex, "scan", without_d3)
        (different,) = differences(take_digest(installed.data), before)
        assert different.startswith(f"lexical index {analyzer}: 1 missing, such as d3")


def test_a_row_of_the_corpus_that_is_not_what_was_written_is_a_fault(installed: Installed) -> None:
    rows = tables.documents
    with installed.data.database.write() as connection:
        connection.execute(sa.update(rows).where(rows.c.doc_id == "d3").values(text="other"))
        connection.execute(sa.delete(rows).where(rows.c.doc_id == "d4"))

    faults = installed.faults()

    assert faults[0].startswith("corpus: d3 is stale or wrong")
    assert faults[1].startswith("corpus: d4 is missing")


def test_a_fault_of_the_standby_alone_is_a_fault(installed: Installed) -> None:
    with installed.collection("docs@1") as collection:
        collection.remove_older({"d3": 10**9})
        points, vectors = collection.stored(["d4", "d5"])
        collection.upsert(points, vectors[::-1].copy())

    faults = installed.faults()

    assert [fault.partition(";")[0] for fault in faults] == [
        "standby docs@1: d3#0 is missing",
        "standby docs@1: the vector of d4#0 is not its text's",
        "standby docs@1: the vector of d5#0 is not its text's",
    ]
