"""What a training is asked for, what it measured, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training.audit import CrossScores
from training.evaluation import Evaluation, differences
from training.gate import Gate
from training.metrics import PRIMARY_METRIC, Difference
from training.model_version import ModelVersion
from training.training_recipe import TrainingRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTask:
    """What is trained on what, and what proves it."""

    recipe: TrainingRecipe
    pairs_file: Path | str
    base: ModelVersion
    name: str  # of the new version
    guide: ModelVersion | None = None  # for the gist loss
    evaluation: Path | None = None  # BEIR folder; without it nobody knows whether it is better
    split: str = "test"
    corpus: Path | None = None  # BEIR folder to mine negatives from; the evaluation's unless given
    scores_of: CrossScores | None = None  # judges mined negatives in place of the base
    strict: bool = False  # refuse pairs that ask what the evaluation asks, instead of dropping them
    command: str = ""  # that repeats this


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Base and tuned on the same judged queries, by dimension, the full one first."""

    base: Mapping[int, Evaluation]
    tuned: Mapping[int, Evaluation]

    @cached_property
    def differences(self) -> dict[str, Difference]:
        """Tuned minus base at the full dimension, by metric."""
        return differences(
            next(iter(self.tuned.values())).scores, next(iter(self.base.values())).scores
        )

    def to_json(self) -> dict[str, Any]:
        """Every metric at the full dimension, and the primary one at each."""
        return {
            "base": next(iter(self.base.values())).scores.means(),
            "tuned": next(iter(self.tuned.values())).scores.means(),
            "difference": {name: value.to_json() for name, value in self.differences.items()},
            "dims": {
                str(dim): {
                    "base": self.base[dim].scores.means()[PRIMARY_METRIC],
                    "tuned": tuned.scores.means()[PRIMARY_METRIC],
                }
                for dim, tuned in self.tuned.items()
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOutcome:
    """A version that was trained, measured and registered."""

    version: ModelVersion
    base: ModelVersion
    pairs: int  # that were trained on
    epochs: float
    steps: int
    stopped_early: bool
    seconds: float  # of training, without mining and measuring
    measured: Measured | None
    gate: Gate
    advice: Sequence[str]  # what to try when the gate refused
    dropped_queries: Sequence[str]  # asked by the evaluation, too
    facts: Mapping[str, Any]  # found while preparing
    report: Path | None

    @property
    def metrics(self) -> dict[str, Any]:
        """As Measured.to_json; empty when nothing was measured."""
        return self.measured.to_json() if self.measured is not None else {}

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.version),
            "base": str(self.base),
            "pairs": self.pairs,
            "epochs": self.epochs,
            "steps": self.steps,
            "stopped_early": self.stopped_early,
            "seconds": round(self.seconds, 3),
            "metrics": self.metrics,
            "registered": True,
            "gate": self.gate.verdict,
            "gate_reason": self.gate.reason,
            "advice": list(self.advice),
            "dropped_queries": list(self.dropped_queries),
            "facts": dict(self.facts),
            "report": str(self.report) if self.report is not None else None,
            "fingerprint": self.version.fingerprint,
        }
