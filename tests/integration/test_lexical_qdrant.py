"""BM25 on the Qdrant server: the ranking of the index in each process, from one request."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient

from reindexer.journal import SYNC_LEASE
from reindexer.live import opened_here
from reindexer.recipes import same_recipe
from reindexer.settings import SettingsInvalid, read_settings
from reindexer.sync import sync_once
from search.answer import Answer
from search.dense import CollectionSpec, Point
from search.dense_edge import EdgeStore
from search.dense_qdrant import QdrantStore
from search.documents import Change, Document, parse_filter
from search.errors import InvalidQuery, LexicalDamaged, StoreError
from search.lexical import LexicalIndex
from search.lexical_qdrant import QdrantLexical
from search.recipe import AnalyzerRecipe, LexicalRecipe, Recipe, SplitterRecipe
from search.searcher import LexicalLeg, SearchRequest
from search.stored_points import from_frames, to_frame
from search.term_weights import TermWeights, fitted_lexical
from tests.word_directory import WordDirectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

PLAIN = AnalyzerRecipe(language="none")
SPEC = CollectionSpec(generation="docs@1", fingerprint="f", dim=4, terms=True)
N_DOCUMENTS = 1_000
WORDS = [f"w{number}" for number in range(4_000)]
# As words are in a language: the tenth is ten times as rare as the first.
FREQUENCIES = [1 / (rank + 1) for rank in range(len(WORDS))]


def put(seq: int, doc_id: str, text: str, **metadata: Any) -> Change:
    document = Document.of(doc_id=doc_id, text=text, metadata=metadata)
    return Change(seq=seq, doc_id=doc_id, content_hash=document.content_hash, document=document)


def documents_of(changes: list[Change]) -> list[Document]:
    return [change.document for change in changes if change.document is not None]


class CountingClient(QdrantClient):
    """The engine in memory, which also counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.asked: list[str] = []

    def query_points(self, *given: Any, **arguments: Any) -> Any:
        self.asked.append("query_points")
        return super().query_points(*given, **arguments)

    def query_batch_points(self, *given: Any, **arguments: Any) -> Any:
        self.asked.append("query_batch_points")
        return super().query_batch_points(*given, **arguments)


class Legs:
    """The same documents behind both kinds of lexical leg."""

    def __init__(self, changes: list[Change], drift: float = 1.0) -> None:
        """drift: by how much the mean length is wrong."""
        fitted = fitted_lexical(PLAIN, documents_of(changes))
        self.weights = TermWeights(PLAIN, drift * fitted.average_length)
        self.changes = changes
        self.client = CountingClient()
        self.store = QdrantStore(client=self.client)
        self.collection = self.store.create("docs-1", SPEC)
        self.index = LexicalIndex.empty(PLAIN)
        self.on_server = QdrantLexical(self.collection, self.weights, lambda: changes[-1].seq)
        self.write(changes)

    def write(self, changes: list[Change]) -> None:
        self.index.apply(changes)
        points = [_point(change, self.weights) for change in changes]
        random_vectors = np.random.default_rng(1).normal(size=(len(points), SPEC.dim))
        vectors = random_vectors / np.linalg.norm(random_vectors, axis=1, keepdims=True)
        self.collection.upsert(points, vectors.astype(np.float32))


def _point(change: Change, weights: TermWeights) -> Point:
    assert change.document is not None
    return Point(
        doc_id=change.doc_id,
        number=0,
        count=1,
        seq=change.seq,
        content_hash=change.content_hash,
        text_hash="t",
        start=0,
        end=1,
        metadata=change.document.metadata,
        terms=weights.document(change.document),
    )


