"""Scores of parts of the judged queries: slices that the queries name, seen and unseen documents."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from training.metrics import PRIMARY_METRIC, Difference, Scores, paired_bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceScore:
    """The primary metric of base and tuned model on some of the queries."""

    name: str
    n_queries: int
    base: float
    tuned: float
    difference: Difference | None  # None when there are no queries


def slice_scores(
    groups: Mapping[str, Iterable[str]],
    base: Scores,
    tuned: Scores,
    *,
    metric: str = PRIMARY_METRIC,
) -> list[SliceScore]:
    """One score for each group of query ids, in their order. A query may be in several groups.

    Ids that were not scored are left out. Raises ValueError when base and tuned were not scored on
    the same queries.
    """
    if base.query_ids != tuned.query_ids:
        raise ValueError("base and tuned were scored on different queries; score both on one split")
    rows = {query_id: row for row, query_id in enumerate(base.query_ids)}
    return [
        _slice_score(
            name,
            base.per_query[metric][chosen := [rows[item] for item in query_ids if item in rows]],
            tuned.per_query[metric][chosen],
        )
        for name, query_ids in groups.items()
    ]


def _slice_score(
    name: str, base: np.typing.NDArray[np.float64], tuned: np.typing.NDArray[np.float64]
) -> SliceScore:
    if not len(base):
        return SliceScore(name=name, n_queries=0, base=0.0, tuned=0.0, difference=None)
    return SliceScore(
        name=name,
        n_queries=len(base),
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        difference=paired_bootstrap(tuned, base),
    )
