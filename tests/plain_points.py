"""Points of documents of one passage, and vectors that mean nothing."""

from __future__ import annotations

import numpy as np

from search.dense import FloatMatrix, Point


def points(n: int, *, seq: int | None = None) -> list[Point]:
    """Of d0, d1 and so on; seq 1 and so on unless all have this one."""
    return [
        Point(
            doc_id=f"d{number}",
            number=0,
            count=1,
            seq=number + 1 if seq is None else seq,
            content_hash="c",
            text_hash="t",
            start=0,
            end=1,
            metadata={},
        )
        for number in range(n)
    ]


def vectors(n: int, dim: int) -> FloatMatrix:
    """(n, dim), the same every time."""
    drawn = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    rows: FloatMatrix = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return rows
