"""A fusion fitted to judged queries: how much each leg is to count, and how deep to look.

Few judgments go a long way here, because one number is fitted, the weight of the dense leg, and it
is kept from following the noise of single queries: the mean nDCG over the weights is smoothed, the
best weight is the mean of what many resamples of the queries would choose, and that is drawn
half-way to what the legs alone suggest, which fewer queries suffice to tell. `benchmarks/fusion.py`
measures what that is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.fusion import PLAIN_RRF, fuse
from search.recipe import FusionRecipe
from training.metrics import PRIMARY_METRIC, Difference, PerQuery, Qrels, paired_bootstrap, score

DEPTHS = (100, 200)  # of the weighted mean; the first one unless another is surely better
FIT_DEPTH = max(DEPTHS)  # documents that each leg has to give for a fit
DENSE_WEIGHTS = np.round(np.arange(21) / 20, 2)  # tried, (21,)
SURELY = 1.64  # standard errors of a mean difference: one-sided, 95 %
NEARLY_ALONE = 0.9  # weight of a leg beside which the other has to earn its say
SMOOTHING = 0.1  # standard deviation of the kernel, in weight
PRIOR = 0.5  # share in the fitted weight of what the legs alone suggest
RESAMPLES = 200
FOLDS = 5
K = 10  # of nDCG@10
_SEED = 20_090_719


class ScoredDocument(NamedTuple):
    """A hit as far as fusion is concerned."""

    doc_id: str
    score: float


class Legs(NamedTuple):
    """What both legs say to one query, best first, FIT_DEPTH documents if they have as many."""

    lexical: Sequence[ScoredDocument]
    dense: Sequence[ScoredDocument]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FusionFit:
    """What was fitted, and what it is worth on queries that it was not fitted on."""

    recipe: FusionRecipe
    query_ids: tuple[str, ...]
    per_query: Mapping[str, PerQuery]  # nDCG@10 by name: lexical, dense, rrf, fitted
    by_dense_weight: Mapping[float, float]  # mean nDCG@10 of the weighted mean at recipe.depth

    @property
    def chosen(self) -> str:
        """convex, rrf, lexical or dense."""
        if self.recipe.method == "rrf":
            return "rrf"
        only = {0.0: "lexical", 1.0: "dense"}
        return only.get(self.recipe.dense_weight, "convex")

    @property
    def best_leg(self) -> str:
        return _best_leg(self.per_query)

    def means(self) -> dict[str, float]:
        """Mean nDCG@10 by name; fitted is cross-validated."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}

    def gain_over(self, name: str) -> Difference:
        """Of the fitted fusion, cross-validated; 95 % paired-bootstrap interval."""
        return paired_bootstrap(self.per_query["fitted"], self.per_query[name])


def fit_fusion(
    legs: Mapping[str, Legs],
    qrels: Qrels,
    *,
    on_progress: Callable[[int], None] = lambda _queries_done: None,
) -> FusionFit:
    """The fusion with the best nDCG@10 on these queries, of those that generalise.

    A weighted mean of scores, unless plain RRF or one leg alone is surely better, or a leg that has
    nearly all the weight does as well alone. They are compared with the cross-validated weighted
    mean: the weight that a query is scored with was fitted without it.

    legs, qrels: by query id; queries without a relevant document are left out, for they cannot tell
    one ranking from another. Raises ValueError when fewer than two are left.
    """
    judged = {
        query_id: grades
        for query_id, grades in sorted(qrels.items())
        if query_id in legs and any(grade > 0 for grade in grades.values())
    }
    if len(judged) < 2:
        raise ValueError(
            f"found {len(judged)} queries with a relevant document; expected 2 or more"
        )
    measured = _measure({query_id: legs[query_id] for query_id in judged}, judged, on_progress)
    baselines = {name: measured.of[name] for name in ("lexical", "dense", "rrf")}

    depth = DEPTHS[0]
    validated = _cross_validated(measured.convex[depth])
    for other in DEPTHS[1:]:
        deeper = _cross_validated(measured.convex[other])
        if _beats(deeper, validated):
            depth, validated = other, deeper
    curve = measured.convex[depth]
    weight = _best_weight(curve)
    leg = _best_leg(baselines)

    recipe = _convex(weight, measured.dense_span, depth)
    fitted = validated
    if _beats(baselines[leg], fitted) or (
        _weight_of(leg, recipe) >= NEARLY_ALONE and baselines[leg].mean() >= fitted.mean()
    ):
        recipe = _convex(float(leg == "dense"), measured.dense_span, DEPTHS[0])
        fitted = baselines[leg]
    if _beats(baselines["rrf"], fitted):
        recipe, fitted = PLAIN_RRF, baselines["rrf"]
    return FusionFit(
        recipe=recipe,
        query_ids=tuple(judged),
        per_query={**baselines, "fitted": fitted},
        by_dense_weight=dict(zip(DENSE_WEIGHTS.tolist(), curve.mean(axis=1).tolist(), strict=True)),
    )


