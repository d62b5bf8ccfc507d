"""How sure a mean over queries is: the bootstrap of many columns at once, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.metrics import Difference

N_SAMPLES = 10_000
_BLOCK_VALUES = 1_000_000  # drawn at once; three arrays of 8 MB

Values = NDArray[np.float64]


def bootstrap_means(values: Values, *, n: int = N_SAMPLES, seed: int = 0) -> Values:
    """(n, n_columns): the mean of every column over queries drawn with replacement, n times.

    One draw serves all columns, so differences of columns are paired (Efron 1979; for retrieval,
    Sakai 2006). The draws are those of `paired_bootstrap` with the same seed. values: (n_queries,
    n_columns). Raises ValueError when there are no queries.
    """
    n_queries = len(values)
    if not n_queries:
        raise ValueError("found no queries; expected at least one to draw from")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK_VALUES // n_queries)
    means = []
    for done in range(0, n, block):
        rows = min(block, n - done)
        drawn = rng.integers(n_queries, size=(rows, n_queries))
        drawn += np.arange(rows)[:, None] * n_queries
        times = np.bincount(drawn.ravel(), minlength=rows * n_queries).reshape(rows, n_queries)
        means.append(times.astype(np.float64) @ values / n_queries)
    return np.concatenate(means)


def interval(mean: float, drawn: Values) -> Difference:
    """The mean with its 95 % percentile interval. drawn: (n,), the same mean of each draw."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(mean=mean, low=float(low), high=float(high))


def p_value(mean: float, drawn: Values) -> float:
    """Two-sided: how often a draw strays from the mean as far as the mean is from 0.

    The bootstrap of the shifted differences (Efron and Tibshirani 1993, algorithm 16.2, without
    the studentising). drawn: (n,).
    """
    as_far = int(np.count_nonzero(np.abs(drawn - mean) >= abs(mean)))
    return (1 + as_far) / (1 + len(drawn))


def holm(p_values: Sequence[float]) -> list[float]:
    """The same p-values, corrected for there being several (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = highest
    return corrected
