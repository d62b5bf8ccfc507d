"""What every dense store promises: embedded, in memory behind qdrant-client, over REST to the
stand-in of a server, and on a real server when QDRANT_URL is set."""

from __future__ import annotations

import os
import random
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from search.dense import (
    CollectionSpec,
    DenseCollection,
    DenseStore,
    FieldType,
    FloatMatrix,
    Point,
    Quantization,
)
from search.dense_edge import EdgeStore
from search.dense_qdrant import QdrantStore
from search.documents import Condition, Scalar, Value, canonical_metadata
from search.errors import CollectionMissing, InvalidQuery, SpaceMismatch, StoreError
from search.payload import indexed_paths
from tests.qdrant_server import QdrantServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

DIM = 8
SPEC = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=DIM)
STORES = ["edge", "edge-process", "memory", "stand-in"]
STORES += ["server"] if "QDRANT_URL" in os.environ else []


class ApartEdgeStore(EdgeStore):
    """Whatever is open is open in a process of its own."""

    def create(self, name: str, spec: CollectionSpec) -> Any:
        return self.create_apart(name, spec)

    def open(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> Any:
        return self.open_apart(name, fingerprint, wait_s=wait_s)


@pytest.fixture(scope="module")
def stand_in() -> Iterator[QdrantServer]:
    with QdrantServer() as server:
        yield server


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DenseStore]:
    if request.param == "edge":
        yield EdgeStore(tmp_path / "collections")
    elif request.param == "edge-process":
        yield ApartEdgeStore(tmp_path / "collections")
    elif request.param == "memory":
        with_client = QdrantStore(client=QdrantClient(":memory:"), ready_poll_s=0.001)
        yield with_client
        with_client.close()
    elif request.param == "stand-in":
        server: QdrantServer = request.getfixturevalue("stand_in")
        server.clear()
        over_rest = QdrantStore(url=server.url, grpc="off", ready_poll_s=0.001)
        yield over_rest
        over_rest.close()
    else:
        yield from _server_store()


def _server_store() -> Iterator[DenseStore]:
    client = QdrantClient(
        os.environ["QDRANT_URL"], api_key=os.environ.get("QDRANT_API_KEY"), timeout=60
    )
    prefix = f"test-{uuid.uuid4().hex[:8]}-"
    yield QdrantStore(client=client, prefix=prefix)
    for item in client.get_collections().collections:
        if item.name.startswith(prefix):
            client.delete_collection(item.name)
    client.close()


@pytest.fixture
def collection(store: DenseStore) -> Iterator[DenseCollection]:
    opened = store.create("docs-1", SPEC)
    yield opened
    opened.close()


def a_point(doc_id: str, number: int = 0, *, seq: int = 1, **metadata: object) -> Point:
    return Point(
        doc_id=doc_id,
        number=number,
        count=number + 1,
        seq=seq,
        content_hash=f"content of {doc_id} at {seq}",
        text_hash=f"text {number}",
        start=10 * number,
        end=10 * number + 9,
        metadata=canonical_metadata(metadata),
    )


def unit(*rows: list[float]) -> FloatMatrix:
    """Rows filled up with zeros to DIM and brought to length 1."""
    matrix = np.zeros((len(rows), DIM), dtype=np.float32)
    for i, row in enumerate(rows):
        matrix[i, : len(row)] = row
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def some_vectors(n: int, seed: int = 0) -> FloatMatrix:
    matrix = np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


# -- collections -----------------------------------------------------------------------------------


def test_a_collection_keeps_its_spec_and_points_over_close_and_open(store: DenseStore) -> None:
    spec = CollectionSpec(
        generation="docs@7",
        fingerprint="aaaa",
        dim=DIM,
        hnsw_m=24,
        hnsw_ef_construct=99,
        quantization="int8",
        filter_fields={"year": "number", "a.b [x]": "keyword", "draft": "boolean"},
    )
    first = store.create("docs-7", spec)
    assert (first.name, first.spec) == ("docs-7", spec)
    first.upsert([a_point("a", seq=2**52, year=1999)], unit([1.0]))
    first.close()
    first.close()
    again = store.open("docs-7", "aaaa")
    assert (again.name, again.spec) == ("docs-7", spec)
    assert again.stored(["a"])[0] == [a_point("a", seq=2**52, year=1999)]
    again.close()


