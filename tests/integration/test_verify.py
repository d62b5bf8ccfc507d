"""The structural gate: a whole generation passes, and each planted fault is found and named."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from reindexer.opening import Opener, sync_lexical
from reindexer.verify import Check, Verification, verify_structure
from search.corpus import Corpus, Identity
from search.dense import DenseCollection, DenseHit, FloatMatrix, Layout, Point
from search.lexical import LexicalIndex
from search.serving import OpenGeneration
from search.splitter import Splitter
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder

CHECKS = {
    "fingerprint", "documents", "content", "passages", "vectors", "marks", "sample", "filters",
    "metadata", "index", "metric", "recall", "lexical",
}  # fmt: skip
LONG = "one two three four five six seven eight nine ten " * 8  # three passages or more
SHORT_IDS = [f"d{number}" for number in range(30)]


class Built:
    """A generation that was just built, open, and the corpus it was built from."""

    def __init__(self, directory: WordDirectory) -> None:
        self.directory = directory
        self.corpus = directory.corpus
        directory.put_many(SHORT_IDS)
        directory.put("long", LONG)
        directory.put("gone", "was here")
        self.corpus.delete(["gone"])
        self.name = directory.build("word@1")
        self.opened = Opener(directory, writable=True).open(self.name)
        self.collection = self.opened.collection

    def verify(
        self, opened: OpenGeneration | None = None, *, corpus: Corpus | None = None
    ) -> dict[str, Check]:
        watermark = self.directory.catalog.watermark(self.name)
        checks = verify_structure(corpus or self.corpus, opened or self.opened, watermark=watermark)
        assert {check.name for check in checks} == CHECKS
        return {check.name: check for check in checks}

    def refused(self, opened: OpenGeneration | None = None) -> dict[str, Check]:
        return {name: check for name, check in self.verify(opened).items() if not check.passed}

    def with_collection(self, collection: object) -> OpenGeneration:
        return dataclasses.replace(self.opened, collection=cast(DenseCollection, collection))

    def replace_vectors(self, doc_ids: Sequence[str], vectors: FloatMatrix) -> None:
        points, _ = self.collection.stored(doc_ids)
        self.collection.upsert(points, vectors)


@pytest.fixture
def built(directory: WordDirectory) -> Iterator[Built]:
    built = Built(directory)
    yield built
    built.opened.close()


def test_a_whole_generation_passes(built: Built) -> None:
    checks = built.verify()

    assert [check for check in checks.values() if not check.passed] == []
    assert checks["documents"].found.startswith("31 documents, 0 missing, 0 that the corpus")
    assert "over 3" in checks["sample"].found


def test_an_empty_corpus_passes(directory: WordDirectory) -> None:
    name = directory.build("word@1")
    opened = Opener(directory, writable=True).open(name)

    checks = verify_structure(directory.corpus, opened, watermark=0)

    opened.close()
    assert [check for check in checks if not check.passed] == []


def test_a_missing_document_is_refused(built: Built) -> None:
    built.collection.remove_older({"d7": 10**9})

    refused = built.refused()

    assert set(refused) == {"documents"}
    assert "30 documents, 1 missing, 0 that" in refused["documents"].found
    assert "'d7'" in refused["documents"].detail


def test_an_extra_document_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["d7"])
    built.collection.upsert([dataclasses.replace(points[0], doc_id="ghost")], vectors)

    refused = built.refused()

    assert set(refused) == {"documents"}
    assert "0 missing, 1 that the corpus does not have" in refused["documents"].found
    assert "'ghost'" in refused["documents"].detail


def test_a_deleted_document_that_is_still_there_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["d7"])
    built.collection.upsert([dataclasses.replace(points[0], doc_id="gone")], vectors)

    assert set(built.refused()) == {"documents"}


def test_stale_content_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["d7"])
    built.collection.upsert([dataclasses.replace(points[0], content_hash="0" * 32)], vectors)

    refused = built.refused()

    assert set(refused) == {"content"}
    assert "1 documents in another version" in refused["content"].found
    assert "'d7'" in refused["content"].detail


def test_a_change_that_the_watermark_passed_over_is_refused(built: Built) -> None:
    """The write was lost, the watermark moved all the same."""
    seq = built.directory.put("d7", "edited")
    with built.directory.journal.lease("sync") as lease:
        built.directory.catalog.advance(built.name, seq, lease="sync", token=lease.token)
    sync_lexical(built.corpus, built.opened.lexical)

    refused = built.refused()

    assert set(refused) == {"content"}
    assert "'d7'" in refused["content"].detail


def test_a_missing_passage_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["long"])
    assert len(points) >= 3
    built.collection.remove_older({"long": 10**9})
    built.collection.upsert(points[:1] + points[2:], vectors[[0, *range(2, len(points))]])

    refused = built.refused()

    assert set(refused) == {"passages"}
    assert "'long'" in refused["passages"].detail


def test_a_missing_first_passage_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["long"])
    built.collection.remove_older({"long": 10**9})
    built.collection.upsert(points[1:], vectors[1:])

    assert set(built.refused()) == {"documents", "passages"}


def test_two_documents_with_each_others_vectors_are_refused(built: Built) -> None:
    _, vectors = built.collection.stored(["d3", "d7"])
    built.replace_vectors(["d3", "d7"], vectors[::-1].copy())

    refused = built.refused()

    assert set(refused) == {"marks", "sample"}
    assert "2 differ, such as" in refused["marks"].detail
    assert "2 differ, such as" in refused["sample"].detail
    assert "'d3'" in refused["sample"].detail
    assert "'d7'" in refused["sample"].detail


def test_vectors_of_another_model_of_the_same_dimension_are_refused(built: Built) -> None:
    """The fingerprint in the collection says the right thing, and the vectors do not."""
    doc_ids = [*SHORT_IDS, "long"]
    points, _ = built.collection.stored(doc_ids)
    texts = [_text(built, point) for point in points]
    built.replace_vectors(doc_ids, WordEncoder(seed=2).encode_documents(texts))

    refused = built.refused()

    assert set(refused) == {"marks", "sample"}
    assert "lowest cosine" in refused["sample"].found


def _text(built: Built, point: Point) -> str:
    document = built.corpus.get(point.doc_id)
    assert document is not None
    splitter = Splitter(built.opened.generation.recipe.splitter, WordEncoder())
    return splitter.split(document)[point.number].text


class Altered:
    """The real collection with one thing about it not as it should be."""

    def __init__(self, collection: DenseCollection) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


@pytest.mark.parametrize("factor", [0.5, np.nan, 0.0])
def test_vectors_that_are_not_of_length_1_are_refused(built: Built, factor: float) -> None:
    class Scaled(Altered):
        def scan(self, batch: int = 1_000) -> Iterator[tuple[list[Point], FloatMatrix]]:
            for points, vectors in self._collection.scan(batch):
                yield points, (vectors * factor).astype(np.float32)

    refused = built.refused(built.with_collection(Scaled(built.collection)))

    assert "vectors" in refused
    assert refused["vectors"].expected == "finite rows of length 1"


def test_a_collection_made_for_another_model_is_refused(built: Built) -> None:
    class Foreign(Altered):
        @property
        def spec(self) -> Any:
            return dataclasses.replace(self._collection.spec, fingerprint="e" * 64)

    refused = built.refused(built.with_collection(Foreign(built.collection)))

    assert set(refused) == {"fingerprint"}
    assert "collection eeeeeeeeeeee" in refused["fingerprint"].found
    assert refused["fingerprint"].detail == "of another vector space: collection"


def test_another_encoder_than_the_recipe_names_is_refused(built: Built) -> None:
    other = dataclasses.replace(built.opened, encoder=cast(Any, WordEncoder(seed=2)))

    refused = built.refused(other)

    assert set(refused) == {"fingerprint", "sample"}
    assert refused["fingerprint"].detail == "of another vector space: model"


def test_one_vector_of_another_model_is_found_wherever_it_lies(built: Built) -> None:
    points, _ = built.collection.stored(["d7"])
    built.replace_vectors(["d7"], WordEncoder(seed=2).encode_documents([_text(built, points[0])]))

    refused = built.refused()

    assert "'d7'" in refused["marks"].detail
    assert refused["marks"].found == "33 of 34 vectors fit their text and model"


def test_a_vector_that_something_else_wrote_is_refused(built: Built) -> None:
    points, vectors = built.collection.stored(["d7"])
    built.collection.upsert([dataclasses.replace(points[0], mark=None)], vectors)

    refused = built.refused()

    assert set(refused) == {"marks"}
    assert "1 have no mark" in refused["marks"].found


def test_a_model_whose_vectors_are_not_of_length_1_is_refused(built: Built) -> None:
    class Long(WordEncoder):
        def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
            return 3 * super().encode_documents(texts)

    other = dataclasses.replace(built.opened, encoder=cast(Any, Long(seed=1)))

    refused = built.refused(other)

    assert set(refused) == {"vectors"}
    assert refused["vectors"].found == "the model itself gives others"


def test_passages_that_leave_out_the_end_of_a_document_are_refused(built: Built) -> None:
    """As one who cuts texts off would write them: consistent in themselves."""
    points, vectors = built.collection.stored(["long"])
    built.collection.remove_older({"long": 10**9})
    built.collection.upsert([dataclasses.replace(points[0], count=1)], vectors[:1])

    assert set(built.refused()) == {"sample"}


@pytest.mark.parametrize("metric", ["euclid", "dot"])
def test_another_metric_is_refused(built: Built, metric: str) -> None:
    class Measured(Altered):
        def layout(self) -> Layout:
            return dataclasses.replace(self._collection.layout(), metric=metric)

    refused = built.refused(built.with_collection(Measured(built.collection)))

    assert set(refused) == {"metric"}


def test_scores_that_are_no_cosines_are_refused(built: Built) -> None:
    class Distances(Altered):
        def search(self, vector: Any, k: int, where: Any = (), *, exact: bool = False) -> Any:
            hits: list[DenseHit] = self._collection.search(vector, k, where, exact=exact)
            return [hit._replace(score=2 - 2 * hit.score) for hit in hits]

    assert "metric" in built.refused(built.with_collection(Distances(built.collection)))


def test_a_lost_payload_index_is_refused(built: Built) -> None:
    class Bare(Altered):
        def layout(self) -> Layout:
            return dataclasses.replace(
                self._collection.layout(), indexed_paths=frozenset({"doc_id", "odd"})
            )

    refused = built.refused(built.with_collection(Bare(built.collection)))

    assert set(refused) == {"filters"}
    assert refused["filters"].found == "no payload index for seq"


def test_a_lexical_index_behind_the_vectors_is_refused(built: Built) -> None:
    index = LexicalIndex.empty(built.opened.generation.recipe.analyzer)
    index.apply(built.corpus.changes(0, 20))

    refused = built.refused(dataclasses.replace(built.opened, lexical=index))

    assert set(refused) == {"lexical"}
    assert "changes behind the vectors" in refused["lexical"].detail


def test_an_index_that_is_not_finished_is_refused(built: Built) -> None:
    class Unfinished(Altered):
        def indexed(self) -> float:
            return 0.5

    assert set(built.refused(built.with_collection(Unfinished(built.collection)))) == {"index"}


def test_an_index_that_finds_other_documents_than_exact_search_is_refused(built: Built) -> None:
    class Blurred(Altered):
        def search(self, vector: Any, k: int, where: Any = (), *, exact: bool = False) -> Any:
            found: list[DenseHit] = self._collection.search(vector, 2 * k, where, exact=True)
            return found[:k] if exact else found[k:]

    assert set(built.refused(built.with_collection(Blurred(built.collection)))) == {"recall"}


@pytest.mark.parametrize("fault", ["missing", "extra", "stale"])
def test_a_lexical_index_that_differs_from_the_corpus_is_refused(built: Built, fault: str) -> None:
    index = LexicalIndex.empty(built.opened.generation.recipe.analyzer)
    changes = built.corpus.changes(0, 1_000)
    if fault == "missing":
        changes = [change for change in changes if change.doc_id != "d7"]
    if fault == "extra":
        changes.insert(0, dataclasses.replace(changes[0], doc_id="ghost"))
    if fault == "stale":
        changes = [
            dataclasses.replace(change, content_hash="0" * 32) if change.doc_id == "d7" else change
            for change in changes
        ]
    index.apply(changes)

    refused = built.refused(dataclasses.replace(built.opened, lexical=index))

    assert set(refused) == {"lexical"}
    assert "1 differ" in refused["lexical"].found


# -- while the corpus is written to ----------------------------------------------------------------


def test_changes_past_the_watermark_are_not_held_against_a_generation(built: Built) -> None:
    built.directory.put("d7", "edited since")
    built.directory.put("new", "put since")
    built.corpus.delete(["d8"])

    assert built.refused() == {}


def test_changes_that_were_replayed_past_the_watermark_are_not_held_against_it(
    built: Built,
) -> None:
    """The service replays while it verifies: the collection and the index may be ahead."""
    watermark = built.directory.catalog.watermark(built.name)
    built.directory.put("d7", "edited since")
    built.directory.put("new", "put since")
    built.corpus.delete(["d8"])
    replay(built)

    checks = verify_structure(built.corpus, built.opened, watermark=watermark)

    assert [check for check in checks if not check.passed] == []


def replay(built: Built) -> None:
    """Collection and lexical index are brought to the head; the watermark stays."""
    from reindexer.replay import Replay

    sync_lexical(built.corpus, built.opened.lexical)
    Replay(
        corpus=built.corpus,
        collection=built.collection,
        encoder=built.opened.encoder,
        splitter=Splitter(built.opened.generation.recipe.splitter, built.opened.encoder),
        window=64,
        checkpoint=lambda _progress: None,
    ).run(built.directory.catalog.watermark(built.name), built.corpus.head())


class Busy(Corpus):
    """Between any two rows that verification reads, a document is changed."""

    def __init__(self, built: Built, *, replayed: bool) -> None:
        super().__init__(built.directory.database)
        self._built = built
        self._replayed = replayed
        self._changes_left = 12

    def identities(self, until: int | None = None, batch: int = 3) -> Iterator[Identity]:
        for row in super().identities(until, batch):
            yield row
            self._change()

    def get_many(self, doc_ids: Sequence[str]) -> Any:
        found = super().get_many(doc_ids)
        self._built.directory.put("d15", "edited between the corpus and the collection")
        if self._replayed:
            replay(self._built)
        return found

    def _change(self) -> None:
        if self._changes_left == 0:
            return
        self._changes_left -= 1
        built, number = self._built, self._changes_left
        built.directory.put(f"d{number}", f"edited again {number} {self._changes_left}")
        built.corpus.delete([f"d{29 - number}"])
        if self._replayed:
            replay(built)


@pytest.mark.parametrize("replayed", [False, True])
def test_changes_during_verification_are_not_held_against_a_generation(
    built: Built, replayed: bool
) -> None:
    checks = built.verify(corpus=Busy(built, replayed=replayed))

    assert [check for check in checks.values() if not check.passed] == []


def test_a_fault_is_found_while_the_corpus_is_written_to(built: Built) -> None:
    built.collection.remove_older({"d15": 10**9})

    checks = built.verify(corpus=Busy(built, replayed=False))

    assert {check.name for check in checks.values() if not check.passed} == {"documents"}


def test_the_reasons_of_a_refusal_can_be_read(built: Built) -> None:
    built.collection.remove_older({"d7": 10**9})
    report = Verification(generation=built.name, checks=tuple(built.verify().values()))

    assert not report.passed
    (reason,) = report.reasons
    assert reason.startswith("documents: found 30 documents, 1 missing")
    assert report.to_json()["checks"][0].keys() == {
        "name",
        "passed",
        "found",
        "expected",
        "detail",
    }
