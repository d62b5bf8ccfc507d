"""Is fine-tuning worth it? From what was measured, not from a feeling.

The order is that of cost: a better weighting of the two legs costs a minute and no reindex, pairs
cost people or an LLM, and a new model costs the training and a new generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Recommendation = Literal[
    "off-the-shelf",
    "tune retrieval first",
    "generate data first",
    "fine-tune",
    "fine-tune and improve retrieval",
]

DEFAULT_TARGET = 0.8  # nDCG@10
GAP = 0.05  # nDCG@10 below the target from which a new model is worth its cost
RETRIEVAL_GAIN = 0.01  # nDCG@10 from which another fusion is worth a mention
PAIRS_FOR_EFFECT = 500
PAIRS_TO_START = 1_000
PAIRS_FOR_STRONG = 5_000
MIN_QUERIES = 50  # judged queries, below which a baseline is a rough one

# What fine-tuning brings the dense leg, in nDCG@10, from so many pairs on: low and high of what is
# usual. Measured with this recipe: 919 pairs of scientific claims +0.065, 5,700 of contracts +0.24.
_USUAL_GAIN: tuple[tuple[int, tuple[float, float]], ...] = (
    (PAIRS_FOR_STRONG, (0.05, 0.25)),
    (PAIRS_TO_START, (0.03, 0.12)),
    (PAIRS_FOR_EFFECT, (0.01, 0.07)),
    (0, (0.0, 0.02)),
)
_PASSED_ON = (0.4, 1.0)  # share of the dense leg's gain that a fused ranking keeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """Mean nDCG@10 of what there is, on the same judged queries."""

    queries: int
    lexical: float
    dense: float
    hybrid: float  # plain rank fusion
    tuned: float  # the fitted fusion, cross-validated
    current: float  # what users get now
    found: float  # share of the relevant documents among the first 100 of either leg

    @property
    def best(self) -> float:
        """With the model as it is."""
        return max(self.lexical, self.dense, self.hybrid, self.tuned, self.current)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReindexCost:
    """What a generation of another model costs, as `plan` measures it."""

    documents: int
    docs_per_s: float
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """What to do, and why."""

    recommendation: Recommendation
    reasons: tuple[str, ...]
    target: float
    gap: float  # from what users get now to the target; 0 when it is reached
    gap_after_tuning: float  # what the best retrieval with this model leaves
    expected: tuple[float, float] | None  # nDCG@10 after the recommended step; None: nothing to do

    def to_json(self) -> dict[str, Any]:
        return {
            "recommendation": self.recommendation,
            "reasons": list(self.reasons),
            "target": self.target,
            "gap": round(self.gap, 4),
            "gap_after_tuning": round(self.gap_after_tuning, 4),
            "expected": None
            if self.expected is None
            else {"low": round(self.expected[0], 4), "high": round(self.expected[1], 4)},
            "thresholds": {
                "gap": GAP,
                "retrieval_gain": RETRIEVAL_GAIN,
                "pairs_for_effect": PAIRS_FOR_EFFECT,
                "pairs_to_start": PAIRS_TO_START,
                "pairs_for_strong": PAIRS_FOR_STRONG,
                "queries": MIN_QUERIES,
            },
        }


def advise(
    baseline: Baseline,
    *,
    pairs: int,
    target: float = DEFAULT_TARGET,
    reindex: ReindexCost | None = None,
) -> Advice:
    """The cheapest step that can close the gap to the target (nDCG@10).

    pairs: training pairs at hand. reindex: None when the corpus is not known.
    """
    gap = max(0.0, round(target - baseline.current, 6))
    gain = round(baseline.best - baseline.current, 6)
    gap_after = max(0.0, round(gap - gain, 6)) if gain >= RETRIEVAL_GAIN else gap
    recommendation = _recommendation(gap, gap_after, gain, pairs)
    expected = _expected(recommendation, baseline, pairs)
    reasons = [_about_gap(baseline, target, gap), *_about_retrieval(baseline, gain, gap_after)]
    if gap > 0 and recommendation not in ("off-the-shelf", "tune retrieval first"):
        if baseline.found < target:
            reasons.append(
                f"{1 - baseline.found:.0%} of the relevant documents are not among the first 100 "
                "of either leg: no fusion or reranker can bring them up, another model can"
            )
        reasons.append(_about_pairs(pairs))
        reasons += _about_reach(expected, target)
        if reindex is not None:
            reasons.append(_about_cost(reindex))
    if baseline.queries < MIN_QUERIES:
        reasons.append(
            f"measured on {baseline.queries} judged queries only: the figures are rough, and "
            f"{MIN_QUERIES} or more would say more than any other step"
        )
    return Advice(
        recommendation=recommendation,
        reasons=tuple(reasons),
        target=target,
        gap=gap,
        gap_after_tuning=gap_after,
        expected=expected,
    )


def usual_gain(pairs: int) -> tuple[float, float]:
    """Low and high of what fine-tuning on so many pairs brings the dense leg, in nDCG@10."""
    return next(gain for at_least, gain in _USUAL_GAIN if pairs >= at_least)


def _recommendation(gap: float, gap_after: float, gain: float, pairs: int) -> Recommendation:
    helps = gain >= RETRIEVAL_GAIN
    if gap_after <= GAP:
        return "tune retrieval first" if helps and gap > 0 else "off-the-shelf"
    if pairs < PAIRS_FOR_EFFECT:
        return "generate data first"
    return "fine-tune and improve retrieval" if helps else "fine-tune"


def _expected(
    recommendation: Recommendation, baseline: Baseline, pairs: int
) -> tuple[float, float] | None:
    if recommendation == "off-the-shelf":
        return None
    if recommendation == "tune retrieval first":
        return (baseline.best, baseline.best)
    # Of generated data the least that is worth training on counts.
    low, high = usual_gain(max(pairs, PAIRS_TO_START))
    start = baseline.current if recommendation == "fine-tune" else baseline.best
    return (
        min(1.0, start + low * _PASSED_ON[0]),
        min(1.0, start + high * _PASSED_ON[1]),
    )


# -- reasons in words ----------------------------------------------------------------------------


def _about_gap(baseline: Baseline, target: float, gap: float) -> str:
    now = f"users get nDCG@10 {baseline.current:.3f} now"
    if not gap:
        return f"{now}, and {target:.3f} is wanted: the target is reached"
    side = "a new model is worth its cost from" if gap > GAP else "less than"
    return f"{now}, {gap:.3f} below the target of {target:.3f} ({side} {GAP})"


def _about_retrieval(baseline: Baseline, gain: float, gap_after: float) -> list[str]:
    legs = (
        f"lexical {baseline.lexical:.3f}, dense {baseline.dense:.3f}, plain hybrid "
        f"{baseline.hybrid:.3f}, fitted hybrid {baseline.tuned:.3f} (cross-validated)"
    )
    if gain < RETRIEVAL_GAIN:
        return [f"retrieval is as good as this model allows: {legs}"]
    rest = f"and leaves {gap_after:.3f}" if gap_after else "and closes the gap"
    return [f"another fusion of the same legs brings {gain:+.3f} at no cost, {rest}: {legs}"]


def _about_pairs(pairs: int) -> str:
    if pairs < PAIRS_FOR_EFFECT:
        return (
            f"{pairs:,} training pairs: an effect shows from {PAIRS_FOR_EFFECT} on, "
            f"{PAIRS_TO_START:,} are a start; {PAIRS_TO_START - pairs:,} are missing"
        )
    if pairs < PAIRS_TO_START:
        return f"{pairs:,} training pairs are enough for an effect; {PAIRS_TO_START:,} are better"
    if pairs < PAIRS_FOR_STRONG:
        strong = f"{PAIRS_FOR_STRONG:,}"
        return f"{pairs:,} training pairs are a good start; results are strong from {strong} on"
    return f"{pairs:,} training pairs are enough for strong results"


def _about_reach(expected: tuple[float, float] | None, target: float) -> list[str]:
    if expected is None or expected[1] >= target:
        return []
    return [
        f"even the best that is usual, {expected[1]:.3f}, does not reach {target:.3f}: more pairs, "
        "a larger base model or a reranker have to bring the rest"
    ]


def _about_cost(reindex: ReindexCost) -> str:
    return (
        f"a new model means encoding {reindex.documents:,} documents again: about "
        f"{reindex.seconds / 3_600:.1f} hours at {reindex.docs_per_s:,.1f} a second, while search "
        "goes on"
    )
