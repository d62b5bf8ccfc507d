from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.answer import Answer
from search.corpus import Corpus
from search.database import open_database, sqlite_url
from search.dense import DenseCollection, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.documents import Document, parse_filter
from search.errors import (
    DatabaseUnavailable,
    InvalidQuery,
    LexicalDamaged,
    SpaceMismatch,
    StoreUnavailable,
)
from search.lexical import LexicalIndex
from search.recipe import AnalyzerRecipe, FusionRecipe, Recipe, SplitterRecipe
from search.searcher import MAX_K, MAX_QUERY_CHARACTERS, Searcher, SearchRequest
from training.errors import EncodingFailed

DIM = 64
GENERATION = "docs@7"
MODEL = "support@4"
FILLER = "and so it goes on for a while, saying nothing that anybody would ask for. "


class WordEncoder:
    """Adds up a direction for each word: texts with words in common are near each other."""

    def __init__(self, fingerprint: str = "f" * 32, dim: int = DIM) -> None:
        self.fingerprint = fingerprint
        self.dim = dim

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.lower().replace(".", "").split():
                row += np.random.default_rng(list(word.encode())).standard_normal(self.dim)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class World:
    """A corpus, and a generation that follows it when told to."""

    def __init__(self, folder: Path) -> None:
        self.database = open_database(sqlite_url(folder / "reindexer.db"))
        self.corpus = Corpus(self.database)
        self.encoder = WordEncoder()
        self.recipe = Recipe(
            model=MODEL,
            fingerprint=self.encoder.fingerprint,
            dim=DIM,
            splitter=SplitterRecipe(max_tokens=256, overlap_tokens=0),
        )
        self.store = EdgeStore(folder / "collections")
        self.collection = self.store.create("docs-7", self.recipe.collection_spec(GENERATION))
        self.lexical = LexicalIndex.empty(AnalyzerRecipe())
        self.watermark = 0

    def put(self, doc_id: str, text: str, title: str = "", **metadata: Any) -> None:
        self.corpus.put([Document.of(doc_id=doc_id, text=text, title=title, metadata=metadata)])

    def delete(self, *doc_ids: str) -> None:
        self.corpus.delete(doc_ids)

    def sync(self, *, lexical: bool = True, dense: bool = True) -> None:
        """Apply what changed in the corpus; a paragraph is a passage."""
        changes = self.corpus.changes(self.watermark, 10_000)
        self.watermark = self.corpus.head()
        if lexical:
            self.lexical.apply(changes)
        points: list[Point] = []
        texts: list[str] = []
        for change in changes if dense else ():
            if change.document is None:
                continue
            paragraphs = change.document.text.split("\n\n")
            end = -2
            for number, text in enumerate(paragraphs):
                start, end = end + 2, end + 2 + len(text)
                texts.append(f"{change.document.title} {text}".strip())
                points.append(
                    Point(
                        doc_id=change.doc_id,
                        number=number,
                        count=len(paragraphs),
                        seq=change.seq,
                        content_hash=change.content_hash,
                        text_hash=f"{number:016x}",
                        start=start,
                        end=end,
                        metadata=change.document.metadata,
                    )
                )
        if points:
            self.collection.upsert(points, self.encoder.encode_queries(texts))
        if dense:
            self.collection.remove_older({change.doc_id: change.seq for change in changes})

    def searcher(self, **other: Any) -> Searcher:
        parts: dict[str, Any] = {
            "generation": GENERATION,
            "recipe": self.recipe,
            "encoder": self.encoder,
            "collection": self.collection,
            "lexical": self.lexical,
            "corpus": self.corpus,
        }
        return Searcher(**(parts | other))

    def search(self, query: str, **options: Any) -> Answer:
        return self.searcher().search(SearchRequest(query=query, **options))

    def close(self) -> None:
        self.collection.close()
        self.store.close()
        self.database.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


@pytest.fixture(scope="module")
def animals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """For tests that change nothing."""
    world = World(tmp_path_factory.mktemp("animals"))
    put_animals(world)
    yield world
    world.close()


@pytest.fixture
def changing_animals(world: World) -> World:
    put_animals(world)
    return world


def put_animals(world: World) -> None:
    world.put("zebra", "The zebra lives in the savanna.", "Zebra", kind="mammal", legs=4)
    world.put("lion", "The lion hunts the zebra.", "Lion", kind="mammal", legs=4)
    world.put("ostrich", "The ostrich runs in the savanna.", "Ostrich", kind="bird", legs=2)
    world.put("shark", "The shark swims in the sea.", "Shark", kind="fish", legs=0)
    world.sync()


