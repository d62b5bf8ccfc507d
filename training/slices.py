"""Scores of some of the judged queries: the slices they belong to, or any other groups of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.judgments import Judgments
from training.metrics import PRIMARY_METRIC, Difference, PerQuery, Scores, paired_bootstrap

MIN_SLICE_QUERIES = 5  # fewer say nothing about a model
MAX_SLICES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceScore:
    """The primary metric of base and tuned model on some of the queries."""

    name: str
    n_queries: int
    base: float
    tuned: float
    difference: Difference | None  # None when there are no queries


def telling_slices(judgments: Judgments) -> dict[str, tuple[str, ...]]:
    """Query ids by slice, the largest slices first.

    Left out are slices of fewer than 5 queries (metadata such as an address is a slice of one),
    those that hold every query, and what comes after 30.
    """
    n_queries = len(judgments.queries)
    telling = {
        name: query_ids
        for name, query_ids in judgments.slices.items()
        if MIN_SLICE_QUERIES <= len(query_ids) < n_queries
    }
    by_size = sorted(telling, key=lambda name: (-len(telling[name]), name))
    return {name: telling[name] for name in by_size[:MAX_SLICES]}


def slice_means(groups: Mapping[str, Iterable[str]], scores: Scores) -> dict[str, dict[str, float]]:
    """The mean of every metric over each group of query ids, and `queries`, their number."""
    rows = {query_id: row for row, query_id in enumerate(scores.query_ids)}
    means: dict[str, dict[str, float]] = {}
    for name, query_ids in groups.items():
        chosen = [rows[query_id] for query_id in query_ids if query_id in rows]
        if chosen:
            means[name] = {
                "queries": len(chosen),
                **{
                    metric: float(values[chosen].mean())
                    for metric, values in scores.per_query.items()
                },
            }
    return means


def slice_scores(
    groups: Mapping[str, Iterable[str]],
    base: Scores,
    tuned: Scores,
    *,
    metric: str = PRIMARY_METRIC,
) -> list[SliceScore]:
    """Base and tuned model on each group of query ids, in their order.

    A query may be in several groups; ids that were not scored are left out. Raises ValueError when
    base and tuned were not scored on the same queries.
    """
    if base.query_ids != tuned.query_ids:
        raise ValueError("base and tuned were scored on different queries; score both on one split")
    rows = {query_id: row for row, query_id in enumerate(base.query_ids)}
    scored = []
    for name, query_ids in groups.items():
        chosen = [rows[query_id] for query_id in query_ids if query_id in rows]
        scored.append(
            _slice_score(name, base.per_query[metric][chosen], tuned.per_query[metric][chosen])
        )
    return scored


def _slice_score(name: str, base: PerQuery, tuned: PerQuery) -> SliceScore:
    if not len(base):
        return SliceScore(name=name, n_queries=0, base=0.0, tuned=0.0, difference=None)
    return SliceScore(
        name=name,
        n_queries=len(base),
        base=float(base.mean()),
        tuned=float(tuned.mean()),
        difference=paired_bootstrap(tuned, base),
    )