def _convex(dense_weight: float, dense_span: float, depth: int) -> FusionRecipe:
    return FusionRecipe(
        method="convex",
        lexical_weight=round(1 - dense_weight, 2),
        dense_weight=dense_weight,
        dense_span=dense_span,
        depth=depth,
    )


def _weight_of(leg: str, recipe: FusionRecipe) -> float:
    return recipe.dense_weight if leg == "dense" else recipe.lexical_weight


def _best_leg(per_query: Mapping[str, PerQuery]) -> str:
    return max(("dense", "lexical"), key=lambda name: float(per_query[name].mean()))


def _beats(one: PerQuery, other: PerQuery) -> bool:
    """Surely better, and not by chance."""
    differences = one - other
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    return float(differences.mean()) > SURELY * error


# -- nDCG of every candidate on every query ------------------------------------------------------


class _Measured(NamedTuple):
    of: Mapping[str, PerQuery]  # lexical, dense, rrf
    convex: Mapping[int, NDArray[np.float64]]  # by depth, (len(DENSE_WEIGHTS), n_queries)
    dense_span: float


def _measure(
    legs: Mapping[str, Legs], qrels: Qrels, on_progress: Callable[[int], None]
) -> _Measured:
    dense_span = _dense_span(legs)
    candidates: dict[object, FusionRecipe] = {
        "lexical": _convex(0.0, dense_span, DEPTHS[0]),
        "dense": _convex(1.0, dense_span, DEPTHS[0]),
        "rrf": PLAIN_RRF,
        **{
            (depth, row): _convex(weight, dense_span, depth)
            for depth in DEPTHS
            for row, weight in enumerate(DENSE_WEIGHTS.tolist())
        },
    }
    runs: dict[object, dict[str, list[str]]] = {name: {} for name in candidates}
    for done, (query_id, both) in enumerate(legs.items(), 1):
        for name, recipe in candidates.items():
            depth = recipe.depth
            fused = fuse(both.lexical[:depth], both.dense[:depth], recipe, K, depth=depth)
            runs[name][query_id] = [place.doc_id for place in fused]
        on_progress(done)
    scored = {name: score(run, qrels).per_query[PRIMARY_METRIC] for name, run in runs.items()}
    return _Measured(
        of={name: scored[name] for name in ("lexical", "dense", "rrf")},
        convex={
            depth: np.stack([scored[depth, row] for row in range(len(DENSE_WEIGHTS))])
            for depth in DEPTHS
        },
        dense_span=dense_span,
    )


def _dense_span(legs: Mapping[str, Legs]) -> float:
    """From the best to the last document of the dense leg, the mean over the queries: the scale of
    this model's cosines in this corpus, so that weights mean the same for every model."""
    spans = [
        dense[0].score - dense[: DEPTHS[0]][-1].score
        for _, dense in legs.values()
        if len(dense) > 1
    ]
    return float(np.mean(spans)) or 1.0 if spans else 1.0


# -- one weight from noisy queries ---------------------------------------------------------------


def _best_weight(curve: NDArray[np.float64]) -> float:
    """One of DENSE_WEIGHTS. curve: (len(DENSE_WEIGHTS), n_queries), nDCG by weight and query.

    Half of it is the mean, over bootstrap resamples of the queries (bagging, Breiman 1996), of the
    weight at which the smoothed mean is highest. The other half is d² / (l² + d²), where l and d
    are what the lexical and the dense leg reach alone: legs that are equally good count equally.
    """
    n_queries = curve.shape[1]
    rng = np.random.default_rng(_SEED)
    times_drawn = rng.multinomial(n_queries, np.full(n_queries, 1 / n_queries), size=RESAMPLES)
    means = times_drawn @ curve.T / n_queries  # (RESAMPLES, n_weights)
    apart = DENSE_WEIGHTS[:, None] - DENSE_WEIGHTS[None, :]
    kernel = np.exp(-0.5 * (apart / SMOOTHING) ** 2)
    kernel /= kernel.sum(axis=0)
    smoothed = means @ kernel
    is_highest = (
        smoothed >= smoothed.max(axis=1, keepdims=True) - 1e-9
    )  # more than one on a plateau
    highest = float((is_highest @ DENSE_WEIGHTS / is_highest.sum(axis=1)).mean())
    lexical, dense = float(curve[0].mean()), float(curve[-1].mean())
    suggested = dense**2 / (lexical**2 + dense**2) if lexical or dense else 0.5
    best = (1 - PRIOR) * highest + PRIOR * suggested
    return float(DENSE_WEIGHTS[np.abs(DENSE_WEIGHTS - best).argmin()])


def _cross_validated(curve: NDArray[np.float64]) -> PerQuery:
    """(n_queries,) nDCG of each query with the weight that the other folds choose."""
    n_queries = curve.shape[1]
    fold = np.random.default_rng(_SEED).permutation(n_queries) % FOLDS
    validated = np.empty(n_queries)
    for held_out in np.unique(fold):
        weight = _best_weight(curve[:, fold != held_out])
        row = int(np.flatnonzero(weight == DENSE_WEIGHTS)[0])
        validated[fold == held_out] = curve[row, fold == held_out]
    return validated
