"""How much each position of a page of results is looked at, estimated from clicks.

The position-based click model (Richardson, Dominowska, Ragno 2007): clicks of a query and document
at position k have the mean shown x examination(k) x attraction(query, document). It is fitted as a
Poisson regression with a fixed effect for each query and document, by alternating between the two
factors. Only documents that the same query showed at several positions say anything about the
positions, and the estimate is consistent however many documents there are (Hausman, Hall, Griliches
1984).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_PRIOR_CLICKS = 20.0  # expected at a position; so much the assumption 1/position weighs
_ITERATIONS = 200


def examination(
    counts: Sequence[tuple[Mapping[int, int], Mapping[int, int]]],
) -> dict[int, float]:
    """How much each position is looked at, of the one that is looked at most (0..1].

    counts: for each query and document how often it was shown, and clicked, by position. The
    assumption 1/position stands in where documents hardly ever changed places.
    """
    import numpy as np

    positions = sorted({position for shown, _ in counts for position in shown})
    column = {position: at for at, position in enumerate(positions)}
    moved = [(shown, clicks) for shown, clicks in counts if len(shown) > 1 and clicks]
    cells = [
        (at, column[position], n, clicks.get(position, 0))
        for at, (shown, clicks) in enumerate(moved)
        for position, n in shown.items()
    ]
    rows, columns, shown_n, clicked_n = np.array(cells, dtype=np.int64).reshape(-1, 4).T
    clicks_of_row = np.bincount(rows, clicked_n, minlength=len(moved))
    clicks_at = np.bincount(columns, clicked_n, minlength=len(positions))
    prior = 1 / np.array(positions, dtype=np.float64)
    found = prior
    for _ in range(_ITERATIONS):
        looked_at = np.bincount(rows, shown_n * found[columns], minlength=len(moved))
        attraction = clicks_of_row / looked_at
        expected = np.bincount(columns, shown_n * attraction[rows], minlength=len(positions))
        found = (clicks_at + _PRIOR_CLICKS * prior) / (expected + _PRIOR_CLICKS)
        found = found / found.max(initial=0.0)
    return dict(zip(positions, found.tolist(), strict=True))