def broken(error: Exception) -> Callable[..., Any]:
    def fail(*_arguments: object, **_options: object) -> Any:
        raise error

    return fail


class BrokenLexical:
    search = staticmethod(broken(LexicalDamaged("postings.npy does not match its checksum")))


class BrokenCorpus:
    get_many = staticmethod(broken(DatabaseUnavailable("database: disk I/O error")))


class BrokenEncoder(WordEncoder):
    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        raise EncodingFailed(f"{len(texts)} texts: out of memory")


class BrokenCollection:
    """A collection whose server has gone since it was opened."""

    def __init__(self, collection: DenseCollection) -> None:
        self.name, self.spec = collection.name, collection.spec

    search = staticmethod(broken(StoreUnavailable("127.0.0.1:6334: connection refused")))


def ids(answer: Answer) -> list[str]:
    return [hit.doc_id for hit in answer.hits]


# -- one query, one generation -------------------------------------------------------------------


def test_every_answer_names_its_generation_and_model(animals: World) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        answer = animals.search("zebra", mode=mode)
        assert (answer.generation, answer.model, answer.mode) == (GENERATION, MODEL, mode)
        assert answer.degraded == []


def test_both_legs_add_to_one_ranking(animals: World) -> None:
    hit = animals.search("zebra savanna").hits[0]
    assert (hit.doc_id, hit.rank, hit.lexical_rank, hit.dense_rank) == ("zebra", 1, 1, 1)
    assert hit.score == pytest.approx(2 / 61)
    assert (hit.title, hit.snippet) == ("Zebra", "The zebra lives in the savanna.")
    assert hit.metadata == {"kind": "mammal", "legs": 4}


def test_one_leg_alone_answers_in_its_own_order_with_its_own_scores(animals: World) -> None:
    lexical = animals.search("zebra savanna", mode="lexical")
    assert [(hit.doc_id, hit.score) for hit in lexical.hits] == [
        (hit.doc_id, hit.score) for hit in animals.lexical.search("zebra savanna", 10)
    ]
    assert {hit.dense_rank for hit in lexical.hits} == {None}
    dense = animals.search("zebra savanna", mode="dense")
    vector = animals.encoder.encode_queries(["zebra savanna"])[0]
    assert [(hit.doc_id, hit.score) for hit in dense.hits] == [
        (hit.doc_id, hit.score) for hit in animals.collection.search(vector, 10)
    ]
    assert [hit.dense_rank for hit in dense.hits] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"encoder": WordEncoder("e" * 32)}, "found an encoder of eeeeeeeeeeee"),
        ({"encoder": WordEncoder(dim=32)}, "for 64 dimensions, found an encoder of 32"),
        ({"generation": "docs@8"}, "holds vectors of docs@7 .* expected docs@8"),
    ],
)
def test_parts_of_different_vector_spaces_are_refused(
    animals: World, part: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpaceMismatch, match=message):
        animals.searcher(**part)


def test_a_collection_of_another_fine_tune_of_the_same_size_is_refused(animals: World) -> None:
    other = dataclasses.replace(animals.recipe, fingerprint="a" * 32)
    with pytest.raises(SpaceMismatch, match="fingerprint ffffffffffff, expected docs@7 with aaaaa"):
        animals.searcher(recipe=other, encoder=WordEncoder("a" * 32))


def test_the_fusion_of_the_recipe_is_used(animals: World) -> None:
    fusion = FusionRecipe(rrf_k=1, lexical_weight=0.0, dense_weight=3.0)
    recipe = dataclasses.replace(animals.recipe, fusion=fusion)
    answer = animals.searcher(recipe=recipe).search(SearchRequest(query="zebra"))
    assert answer.hits[0].score == 3.0 / 2
    assert ids(answer) == ids(animals.search("zebra", mode="dense"))


# -- documents that changed since ----------------------------------------------------------------


def test_deleted_documents_are_replaced_by_the_next_best(world: World) -> None:
    for number in range(30):
        world.put(f"doc-{number:02}", f"zebra number{number}")
    world.sync()
    world.delete(*(f"doc-{number:02}" for number in range(15)))
    for mode in ("hybrid", "lexical", "dense"):
        answer = world.search("zebra", mode=mode, k=12)
        assert len(answer.hits) == 12
        assert all(hit.doc_id >= "doc-15" for hit in answer.hits)
        assert [hit.rank for hit in answer.hits] == list(range(1, 13))


