"""Whether a trained version is better than its base, and what to try when it is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from training.metrics import PRIMARY_METRIC, Difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """A verdict with its reason, in one sentence."""

    passed: bool
    reason: str

    @property
    def verdict(self) -> Literal["passed", "refused"]:
        return "passed" if self.passed else "refused"


def judge(differences: Mapping[str, Difference] | None, min_gain: float) -> Gate:
    """Tuned minus base, by metric; None when nothing was measured.

    Passed when the gain in the primary metric is min_gain or more and its interval lies above 0.
    """
    if differences is None:
        return Gate(
            passed=False,
            reason="nobody measured it: it was trained without judged queries (--eval DIR)",
        )
    gain = differences[PRIMARY_METRIC]
    found = f"nDCG@10 {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    if gain.mean < min_gain:
        return Gate(passed=False, reason=f"{found}; a gain of {min_gain:g} was asked for")
    if gain.low <= 0:
        return Gate(passed=False, reason=f"{found}; the interval reaches down to no gain at all")
    return Gate(passed=True, reason=f"{found}; {min_gain:g} was asked for")


def advice(
    gate: Gate, differences: Mapping[str, Difference] | None, pairs_file: str
) -> tuple[str, ...]:
    """What to try next, most likely first; nothing when the gate passed."""
    if gate.passed:
        return ()
    if differences is None:
        return ("measure it: train again with --eval DIR, a BEIR folder with judged queries",)
    gain = differences[PRIMARY_METRIC]
    if gain.mean < 0:
        return (
            f"look at the pairs: `reindexer pairs audit {pairs_file}` shows a sample and how many "
            "look mismatched",
            "train for fewer epochs (--epochs 1)",
            "take smaller steps (--learning-rate 1e-5)",
        )
    return (
        f"look at the pairs: `reindexer pairs audit {pairs_file}`",
        "train on more pairs: 500 for an effect, 5,000 for a strong one",
        "add hard negatives (--negatives same-document, or --negatives both)",
    )