def test_create_opens_what_is_there_with_the_same_spec(store: DenseStore) -> None:
    first = store.create("docs-1", SPEC)
    first.upsert([a_point("a")], unit([1.0]))
    first.close()
    again = store.create("docs-1", SPEC)
    assert again.count() == 1
    again.close()


def test_create_refuses_a_name_taken_by_another_spec(store: DenseStore) -> None:
    store.create("docs-1", SPEC).close()
    other = CollectionSpec(generation="docs@1", fingerprint="bbbb", dim=DIM)
    with pytest.raises(SpaceMismatch, match=r"'aaaa', expected 'bbbb'.*reindexer prune"):
        store.create("docs-1", other)


def test_open_refuses_vectors_of_another_encoder(store: DenseStore) -> None:
    store.create("docs-1", SPEC).close()
    with pytest.raises(SpaceMismatch, match=r"encoder aaaa \(docs@1\), expected bbbb"):
        store.open("docs-1", "bbbb")


def test_open_says_that_a_collection_is_missing(store: DenseStore) -> None:
    with pytest.raises(CollectionMissing, match=r"'docs-9' is not (in|at) .*reindexer doctor"):
        store.open("docs-9", "aaaa")


def test_names_are_sorted_and_drop_takes_one_away(store: DenseStore) -> None:
    for name in ("docs-2", "docs-10", "docs-1"):
        store.create(name, SPEC).close()
    assert store.names() == ["docs-1", "docs-10", "docs-2"]
    store.drop("docs-10")
    store.drop("docs-10")
    assert store.names() == ["docs-1", "docs-2"]
    fresh = store.create("docs-10", SPEC)
    assert fresh.count() == 0
    fresh.close()


def test_the_alias_follows_and_guards_its_collection(store: DenseStore) -> None:
    assert store.alias() is None
    store.create("docs-1", SPEC).close()
    store.create("docs-2", SPEC).close()
    for name in ("docs-1", "docs-2"):
        store.set_alias(name)
        assert store.alias() == (name if store.shared else None)
    if store.shared:
        with pytest.raises(StoreError, match=r"alias '.*docs-live' points at"):
            store.drop("docs-2")
        with pytest.raises(CollectionMissing):
            store.set_alias("docs-9")
        assert store.alias() == "docs-2"
    store.drop("docs-1")


# -- writing ---------------------------------------------------------------------------------------


def test_writing_twice_writes_once(collection: DenseCollection) -> None:
    points, vectors = [a_point("a"), a_point("a", 1), a_point("b")], some_vectors(3)
    collection.upsert(points, vectors)
    collection.upsert(points, vectors)
    assert collection.count() == 3


def test_an_older_seq_never_replaces_a_newer_one(collection: DenseCollection) -> None:
    old, new = unit([1.0]), unit([0.0, 1.0])
    collection.upsert([a_point("a", seq=5), a_point("b", seq=1)], np.concatenate([new, old]))
    collection.upsert(
        [a_point("a", seq=4), a_point("b", seq=2), a_point("c", seq=3)],
        np.concatenate([old, new, old]),
    )
    points, vectors = collection.stored(["a", "b", "c"])
    assert [(point.doc_id, point.seq) for point in points] == [("a", 5), ("b", 2), ("c", 3)]
    np.testing.assert_allclose(vectors, np.concatenate([new, new, old]), atol=1e-6)


def test_an_older_seq_never_replaces_a_newer_one_after_reopening(store: DenseStore) -> None:
    first = store.create("docs-1", SPEC)
    first.upsert([a_point("a", seq=5)], unit([1.0]))
    first.close()
    again = store.open("docs-1", "aaaa")
    again.upsert([a_point("a", seq=4)], unit([0.0, 1.0]))
    assert again.stored(["a"])[0][0].seq == 5
    again.close()


