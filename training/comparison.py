"""Several models, at several dimensions, on the same queries: which is better, and what is luck.

Intervals are 95 % paired bootstraps against one baseline. Who stands beside the best of a metric is
decided over all pairs: two models are told apart where the p-value of their difference, corrected
for the number of pairs (Holm 1979), is below 0.05. So it does not matter which one came out best.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.measurement import Measurement
from training.metrics import METRICS, PRIMARY_METRIC, Difference, Scores
from training.resampling import Values, bootstrap_means, holm, interval, p_value

SIGNIFICANCE = 0.05
BYTES_PER_NUMBER = 4  # of a vector, in float32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contender:
    """One model at one dimension."""

    model: str
    dim: int
    full_dim: int  # of the whole vectors
    scores: Scores
    measurement: Measurement  # shared by the dimensions of a model

    @property
    def name(self) -> str:
        return contender_name(self.model, self.dim, self.full_dim)

    @property
    def vector_bytes(self) -> int:
        return BYTES_PER_NUMBER * self.dim


@dataclass(frozen=True, kw_only=True, slots=True)
class Winner:
    """The best of one metric."""

    metric: str
    name: str
    mean: float
    not_told_apart: tuple[str, ...]  # others that may be as good


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparison:
    """Contenders on the same judged queries."""

    folder: str
    split: str
    contenders: Sequence[Contender]
    baseline: str  # name of a contender
    differences: Mapping[str, Mapping[str, Difference]]  # by contender but the baseline, by metric
    winners: Sequence[Winner]  # one a metric

    @property
    def n_queries(self) -> int:
        return len(self.contenders[0].scores.query_ids)

    @property
    def n_documents(self) -> int:
        return self.contenders[0].measurement.n_documents

    @property
    def winner(self) -> Winner:
        """Of the primary metric."""
        return next(winner for winner in self.winners if winner.metric == PRIMARY_METRIC)

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "split": self.split,
            "queries": self.n_queries,
            "documents": self.n_documents,
            "baseline": self.baseline,
            "models": [self._contender_json(contender) for contender in self.contenders],
            "winners": {
                winner.metric: {
                    "model": winner.name,
                    "mean": winner.mean,
                    "not_significantly_different": list(winner.not_told_apart),
                }
                for winner in self.winners
            },
        }

    def _contender_json(self, contender: Contender) -> dict[str, Any]:
        measured = contender.measurement
        found = self.differences.get(contender.name)
        return {
            "name": contender.name,
            "model": contender.model,
            "dim": contender.dim,
            "metrics": contender.scores.means(),
            "difference": found and {metric: item.to_json() for metric, item in found.items()},
            "docs_per_s": round(measured.docs_per_s, 1),
            "tokens_per_s": round(measured.tokens_per_s, 1),
            "device": measured.device,
            "dtype": measured.dtype,
            "memory_bytes": measured.memory_bytes,
            "device_memory_bytes": measured.device_memory_bytes,
            "vector_bytes": contender.vector_bytes,
        }


def contender_name(model: str, dim: int, full_dim: int) -> str:
    """`support@4`, or `support@4:128` for the first 128 dimensions. dim: 0 for all of them."""
    return model if dim in (0, full_dim) else f"{model}:{dim}"


def contenders(
    measurements: Sequence[Measurement], wanted: Mapping[str, Sequence[int]]
) -> list[Contender]:
    """What was measured, as contenders. wanted: dimensions by model, 0 for all a model has."""
    found = []
    for measured in measurements:
        full = next(iter(measured.scores))
        for dim in dict.fromkeys(dim or full for dim in wanted[measured.model]):
            found.append(
                Contender(
                    model=measured.model,
                    dim=dim,
                    full_dim=full,
                    scores=measured.scores[dim],
                    measurement=measured,
                )
            )
    return found


def compare(
    folder: str, split: str, contenders: Sequence[Contender], *, baseline: str
) -> Comparison:
    """Every contender against the baseline, and the best of every metric.

    Raises ValueError when there are none, when two have one name, when none is called like the
    baseline, or when they were not scored on the same queries.
    """
    names = [contender.name for contender in contenders]
    if baseline not in names or len(set(names)) != len(names):
        raise ValueError(f"found {names}; expected different names, and {baseline!r} among them")
    if len({contender.scores.query_ids for contender in contenders}) != 1:
        raise ValueError("the contenders were scored on different queries; score all on one split")
    values = np.stack(
        [[item.scores.per_query[metric] for metric in METRICS] for item in contenders]
    )  # (n_contenders, n_metrics, n_queries)
    drawn = bootstrap_means(values.reshape(-1, values.shape[-1]).T)
    drawn = drawn.T.reshape(*values.shape[:2], -1)  # (n_contenders, n_metrics, n_draws)
    at = names.index(baseline)
    differences = {
        name: {
            metric: interval(
                float((values[row, column] - values[at, column]).mean()),
                drawn[row, column] - drawn[at, column],
            )
            for column, metric in enumerate(METRICS)
        }
        for row, name in enumerate(names)
        if row != at
    }
    winners = [
        _winner(metric, names, values[:, column].mean(axis=1), drawn[:, column])
        for column, metric in enumerate(METRICS)
    ]
    return Comparison(
        folder=folder,
        split=split,
        contenders=contenders,
        baseline=baseline,
        differences=differences,
        winners=winners,
    )


def _winner(metric: str, names: Sequence[str], means: Values, drawn: Values) -> Winner:
    """means: (n_contenders,), drawn: (n_contenders, n_draws)."""
    best = int(means.argmax())
    pairs = list(itertools.combinations(range(len(names)), 2))
    corrected = holm(
        [
            p_value(float(means[one] - means[other]), drawn[one] - drawn[other])
            for one, other in pairs
        ]
    )
    beside = {
        one + other - best
        for (one, other), value in zip(pairs, corrected, strict=True)
        if best in (one, other) and value >= SIGNIFICANCE
    }
    return Winner(
        metric=metric,
        name=names[best],
        mean=float(means[best]),
        not_told_apart=tuple(names[row] for row in sorted(beside)),
    )
