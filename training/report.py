"""The report of a training run: what a manager decides by, with everything an engineer checks.

`TrainingReport` holds plain values; `write_report` writes them as one self-contained HTML page and
as a Markdown twin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.evaluation import Evaluation
from training.metrics import Difference
from training.slices import SliceScore


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedTitle:
    """One hit as the report shows it."""

    doc_id: str
    title: str
    relevant: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedQuery:
    """A query that gained or lost, with what both models found for it."""

    query_id: str
    text: str
    base: float  # nDCG@10
    tuned: float  # nDCG@10
    base_hits: tuple[RankedTitle, ...]
    tuned_hits: tuple[RankedTitle, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFacts:
    """What the model was trained on."""

    pairs: int  # that were trained on
    dropped: Mapping[str, int] = field(default_factory=dict)  # pairs by reason
    leaked_queries: Sequence[str] = ()  # training queries dropped since they are evaluated, too
    noise_share: float | None = None  # estimated share of mismatched pairs, 0..1
    words: Mapping[str, Sequence[int]] = field(default_factory=dict)  # median, 95 %, longest
    pairs_sha256: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingReport:
    """Everything that the report of one training run says. Scores are shares of 1."""

    model: str  # support@4
    base: str
    folder: str  # of the judged queries
    split: str
    command: str  # that repeats it
    base_evaluations: Mapping[int, Evaluation]  # by dimension, the full one first
    tuned_evaluations: Mapping[int, Evaluation]
    differences: Mapping[str, Difference]  # tuned minus base at full dimension, by metric
    gate_passed: bool
    gate_reason: str  # one clause: `the interval of the gain is above 0`
    min_gain: float  # nDCG@10 that the gate asks for
    advice: Sequence[str] = ()  # what to try, when it is not better
    seen: Sequence[SliceScore] = ()  # by whether the relevant documents were trained on
    slices: Sequence[SliceScore] = ()
    gained: Sequence[ChangedQuery] = ()  # most first
    lost: Sequence[ChangedQuery] = ()  # most first
    loss_curve: Sequence[tuple[int, float]] = ()  # step, training loss
    metric_curve: Sequence[tuple[float, float]] = ()  # epoch, nDCG@10 on what was held out
    facts: DataFacts | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    hardware: str = ""
    seconds: float = 0.0  # of training
    created_at: str = ""  # ISO 8601, UTC


def write_report(report: TrainingReport, folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md into the folder, and return where they are."""
    raise NotImplementedError
