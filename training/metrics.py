"""Retrieval metrics over a run and its judgments, and the interval of a difference.

The definitions are trec_eval's, so figures can be compared with published ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ranking = Sequence[str] | Mapping[str, float]  # doc_ids best first, or the score of each doc_id
Run = Mapping[str, Ranking]  # by query id
Qrels = Mapping[str, Mapping[str, int]]  # grade by query id and doc_id; above 0 is relevant
PerQuery = NDArray[np.float64]  # (n_queries,)

PRIMARY_METRIC = "ndcg@10"
METRICS = (
    "ndcg@1",
    "ndcg@5",
    "ndcg@10",
    "recall@1",
    "recall@5",
    "recall@10",
    "recall@50",
    "recall@100",
    "mrr@10",
    "map@100",
)
DEPTH = 100  # ranks that any of the metrics looks at

_BOOTSTRAP_BLOCK = 4_000_000  # sampled values held at once: 64 MB with their indices


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """Every metric of every query, in one order of queries."""

    query_ids: tuple[str, ...]  # sorted, so that two runs over the same judgments can be paired
    per_query: Mapping[str, PerQuery]  # by metric name, each (n_queries,)

    def means(self) -> dict[str, float]:
        """The mean of each metric over the queries; 0.0 when there are none."""
        return {
            name: float(values.mean()) if len(values) else 0.0
            for name, values in self.per_query.items()
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Mean of the paired differences and its interval, of 95 % unless said otherwise."""

    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        return {"mean": self.mean, "low": self.low, "high": self.high}


def score(run: Run, qrels: Qrels) -> Scores:
    """Every metric in METRICS for every judged query.

    A query without judgments is left out; a judged query without results counts 0. Equal scores
    stand in trec_eval's order, by doc_id from last to first; a list of doc_ids is taken as it is.
    Gains are linear and the discount of a rank is 1 / log2(rank + 1) (Järvelin and Kekäläinen
    2002, as in trec_eval). Raises ValueError when a ranking names a document twice or gives it a
    score that is not a number.
    """
    query_ids = tuple(sorted(query_id for query_id, grades in qrels.items() if grades))
    gains = np.zeros((len(query_ids), DEPTH))
    ideal = np.zeros((len(query_ids), DEPTH))
    n_relevant = np.zeros(len(query_ids))
    for row, query_id in enumerate(query_ids):
        grades = qrels[query_id]
        relevant = sorted((grade for grade in grades.values() if grade > 0), reverse=True)
        n_relevant[row] = len(relevant)
        ideal[row, : len(relevant)] = relevant[:DEPTH]
        ranked = _ranked(query_id, run.get(query_id, ()))[:DEPTH]
        gains[row, : len(ranked)] = [max(grades.get(doc_id, 0), 0) for doc_id in ranked]
    return Scores(query_ids=query_ids, per_query=_per_query(gains, ideal, n_relevant))


def paired_bootstrap(
    candidate: PerQuery,
    baseline: PerQuery,
    n: int = 10_000,
    seed: int = 0,
    coverage: float = 0.95,
) -> Difference:
    """Mean of candidate minus baseline over the same queries, and its percentile interval.

    The queries are drawn again with replacement n times (Efron 1979; for retrieval, Sakai 2006).
    candidate, baseline: (n_queries,), in one order of queries. Raises ValueError when the shapes
    differ or are empty.
    """
    if candidate.shape != baseline.shape or candidate.ndim != 1 or not len(candidate):
        raise ValueError(
            f"found values of shape {candidate.shape} and {baseline.shape}; expected one value for "
            "each of the same queries, and at least one query"
        )
    differences = np.asarray(candidate - baseline, dtype=np.float64)
    n_queries = len(differences)
    rng = np.random.default_rng(seed)
    block = max(1, _BOOTSTRAP_BLOCK // n_queries)
    means = np.concatenate(
        [
            differences[rng.integers(n_queries, size=(min(block, n - done), n_queries))].mean(
                axis=1
            )
            for done in range(0, n, block)
        ]
    )
    low, high = np.quantile(means, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Difference(mean=float(differences.mean()), low=float(low), high=float(high))


def _ranked(query_id: str, ranking: Ranking) -> Sequence[str]:
    if not isinstance(ranking, Mapping):
        if len(set(ranking)) != len(ranking):
            raise ValueError(f"query {query_id!r}: the run names a document more than once")
        return ranking
    if any(math.isnan(value) for value in ranking.values()):
        raise ValueError(f"query {query_id!r}: the run has a score that is not a number")
    return sorted(ranking, key=lambda doc_id: (ranking[doc_id], doc_id), reverse=True)


def _per_query(
    gains: NDArray[np.float64], ideal: NDArray[np.float64], n_relevant: PerQuery
) -> dict[str, PerQuery]:
    """gains, ideal: (n_queries, DEPTH), the grades as ranked and as they would be at best."""
    ranks = np.arange(1, DEPTH + 1)
    discounts = 1 / np.log2(ranks + 1)
    is_relevant = gains > 0
    found = np.cumsum(is_relevant, axis=1)
    result: dict[str, PerQuery] = {}
    for name in METRICS:
        kind, _, cut = name.partition("@")
        k = int(cut)
        if kind == "ndcg":
            result[name] = _share(gains[:, :k] @ discounts[:k], ideal[:, :k] @ discounts[:k])
        elif kind == "recall":
            result[name] = _share(found[:, k - 1], n_relevant)
        elif kind == "mrr":
            result[name] = (is_relevant[:, :k] / ranks[:k]).max(axis=1, initial=0.0)
        else:
            precisions = np.where(is_relevant, found / ranks, 0.0)
            result[name] = _share(precisions[:, :k].sum(axis=1), n_relevant)
    return result


def _share(part: NDArray[np.generic], whole: PerQuery) -> PerQuery:
    """part / whole, and 0 where the whole is 0: a query that has no relevant document."""
    shares: PerQuery = np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
    return shares
