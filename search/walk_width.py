"""How wide to walk an HNSW graph: no wider than it takes to find what an exact search finds.

How many candidates a walk must keep (`ef`, Malkov and Yashunin 2018) depends on the vectors: those
of text lie along few directions and are found at once, random ones are not. So it is measured on
every finished graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from search.dense import FloatMatrix, FloatVector
from search.recall import queries_near, share_found

WIDTHS = (64, 96, 128, 192, 256, 384, 512)  # tried, narrowest first
WANTED_RECALL = 0.98  # of the exact K nearest
K = 10
N_QUERIES = 64
_SEED = 0

# The scores of the K nearest to a vector, by a walk of this width; None: by an exact search.
Find = Callable[[FloatVector, int | None], Sequence[float]]


def narrowest_width(find: Find, stored: FloatMatrix) -> int:
    """The narrowest of WIDTHS that finds enough; the widest when none does.

    stored: (n, dim) vectors of the collection; the queries are near these.
    """
    if not len(stored):
        return WIDTHS[0]
    queries = queries_near(stored, seed=_SEED)
    exact = [find(query, None) for query in queries]
    for width in WIDTHS:
        shares = [
            share_found(find(query, width), wanted)
            for query, wanted in zip(queries, exact, strict=True)
        ]
        if np.mean(shares) >= WANTED_RECALL:
            return width
    return WIDTHS[-1]