@pytest.fixture(scope="module")
def legs() -> Iterator[Legs]:
    """Documents of 5 to 200 words."""
    rng = random.Random(5)
    changes = [
        put(
            seq,
            f"d{seq:04d}",
            " ".join(rng.choices(WORDS, FREQUENCIES, k=rng.randint(5, 200))),
            half=seq % 2 == 0,
        )
        for seq in range(1, N_DOCUMENTS + 1)
    ]
    legs = Legs(changes)
    yield legs
    legs.store.close()


def queries(n: int) -> list[str]:
    rng = random.Random(6)
    return [" ".join(rng.choices(WORDS, FREQUENCIES, k=rng.randint(1, 6))) for _ in range(n)]


def top_10(leg: LexicalLeg, query: str) -> list[str]:
    return [hit.doc_id for hit in leg.search(query, 10)]


# -- one leg ---------------------------------------------------------------------------------------


def test_both_kinds_rank_alike(legs: Legs) -> None:
    """The contract of the two: the same top 10 on 95 of 100 queries."""
    asked = queries(40)
    equal = sum(top_10(legs.on_server, query) == top_10(legs.index, query) for query in asked)
    assert equal / len(asked) >= 0.95


def test_a_mean_length_that_has_drifted_moves_few_documents(legs: Legs) -> None:
    """It is fixed in the recipe while the corpus goes on growing; here it is a tenth too high."""
    drifted = Legs(legs.changes[:300], drift=1.1)
    asked = queries(20)
    shared = sum(
        len(set(top_10(drifted.on_server, query)) & set(top_10(drifted.index, query)))
        for query in asked
    )
    assert shared / sum(len(top_10(drifted.index, query)) for query in asked) >= 0.95


def test_with_the_true_mean_length_the_scores_are_those_of_bm25() -> None:
    legs = Legs([put(1, "a", "red fox red"), put(2, "b", "red dog"), put(3, "c", "blue sky " * 9)])
    found = legs.on_server.search("red red sky", 10)
    expected = legs.index.search("red red sky", 10)
    assert [(hit.doc_id, hit.seq) for hit in found] == [(hit.doc_id, hit.seq) for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-5)


def test_documents_that_tie_come_in_the_order_of_their_ids() -> None:
    names = [f"d{number:02d}" for number in range(60)]
    legs = Legs([put(seq, name, "same") for seq, name in enumerate(reversed(names), 1)])
    assert [hit.doc_id for hit in legs.on_server.search("same", 5)] == names[:5]


def test_a_filter_holds_and_the_rarity_of_words_stays_that_of_all_documents(legs: Legs) -> None:
    where = parse_filter(["half=true"])
    for query in queries(5):
        found = legs.on_server.search(query, 10, where)
        expected = legs.index.search(query, 10, where)
        assert {hit.doc_id for hit in found} == {hit.doc_id for hit in expected}
        assert all(hit.seq % 2 == 0 for hit in found)


@pytest.mark.parametrize("query", ["", "?!", "unheard"])
def test_a_query_without_a_known_term_finds_nothing(legs: Legs, query: str) -> None:
    assert legs.on_server.search(query, 10) == []


def test_no_hits_cannot_be_asked_for(legs: Legs) -> None:
    with pytest.raises(InvalidQuery, match="k is 0"):
        legs.on_server.search("w1", 0)


# -- both legs -------------------------------------------------------------------------------------


def test_one_request_answers_both_legs(legs: Legs) -> None:
    vector = np.array([1, 0, 0, 0], dtype=np.float32)
    apart = (legs.on_server.search("w3 w40", 10), legs.collection.search(vector, 10))
    legs.client.asked.clear()
    assert legs.on_server.search_both("w3 w40", vector, 10) == apart
    assert legs.client.asked == ["query_batch_points"]


# -- what is stored --------------------------------------------------------------------------------


def test_terms_stay_with_their_passage_when_points_are_copied_or_backed_up(legs: Legs) -> None:
    (points, vectors), *_ = legs.collection.scan(batch=3)
    assert all(point.terms is not None for point in points)
    ((copied, _),) = from_frames([to_frame(points, vectors)])
    assert [point.terms for point in copied] == [point.terms for point in points]