def test_k_hits_come_back_even_when_more_than_the_depth_were_deleted(world: World) -> None:
    for number in range(60):
        world.put(f"doc-{number:02}", f"zebra number{number}")
    world.sync()
    world.delete(*(f"doc-{number:02}" for number in range(50)))
    for mode in ("hybrid", "lexical", "dense"):
        answer = world.search("zebra", mode=mode, k=5, depth=8)
        assert len(answer.hits) == 5
        assert all(hit.doc_id >= "doc-50" for hit in answer.hits)


def test_all_there_is_comes_back_when_there_are_fewer_than_k(changing_animals: World) -> None:
    changing_animals.delete("zebra")
    assert set(ids(changing_animals.search("zebra savanna"))) == {"lion", "ostrich", "shark"}
    assert ids(changing_animals.search("zebra", mode="lexical")) == ["lion"]


def test_an_edited_document_is_shown_as_it_is_now(changing_animals: World) -> None:
    changing_animals.put("zebra", "Short.", "Zebra, revised", kind="mammal", legs=4)
    hit = changing_animals.search("zebra savanna").hits[0]
    assert (hit.doc_id, hit.title, hit.snippet) == ("zebra", "Zebra, revised", "Short.")


def test_the_place_of_a_passage_is_not_believed_after_an_edit(changing_animals: World) -> None:
    changing_animals.put("zebra", FILLER * 9 + "The zebra lives in the savanna.", "Zebra")
    hit = changing_animals.search("zebra savanna").hits[0]
    assert hit.snippet.endswith("The zebra lives in the savanna.")


def test_no_hit_contradicts_the_filter_though_the_legs_are_behind(changing_animals: World) -> None:
    where = parse_filter(["kind=mammal"])
    changing_animals.put("zebra", "The zebra lives in the savanna.", "Zebra", kind="extinct")
    assert ids(changing_animals.search("zebra", where=where)) == ["lion"]


def test_the_best_passage_is_the_snippet(world: World) -> None:
    world.put("long", "\n\n".join([FILLER * 9, "A zebra crossed the river.", FILLER * 9]))
    world.sync()
    hit = world.search("zebra crossed river", mode="dense").hits[0]
    assert hit.snippet == "A zebra crossed the river."


def test_without_a_passage_the_snippet_is_where_the_words_are(world: World) -> None:
    world.put("long", "\n\n".join([FILLER * 9, "A zebra crossed the river.", FILLER * 9]))
    world.sync(dense=False)
    hit = world.search("zebra crossed river").hits[0]
    assert "A zebra crossed the river." in hit.snippet
    assert len(hit.snippet) <= 300


def test_a_document_that_is_all_title_is_found_and_shown(world: World) -> None:
    world.put("title", "", "Zebra crossing")
    world.sync()
    hit = world.search("zebra").hits[0]
    assert (hit.doc_id, hit.title, hit.snippet) == ("title", "Zebra crossing", "")


# -- filters, ties -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["kind=mammal"], {"zebra", "lion"}),
        (["kind=bird|fish"], {"ostrich", "shark"}),
        (["legs>=2", "legs<4"], {"ostrich"}),
        (["kind=reptile"], set()),
    ],
)
def test_a_filter_means_the_same_in_every_mode(
    animals: World, where: list[str], expected: set[str]
) -> None:
    query = "zebra lion ostrich shark"
    for mode in ("hybrid", "dense", "lexical"):
        assert set(ids(animals.search(query, mode=mode, where=parse_filter(where)))) == expected


def test_both_legs_rank_only_what_the_filter_lets_through(animals: World) -> None:
    hit = animals.search("zebra savanna", where=parse_filter(["kind=bird"])).hits[0]
    assert (hit.doc_id, hit.lexical_rank, hit.dense_rank) == ("ostrich", 1, 1)


def test_equal_documents_stand_by_doc_id(world: World) -> None:
    for doc_id in ("c", "a", "d", "b"):
        world.put(doc_id, "the very same zebra")
    world.sync()
    for mode in ("hybrid", "dense", "lexical"):
        assert ids(world.search("zebra", mode=mode, k=4)) == ["a", "b", "c", "d"]