def test_equal_seq_is_written_again(collection: DenseCollection) -> None:
    collection.upsert([a_point("a", seq=5)], unit([1.0]))
    collection.upsert([a_point("a", seq=5, lang="en")], unit([0.0, 1.0]))
    points, vectors = collection.stored(["a"])
    assert points[0].metadata == {"lang": "en"}
    np.testing.assert_allclose(vectors, unit([0.0, 1.0]), atol=1e-6)


def test_of_a_point_given_twice_the_highest_seq_wins(collection: DenseCollection) -> None:
    collection.upsert([a_point("a", seq=2), a_point("a", seq=1)], some_vectors(2))
    assert [point.seq for point in collection.stored(["a"])[0]] == [2]


def test_remove_older_takes_only_what_is_older(collection: DenseCollection) -> None:
    collection.upsert(
        [
            a_point("a", 0, seq=5),
            a_point("a", 1, seq=3),
            a_point("b", 0, seq=3),
            a_point("c", 0, seq=9),
            a_point("d", 0, seq=1),
        ],
        some_vectors(5),
    )
    collection.remove_older({"a": 5, "b": 4, "c": 9, "never seen": 7})
    left = {(point.doc_id, point.number) for batch in collection.scan_points() for point in batch}
    assert left == {("a", 0), ("c", 0), ("d", 0)}
    collection.remove_older({})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_refused_whole(
    collection: DenseCollection, bad: float
) -> None:
    vectors = some_vectors(2)
    vectors[1, 3] = bad
    with pytest.raises(StoreError, match=r"passage 0 of document 'b'.*not finite"):
        collection.upsert([a_point("a"), a_point("b")], vectors)
    assert collection.count() == 0


def test_vectors_of_another_dimension_are_refused(collection: DenseCollection) -> None:
    with pytest.raises(SpaceMismatch, match=r"expects \(1, 8\)"):
        collection.upsert([a_point("a")], np.ones((1, 4), dtype=np.float32))
    with pytest.raises(SpaceMismatch, match="holds vectors of 8 dimensions"):
        collection.search(np.ones(4, dtype=np.float32), 3)


def test_nothing_to_write_is_fine(collection: DenseCollection) -> None:
    collection.upsert([], np.empty((0, DIM), dtype=np.float32))
    assert collection.count() == 0


# -- reading back ----------------------------------------------------------------------------------


def test_points_come_back_as_they_were_written(collection: DenseCollection) -> None:
    points = [
        a_point('ü/日本 "q" \\', 0, seq=2**53 - 1),
        a_point("b", 0, text="x", n=-(2**63), m=2**63 - 1, f=0.1, big=1e300, yes=True, no=False),
        a_point("c", 2, **{"a.b": 1, "a[0]": "x", 'q"\\%22': ["x", 1, 2.5, True], "none": []}),
    ]
    vectors = some_vectors(3)
    collection.upsert(points, vectors)
    back, back_vectors = collection.stored([point.doc_id for point in points])
    by_id = {
        point.doc_id: (point, vector) for point, vector in zip(back, back_vectors, strict=True)
    }
    for point, vector in zip(points, vectors, strict=True):
        assert by_id[point.doc_id][0] == point
        assert _types(by_id[point.doc_id][0].metadata) == _types(point.metadata)
        np.testing.assert_allclose(by_id[point.doc_id][1], vector, atol=1e-6)


def _types(metadata: Mapping[str, Value]) -> list[object]:
    return [
        [type(item) for item in value] if isinstance(value, tuple) else type(value)
        for value in metadata.values()
    ]


