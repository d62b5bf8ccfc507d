"""How many queries training is watched with, and what they cost."""

from __future__ import annotations

import pytest

from training.dev_set import make_dev_set
from training.pairs import Pair


def pairs_of(n_queries: int, per_query: int = 1) -> list[Pair]:
    return [
        Pair(anchor=f"question number {query}", positive=f"answer {query} variant {variant}")
        for query in range(n_queries)
        for variant in range(per_query)
    ]


@pytest.mark.parametrize(
    ("n_queries", "watched"),
    [(159, 0), (160, 16), (240, 24), (320, 32), (640, 32), (1_000, 50), (4_000, 200), (9_000, 200)],
)
def test_a_twentieth_of_the_queries_is_held_out_within_bounds(n_queries: int, watched: int) -> None:
    dev, left = make_dev_set(pairs_of(n_queries), folder=None, test_split="test", seed=0)

    assert (len(dev.queries) if dev is not None else 0) == watched
    assert len(left) == n_queries - watched


def test_all_pairs_of_a_held_out_query_are_held_out() -> None:
    pairs = pairs_of(400, per_query=3)

    dev, left = make_dev_set(pairs, folder=None, test_split="test", seed=1)

    assert dev is not None
    assert len(pairs) - len(left) == 3 * len(dev.queries)
    assert not set(dev.queries.values()) & {pair.anchor for pair in left}
    assert {len(doc_ids) for doc_ids in dev.relevant.values()} == {3}