def test_the_index_of_terms_is_no_index_of_vectors(legs: Legs) -> None:
    assert legs.collection.layout().metric == "cosine"
    assert legs.collection.count() == N_DOCUMENTS
    assert legs.collection.indexed() == 1.0


def test_an_embedded_collection_refuses_terms(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="only a Qdrant server"):
        EdgeStore(tmp_path).create("docs-1", SPEC)
    with pytest.raises(SettingsInvalid, match=r"store\.kind is edge"):
        read_settings({}, environment={"REINDEXER_LEXICAL_KIND": "qdrant"})


# -- a part of the generation ----------------------------------------------------------------------


def test_the_kind_is_a_part_of_the_recipe_and_the_mean_length_changes_nothing() -> None:
    splitter = SplitterRecipe(max_tokens=8, overlap_tokens=0)
    recipe = Recipe(model="m@1", fingerprint="f", dim=4, splitter=splitter)
    lexical = LexicalRecipe(kind="qdrant", analyzer_version=1, average_length=7.0)
    on_server = Recipe(model="m@1", fingerprint="f", dim=4, splitter=splitter, lexical=lexical)
    later = LexicalRecipe(kind="qdrant", analyzer_version=1, average_length=8.0)
    again = Recipe(model="m@1", fingerprint="f", dim=4, splitter=splitter, lexical=later)
    assert not same_recipe(recipe, on_server)
    assert same_recipe(on_server, again)
    assert Recipe.from_json(on_server.to_json()).lexical.average_length == 7.0


def test_terms_of_another_analyzer_are_refused() -> None:
    lexical = LexicalRecipe(kind="qdrant", analyzer_version=0, average_length=7.0)
    splitter = SplitterRecipe(max_tokens=8, overlap_tokens=0)
    recipe = Recipe(model="m@1", fingerprint="f", dim=4, splitter=splitter, lexical=lexical)
    with pytest.raises(LexicalDamaged, match="upgrade m@1"):
        TermWeights.of(recipe)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[WordDirectory]:
    """All data of a Qdrant installation, with the engine in memory for the server."""
    settings = {"store_kind": "qdrant", "store_url": "http://unused", "lexical_kind": "qdrant"}
    with WordDirectory(tmp_path / "data", **settings) as directory:
        directory.__dict__["store"] = QdrantStore(client=CountingClient(), ready_poll_s=0.001)
        yield directory


def ask(directory: WordDirectory, query: str, mode: Any = "lexical") -> Answer:
    live = directory.catalog.live()
    assert live is not None
    with opened_here(directory, live.name) as opened:
        return opened.searcher.search(SearchRequest(query=query, mode=mode))


def test_edits_and_deletes_reach_both_halves_with_one_watermark(directory: WordDirectory) -> None:
    directory.put("a", "red fox " * 40)  # several passages
    directory.put("b", "red dog")
    directory.put("c", "blue sky")
    directory.go_live(directory.build("word@1"))
    assert [hit.doc_id for hit in ask(directory, "fox dog").hits] == ["a", "b"]

    directory.put("a", "a green whale")
    directory.corpus.delete(["b"])
    with directory.journal.lease(SYNC_LEASE) as lease:
        sync_once(directory, lease)

    assert [hit.doc_id for hit in ask(directory, "fox dog whale").hits] == ["a"]
    answer = ask(directory, "green whale sky", "hybrid")
    assert {hit.doc_id for hit in answer.hits} == {"a", "c"}
    assert not answer.problems
    live = directory.catalog.live()
    assert live is not None
    with opened_here(directory, live.name) as opened:
        assert opened.lexical.watermark == directory.corpus.head() == live.watermark
        assert sorted(doc_id for doc_id, _, _ in opened.lexical.scan()) == ["a", "c"]
    assert not (directory.path / "lexical").exists()