def test_stored_is_ordered_by_document_and_passage(collection: DenseCollection) -> None:
    points = [a_point(doc_id, number) for number in (2, 10, 0) for doc_id in ("b", "a", "c")]
    collection.upsert(points, some_vectors(len(points)))
    back, vectors = collection.stored(["c", "a", "c", "never seen"])
    order = [(point.doc_id, point.number) for point in back]
    assert order == [("a", 0), ("a", 2), ("a", 10), ("c", 0), ("c", 2), ("c", 10)]
    assert vectors.shape == (6, DIM)
    assert vectors.dtype == np.float32
    assert collection.stored([])[1].shape == (0, DIM)


def test_a_scan_meets_every_point_once(collection: DenseCollection) -> None:
    points = [a_point(f"d{i % 40}", i // 40, seq=i + 1) for i in range(130)]
    collection.upsert(points, some_vectors(130))
    expected = sorted(points, key=lambda point: point.seq)
    with_vectors = [
        (p, v) for batch, rows in collection.scan(17) for p, v in zip(batch, rows, strict=True)
    ]
    without = [point for batch in collection.scan_points(17) for point in batch]
    assert sorted((p for p, _ in with_vectors), key=lambda point: point.seq) == expected
    assert sorted(without, key=lambda point: point.seq) == expected
    assert [p for p, _ in with_vectors] == without
    for point, vector in with_vectors:
        np.testing.assert_allclose(vector, some_vectors(130)[point.seq - 1], atol=1e-6)


# -- searching -------------------------------------------------------------------------------------


def test_an_empty_collection_answers_nothing(collection: DenseCollection) -> None:
    assert collection.search(unit([1.0])[0], 5) == []
    assert list(collection.scan()) == []
    assert collection.indexed() == 1.0


def test_hits_are_documents_with_their_best_passage(collection: DenseCollection) -> None:
    collection.upsert(
        [a_point("a", 0), a_point("a", 1, seq=1), a_point("b", 0)],
        unit([1.0, 1.0], [1.0, 0.1], [1.0, 0.5]),
    )
    hits = collection.search(unit([1.0])[0], 5)
    assert [(hit.doc_id, hit.number, hit.start, hit.end) for hit in hits] == [
        ("a", 1, 10, 19),
        ("b", 0, 0, 9),
    ]
    assert hits[0].score == pytest.approx(1 / np.sqrt(1.01), abs=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_a_document_of_many_passages_crowds_nobody_out(
    collection: DenseCollection, exact: bool
) -> None:
    crowd = [a_point("crowd", number) for number in range(500)]
    others = [a_point(f"d{i}") for i in range(5)]
    near = [[1.0, 0.001 * i] for i in range(500)]
    collection.upsert(crowd + others, unit(*near, *([1.0, 1.0 + i] for i in range(5))))
    hits = collection.search(unit([1.0])[0], 4, exact=exact)
    assert [hit.doc_id for hit in hits] == ["crowd", "d0", "d1", "d2"]
    assert hits[0].number == 0


def test_equally_near_documents_come_in_the_order_of_their_ids(
    collection: DenseCollection,
) -> None:
    ids = [f"d{i:03}" for i in range(100)]
    random.Random(1).shuffle(ids)
    collection.upsert([a_point(doc_id) for doc_id in ids], unit(*([1.0] for _ in ids)))
    hits = collection.search(unit([1.0])[0], 3)
    assert [hit.doc_id for hit in hits] == ["d000", "d001", "d002"]


def test_k_may_be_larger_than_the_collection(collection: DenseCollection) -> None:
    collection.upsert([a_point("a"), a_point("b")], unit([1.0], [0.0, 1.0]))
    assert [hit.doc_id for hit in collection.search(unit([1.0])[0], 1_000)] == ["a", "b"]


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(collection: DenseCollection, k: int) -> None:
    with pytest.raises(InvalidQuery, match="at least 1"):
        collection.search(unit([1.0])[0], k)


def test_a_query_that_is_not_finite_is_refused(collection: DenseCollection) -> None:
    with pytest.raises(InvalidQuery, match="not finite"):
        collection.search(np.full(DIM, np.nan, dtype=np.float32), 3)


def test_a_new_point_is_found_at_once_after_finish(collection: DenseCollection) -> None:
    collection.upsert([a_point(f"d{i}") for i in range(300)], some_vectors(300))
    collection.finish()
    assert collection.indexed() == 1.0
    vector = some_vectors(1, seed=9)
    collection.upsert([a_point("new", seq=2)], vector)
    assert collection.search(vector[0], 1)[0].doc_id == "new"
    collection.remove_older({"new": 3})
    assert collection.search(vector[0], 1)[0].doc_id != "new"


@pytest.mark.parametrize(("quantization", "at_least"), [("int8", 9), ("product", 5), ("binary", 0)])
def test_quantized_vectors_find_and_full_ones_rank(
    store: DenseStore, quantization: Quantization, at_least: int
) -> None:
    spec = CollectionSpec(generation="docs@1", fingerprint="a", dim=DIM, quantization=quantization)
    collection = store.create("docs-8", spec)
    vectors = some_vectors(2_000)
    collection.upsert([a_point(f"d{i}") for i in range(2_000)], vectors)
    collection.finish()
    queries = some_vectors(20, seed=3)
    for query, scores in zip(queries, queries @ vectors.T, strict=True):
        expected = {f"d{i}" for i in np.argsort(-scores)[:10]}
        hits = collection.search(query, 10)
        assert len(expected & {hit.doc_id for hit in hits}) >= at_least
        scored = {f"d{i}": float(score) for i, score in enumerate(scores)}
        assert [hit.score for hit in hits] == pytest.approx(
            [scored[hit.doc_id] for hit in hits], abs=1e-5
        )
    collection.close()


def test_searching_while_another_thread_writes_is_safe(
    store: DenseStore, request: pytest.FixtureRequest
) -> None:
    if "memory" in request.node.callspec.id:
        pytest.skip("the client's in-memory stand-in is not made for threads; a server is")
    collection = store.create("docs-1", SPEC)
    collection.upsert([a_point("first")], unit([1.0]))
    failures: list[BaseException] = []
    written = threading.Event()

    def write() -> None:
        try:
            for seq in range(2, 6):
                points = [a_point(f"d{i}", seq=seq) for i in range(200)]
                collection.upsert(points, some_vectors(200, seed=seq))
                collection.remove_older({f"d{i}": seq for i in range(200)})
        except BaseException as error:
            failures.append(error)
        finally:
            written.set()

    writer = threading.Thread(target=write)
    writer.start()
    answers = 0
    while not written.is_set() or answers == 0:
        assert collection.search(unit([1.0])[0], 1)[0].doc_id == "first"
        answers += 1
    writer.join()
    assert not failures
    assert collection.count() == 201
    collection.close()


# -- filters ---------------------------------------------------------------------------------------

NAMES = ["year", "a.b", "a[0]", "a b", "tag[]", 'q"\\', "%22", "日本", "x-y", "0", "doc_id", "seq"]
TEXTS = ["en", "2", "2.0", "true", "", "Ü", "a|b"]
NUMBERS: list[int | float] = [0, 1, 2, -3, 2.5, 1e-9, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]
BIG: list[int | float] = [2.0**53, 2.0**60, 1e18, 10**18, 10**18 + 1, 1e300, -1e300]
SCALARS: list[Scalar] = [*TEXTS, *NUMBERS, *BIG, True, False]
INDEXED: dict[str, FieldType] = {
    "year": "number",
    "a.b": "keyword",
    'q"\\': "number",
    "日本": "boolean",
    "x-y": "number",
}


def some_metadata(rng: random.Random) -> dict[str, object]:
    return {
        name: rng.choice(SCALARS)
        if rng.random() < 0.7
        else [rng.choice(SCALARS) for _ in range(rng.randrange(4))]
        for name in rng.sample(NAMES, 4)
    }


class Mixed:
    """A collection and what was written to it."""

    def __init__(self, collection: DenseCollection, points: list[Point]) -> None:
        self.collection = collection
        self.points = points
        collection.upsert(points, some_vectors(len(points)))


@pytest.fixture
def mixed(store: DenseStore) -> Iterator[Mixed]:
    spec = CollectionSpec(generation="docs@1", fingerprint="a", dim=DIM, filter_fields=INDEXED)
    opened = store.create("docs-5", spec)
    rng = random.Random(5)
    points = [
        replace(a_point(f"d{i:03}"), metadata=canonical_metadata(some_metadata(rng)))
        for i in range(300)
    ]
    yield Mixed(opened, points)
    opened.close()


bounds = st.none() | st.sampled_from([float(value) for value in [*NUMBERS, *BIG]])
conditions = st.builds(
    Condition,
    field=st.sampled_from([*NAMES, "nowhere"]),
    any_of=st.lists(st.sampled_from(SCALARS), min_size=1, max_size=3).map(tuple),
) | st.builds(Condition, field=st.sampled_from(NAMES), gt=bounds, gte=bounds, lt=bounds, lte=bounds)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.lists(conditions, min_size=1, max_size=2).map(tuple), exact=st.booleans())
def test_a_filter_means_what_condition_matches_means(
    mixed: Mixed, where: tuple[Condition, ...], exact: bool
) -> None:
    expected = [
        point.doc_id
        for point in mixed.points
        if all(condition.matches(point.metadata) for condition in where)
    ]
    hits = mixed.collection.search(unit([1.0])[0], 300, where, exact=exact)
    assert sorted(hit.doc_id for hit in hits) == expected


def test_a_filter_is_met_by_the_nearest_that_satisfy_it(collection: DenseCollection) -> None:
    points = [a_point(f"d{i}", year=2000 + i % 10, lang="en") for i in range(200)]
    vectors = unit(*([1.0, 0.01 * i] for i in range(200)))
    collection.upsert(points, vectors)
    where = (
        Condition(field="year", gte=2003.0, lt=2005.0),
        Condition(field="lang", any_of=("en",)),
    )
    assert [hit.doc_id for hit in collection.search(unit([1.0])[0], 4, where)] == [
        "d3",
        "d4",
        "d13",
        "d14",
    ]


def test_a_value_of_another_kind_than_its_index_is_for_is_found(store: DenseStore) -> None:
    spec = replace(SPEC, filter_fields={"year": "number"})
    collection = store.create("docs-6", spec)
    metadata = ({"year": 2003}, {"year": "2003"}, {"year": True}, {"year": ["x", 2003]}, {})
    points = [a_point(f"d{i}", **value) for i, value in enumerate(metadata)]
    collection.upsert(points, some_vectors(len(points)))

    def found(*any_of: Scalar) -> list[str]:
        where = (Condition(field="year", any_of=any_of),)
        return sorted(hit.doc_id for hit in collection.search(unit([1.0])[0], 9, where))

    assert found(2003) == ["d0", "d3"]
    assert found("2003") == ["d1"]
    assert found(True) == ["d2"]
    assert found("2003", 2003, "x") == ["d0", "d1", "d3"]
    collection.close()


def test_the_layout_is_what_the_spec_asked_for(store: DenseStore) -> None:
    spec = replace(SPEC, filter_fields={"year": "number", "a b": "keyword"})
    collection = store.create("docs-9", spec)
    layout = collection.layout()
    collection.close()

    assert layout.metric == "cosine"
    if layout.indexed_paths is not None:
        assert layout.indexed_paths >= indexed_paths(spec.filter_fields)


def test_the_engine_is_as_new_as_it_must_be(store: DenseStore) -> None:
    assert store.version()


def test_a_mark_is_kept_with_its_vector(store: DenseStore) -> None:
    collection = store.create("docs-9", SPEC)
    point = replace(a_point("a"), mark=0.25)
    collection.upsert([point, a_point("b")], np.eye(2, DIM, dtype=np.float32))
    stored, _ = collection.stored(["a", "b"])
    collection.close()

    assert [found.mark for found in stored] == [0.25, None]
