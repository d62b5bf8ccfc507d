"""How much of an exact search an approximate one finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.dense import FloatMatrix

_MOVED_BY = 0.3  # of a vector of length 1
_ALIKE = 1e-5  # difference of two cosines that are equal but for rounding


def queries_near(stored: FloatMatrix, *, seed: int) -> FloatMatrix:
    """(n, dim) stored vectors moved a little, so that a query is near documents and is none of
    them."""
    noise = np.random.default_rng(seed).standard_normal(stored.shape).astype(np.float32)
    noise *= _MOVED_BY / np.linalg.norm(noise, axis=1, keepdims=True)
    moved = stored + noise
    return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)


def share_found(scores: Sequence[float], exact: Sequence[float]) -> float:
    """Of the hits that an exact search gave, best first. A hit as near as the last of them counts:
    equal vectors may stand in any order."""
    return min(1.0, sum(score >= exact[-1] - _ALIKE for score in scores) / len(exact))