# -- a part that fails ---------------------------------------------------------------------------


def test_without_the_lexical_leg_the_dense_leg_answers(animals: World) -> None:
    answer = animals.searcher(lexical=BrokenLexical()).search(SearchRequest(query="zebra"))
    assert answer.degraded == ["lexical"]
    assert "checksum" in answer.problems["lexical"]
    assert ids(answer) == ids(animals.search("zebra", mode="dense"))
    assert {hit.lexical_rank for hit in answer.hits} == {None}


def test_without_the_dense_leg_the_lexical_leg_answers(animals: World) -> None:
    for part, reason in (
        ({"collection": BrokenCollection(animals.collection)}, "connection refused"),
        ({"encoder": BrokenEncoder()}, "out of memory"),
    ):
        answer = animals.searcher(**part).search(SearchRequest(query="zebra"))
        assert answer.degraded == ["dense"]
        assert reason in answer.problems["dense"]
        assert ids(answer) == ids(animals.search("zebra", mode="lexical"))


def test_an_error_nobody_thought_of_costs_one_leg_and_not_the_answer(
    animals: World, caplog: pytest.LogCaptureFixture
) -> None:
    class Crashing(WordEncoder):
        encode_queries = staticmethod(broken(RuntimeError("CUDA error: device lost")))

    answer = animals.searcher(encoder=Crashing()).search(SearchRequest(query="zebra"))
    assert answer.degraded == ["dense"]
    assert "Traceback" in caplog.text


def test_vectors_that_are_no_numbers_cost_the_dense_leg(animals: World) -> None:
    class NotANumber(WordEncoder):
        def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
            return np.full((len(texts), DIM), np.nan, dtype=np.float32)

    answer = animals.searcher(encoder=NotANumber()).search(SearchRequest(query="zebra"))
    assert answer.degraded == ["dense"]
    assert "models verify support@4" in answer.problems["dense"]


def test_a_mode_whose_only_leg_fails_is_an_error(animals: World) -> None:
    searcher = animals.searcher(lexical=BrokenLexical(), encoder=BrokenEncoder())
    with pytest.raises(LexicalDamaged):
        searcher.search(SearchRequest(query="zebra", mode="lexical"))
    with pytest.raises(EncodingFailed):
        searcher.search(SearchRequest(query="zebra", mode="dense"))


def test_with_both_legs_down_the_error_tells_of_both(animals: World) -> None:
    searcher = animals.searcher(
        lexical=BrokenLexical(), collection=BrokenCollection(animals.collection)
    )
    with pytest.raises(StoreUnavailable, match="connection refused") as raised:
        searcher.search(SearchRequest(query="zebra"))
    assert "checksum" in "".join(raised.value.__notes__)


def test_without_the_corpus_hits_are_ids_and_ranks(animals: World) -> None:
    answer = animals.searcher(corpus=BrokenCorpus()).search(SearchRequest(query="zebra", k=2))
    assert answer.degraded == ["corpus"]
    assert ids(answer) == ids(animals.search("zebra", k=2))
    assert {(hit.title, hit.snippet) for hit in answer.hits} == {("", "")}


def test_a_filter_nobody_can_apply_is_the_askers_error_and_no_failed_leg(animals: World) -> None:
    class Picky:
        search = staticmethod(broken(InvalidQuery("filter: no such field")))

    with pytest.raises(InvalidQuery):
        animals.searcher(lexical=Picky()).search(SearchRequest(query="zebra"))


# -- requests ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": ""}, "the query is empty"),
        ({"query": " \n\t"}, "the query is empty"),
        ({"query": "x" * (MAX_QUERY_CHARACTERS + 1)}, "10,001 characters, at most 10,000"),
        ({"query": "a\ud800"}, r"not valid Unicode \(character 1\)"),
        ({"k": 0}, "k is 0, expected 1 to 1,000"),
        ({"k": MAX_K + 1}, "k is 1001, expected 1 to 1,000"),
        ({"mode": "fuzzy"}, "mode 'fuzzy' is unknown; expected hybrid, dense, lexical"),
        ({"k": 20, "depth": 10}, r"depth is 10, expected at least k \(20\)"),
        ({"depth": 10**9}, "at most 10,000"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidQuery, match=message):
        SearchRequest(**({"query": "zebra"} | options))


