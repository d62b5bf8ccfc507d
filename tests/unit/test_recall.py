"""What an approximate search finds of an exact one."""

from __future__ import annotations

import numpy as np

from search.recall import queries_near, share_found


def test_what_is_missed_counts_against_the_search() -> None:
    assert share_found([0.9, 0.3], [0.9, 0.8]) == 0.5
    assert share_found([], [0.9, 0.8]) == 0.0


def test_hits_as_near_as_the_last_exact_one_are_found() -> None:
    assert share_found([0.9, 0.8, 0.8, 0.8], [0.9, 0.8]) == 1.0
    assert share_found([0.9, 0.8 - 1e-6], [0.9, 0.8]) == 1.0


def test_queries_are_near_what_is_stored_and_none_of_it() -> None:
    stored = np.eye(20, 64, dtype=np.float32)

    queries = queries_near(stored, seed=1)
    cosines = (queries * stored).sum(axis=1)

    assert np.allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-6)
    assert (cosines > 0.9).all()
    assert (cosines < 0.999).all()
    assert (queries_near(stored, seed=2) != queries).any()
