"""Vectors that an HNSW graph finds hard are searched wider, also by the next process."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from search.collection_file import read_collection_file
from search.dense import CollectionSpec, Point
from search.dense_edge import EdgeStore
from search.walk_width import WIDTHS

N, DIM = 7_000, 384  # just enough to be indexed


def test_random_vectors_are_searched_wider_and_found(tmp_path: Path) -> None:
    spec = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=DIM)
    rows = np.random.default_rng(1).standard_normal((N, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    points = [
        Point(doc_id=f"d{i}", number=0, count=1, seq=i + 1, content_hash="c", text_hash="t",
              start=0, end=1, metadata={})
        for i in range(N)
    ]  # fmt: skip
    built = EdgeStore(tmp_path).create("docs-1", spec)
    built.upsert(points, rows)
    built.finish()
    built.close()

    collection = EdgeStore(tmp_path).open("docs-1", "aaaa")
    try:
        shares = []
        for query in rows[:40] + np.float32(0.015) * rows[40:80]:
            exact = {hit.doc_id for hit in collection.search(query, 10, exact=True)}
            shares.append(len(exact & {hit.doc_id for hit in collection.search(query, 10)}) / 10)
    finally:
        collection.close()

    width = read_collection_file(tmp_path / "docs-1").hnsw_ef
    assert width is not None
    assert width > WIDTHS[0]
    assert np.mean(shares) > 0.95