def test_the_legs_give_no_less_than_k() -> None:
    fusion = FusionRecipe(depth=40)
    assert SearchRequest(query="zebra").leg_depth(fusion) == 40
    assert SearchRequest(query="zebra", k=500).leg_depth(fusion) == 500
    assert SearchRequest(query="zebra", depth=17).leg_depth(fusion) == 17


def test_a_query_without_known_words_is_answered_by_the_dense_leg(animals: World) -> None:
    answer = animals.search("qwertz the of")
    assert answer.degraded == []
    assert {hit.lexical_rank for hit in answer.hits} == {None}


def test_an_empty_corpus_gives_an_empty_answer(world: World) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        assert world.search("zebra", mode=mode).hits == ()


# -- what comes back -----------------------------------------------------------------------------


def test_the_json_has_the_fields_that_were_promised(animals: World) -> None:
    answer = json.loads(json.dumps(animals.search("zebra savanna", k=1).to_json()))
    took_ms = answer.pop("took_ms")
    assert list(took_ms) == ["encode", "lexical", "dense", "fuse", "hydrate", "total"]
    assert sum(took_ms.values()) <= 2 * took_ms["total"] + 0.01
    assert answer == {
        "query": "zebra savanna",
        "mode": "hybrid",
        "generation": GENERATION,
        "model": MODEL,
        "degraded": [],
        "hits": [
            {
                "rank": 1,
                "doc_id": "zebra",
                "score": pytest.approx(2 / 61),
                "title": "Zebra",
                "snippet": "The zebra lives in the savanna.",
                "metadata": {"kind": "mammal", "legs": 4},
                "lexical_rank": 1,
                "dense_rank": 1,
            }
        ],
    }


def test_every_answer_is_plain_json(animals: World) -> None:
    for mode in ("hybrid", "dense", "lexical"):
        answer = animals.search("zebra savanna", mode=mode, explain=True).to_json()
        assert json.loads(json.dumps(answer)) == answer


def test_explain_tells_how_a_hit_came_to_its_place(animals: World) -> None:
    hit = animals.search("zebra savanna", explain=True).to_json()["hits"][0]
    vector = animals.encoder.encode_queries(["zebra savanna"])[0]
    assert hit["lexical_score"] == animals.lexical.search("zebra savanna", 1)[0].score
    assert hit["dense_score"] == animals.collection.search(vector, 1)[0].score
    assert hit["contributions"] == pytest.approx({"lexical": 1 / 61, "dense": 1 / 61})
    assert (hit["passage"], hit["seq"]) == (0, 1)


def test_a_degraded_answer_says_why(animals: World) -> None:
    searcher = animals.searcher(encoder=BrokenEncoder())
    answer = searcher.search(SearchRequest(query="zebra")).to_json()
    assert answer["degraded"] == ["dense"]
    assert answer["problems"] == {"dense": "1 texts: out of memory"}


# -- many queries --------------------------------------------------------------------------------


def test_runs_rank_as_single_queries_do(animals: World) -> None:
    queries = ["zebra savanna", "the sea", "who hunts"]
    for mode in ("hybrid", "dense", "lexical"):
        found = animals.searcher().runs(queries, mode=mode, depth=3)
        assert (found["generation"], found["model"]) == (GENERATION, MODEL)
        assert found["runs"] == [ids(animals.search(query, mode=mode, k=3)) for query in queries]


def test_runs_encode_their_queries_in_one_call(animals: World) -> None:
    calls: list[int] = []

    class Counting(WordEncoder):
        def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
            calls.append(len(texts))
            return super().encode_queries(texts)

    animals.searcher(encoder=Counting()).runs(["zebra", "lion", "shark"])
    assert calls == [3]


def test_runs_fail_rather_than_judge_one_leg_as_two(animals: World) -> None:
    with pytest.raises(LexicalDamaged):
        animals.searcher(lexical=BrokenLexical()).runs(["zebra"])


def test_no_queries_give_no_runs(animals: World) -> None:
    assert animals.searcher().runs([])["runs"] == []


def test_warming_up_finds_a_part_that_does_not_work(animals: World) -> None:
    animals.searcher().warm()
    for part, error in (
        ({"lexical": BrokenLexical()}, LexicalDamaged),
        ({"encoder": BrokenEncoder()}, EncodingFailed),
        ({"collection": BrokenCollection(animals.collection)}, StoreUnavailable),
        ({"corpus": BrokenCorpus()}, DatabaseUnavailable),
    ):
        with pytest.raises(error):
            animals.searcher(**part).warm()
