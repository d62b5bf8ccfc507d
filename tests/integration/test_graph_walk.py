"""Vectors that an HNSW graph finds hard are searched wider, also by the next process and with
filters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from search import dense_edge, edge_collection
from search.collection_file import read_collection_file
from search.dense import CollectionSpec, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.documents import Filter, parse_filter
from search.edge_collection import EdgeCollection
from search.walk_width import WIDTHS

N, DIM = 5_000, 384
INDEX_FROM_KB = 100  # of vectors, so that few get a graph, and what passes a filter is walked to


@pytest.fixture(scope="module")
def rows() -> FloatMatrix:
    drawn = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, rows: FloatMatrix) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    spec = CollectionSpec(
        generation="docs@1", fingerprint="aaaa", dim=DIM,
        filter_fields={"third": "keyword", "number": "number"},
    )  # fmt: skip
    points = [
        Point(doc_id=f"d{i}", number=0, count=1, seq=i + 1, content_hash="c", text_hash="t",
              start=0, end=1, metadata={"third": f"t{i % 3}", "number": i})
        for i in range(N)
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dense_edge, "INDEX_FROM_KB", INDEX_FROM_KB)
        collection = EdgeStore(folder).create("docs-1", spec)
    collection.upsert(points, rows)
    collection.finish()
    collection.close()
    return folder


@pytest.fixture
def collection(built: Path) -> Iterator[EdgeCollection]:
    opened = EdgeStore(built).open("docs-1", "aaaa")
    yield opened
    opened.close()


def _share_found(collection: EdgeCollection, rows: FloatMatrix, where: Filter = ()) -> float:
    """Of the exact nearest ten, on average."""
    shares = []
    for query in rows[:40] + np.float32(0.015) * rows[40:80]:
        exact = {hit.doc_id for hit in collection.search(query, 10, where, exact=True)}
        found = {hit.doc_id for hit in collection.search(query, 10, where)}
        shares.append(len(exact & found) / 10)
    return float(np.mean(shares))


def test_random_vectors_are_searched_wider_and_found(
    built: Path, collection: EdgeCollection, rows: FloatMatrix
) -> None:
    width = read_collection_file(built / "docs-1").hnsw_ef
    assert width is not None
    assert width > WIDTHS[0]
    assert _share_found(collection, rows) > 0.95


@pytest.mark.parametrize("where", ["third=t1", "third=t0|t2", "number>=2000", "number=1000..2000"])
def test_what_passes_a_filter_is_found_by_the_same_walk(
    collection: EdgeCollection, rows: FloatMatrix, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a collection that is too large to compare the query with all that passes."""
    monkeypatch.setattr(edge_collection, "FEW_KB", 0)

    assert _share_found(collection, rows, parse_filter([where])) > 0.95
