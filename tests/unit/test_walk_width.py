"""A graph is searched as wide as its vectors need, and no wider."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.dense import FloatMatrix, FloatVector
from search.walk_width import WIDTHS, K, narrowest_width

STORED = np.eye(40, 64, dtype=np.float32)


def _walk_that_needs(width_needed: int, stored: FloatMatrix) -> list[int | None]:
    """Finds the worst instead of the best below that width. Returns the widths it was asked for."""
    asked: list[int | None] = []

    def find(vector: FloatVector, width: int | None) -> Sequence[float]:
        asked.append(width)
        scores = np.sort(stored @ vector)[::-1]
        is_wide = width is None or width >= width_needed
        return list(scores[:K] if is_wide else scores[-K:])

    asked.append(narrowest_width(find, stored))
    return asked


def test_vectors_that_are_found_at_once_are_walked_narrowly() -> None:
    assert _walk_that_needs(1, STORED)[-1] == WIDTHS[0]


def test_the_walk_widens_until_it_finds_what_an_exact_search_finds() -> None:
    assert _walk_that_needs(200, STORED)[-1] == 256


def test_a_graph_that_is_never_good_enough_is_walked_as_wide_as_can_be() -> None:
    assert _walk_that_needs(10_000, STORED)[-1] == WIDTHS[-1]


def test_equal_vectors_in_another_order_are_found() -> None:
    equal = np.repeat(STORED[:1], 40, axis=0)

    assert _walk_that_needs(10_000, equal)[-1] == WIDTHS[0]


def test_an_empty_collection_needs_no_measuring() -> None:
    assert _walk_that_needs(1, np.empty((0, 64), np.float32)) == [WIDTHS[0]]
