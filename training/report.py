"""The report of a training run: what a manager decides by, with everything an engineer checks.

`describe_training` gathers the facts as plain values, `write_report` writes them as one
self-contained HTML page and as a Markdown twin.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.evaluation import Evaluation, differences, most_changed
from training.judgments import Judgments, find_documents, read_judgments
from training.metrics import PRIMARY_METRIC, Difference
from training.pairs import Pair
from training.seen import TrainedDocuments, split_by_seen
from training.slices import SliceScore, slice_scores, telling_slices

QUERIES_SHOWN = 5  # that gained most, and as many that lost most
HITS_SHOWN = 5
TITLE_CHARS = 110


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
    base_rank: int | None = None  # of the first relevant document; None past the run
    tuned_rank: int | None = None


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
    gate_reason: str  # a clause: `nDCG@10 +0.056; 0.02 was asked for`
    min_gain: float  # nDCG@10 that the gate asks for
    advice: Sequence[str] = ()  # what to try when it is not better, as clauses
    seen: Sequence[SliceScore] = ()  # by whether the relevant documents were trained on
    seen_documents: tuple[int, int] | None = None  # trained on, of so many relevant ones
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

    @property
    def base_full(self) -> Evaluation:
        """The base model with its whole vectors."""
        return next(iter(self.base_evaluations.values()))

    @property
    def tuned_full(self) -> Evaluation:
        """The tuned model with its whole vectors."""
        return next(iter(self.tuned_evaluations.values()))

    @property
    def gain(self) -> Difference:
        """Of the primary metric."""
        return self.differences[PRIMARY_METRIC]


def describe_training(
    *,
    model: str,
    base: str,
    folder: Path,
    split: str,
    command: str,
    base_evaluations: Mapping[int, Evaluation],
    tuned_evaluations: Mapping[int, Evaluation],
    pairs: Iterable[Pair],
    gate_passed: bool,
    gate_reason: str,
    min_gain: float,
    **more: Any,
) -> TrainingReport:
    """The report of a run, with what follows from its evaluations worked out: differences, seen and
    unseen documents, slices, and the queries that gained and lost most.

    pairs: what was trained on. more: the other fields of TrainingReport (advice, curves, facts,
    settings, hardware, seconds). Reads the folder's corpus twice. Raises JudgmentsInvalid.
    """
    judgments = read_judgments(folder, split)
    before, after = next(iter(base_evaluations.values())), next(iter(tuned_evaluations.values()))
    by_seen = split_by_seen(folder, judgments, TrainedDocuments.of(pairs))
    gained, lost = changed_queries(folder, judgments, before, after)
    return TrainingReport(
        model=model,
        base=base,
        folder=str(folder),
        split=split,
        command=command,
        base_evaluations=base_evaluations,
        tuned_evaluations=tuned_evaluations,
        differences=differences(after.scores, before.scores),
        gate_passed=gate_passed,
        gate_reason=gate_reason,
        min_gain=min_gain,
        seen=slice_scores(by_seen.groups(), before.scores, after.scores),
        seen_documents=(by_seen.n_seen_documents, by_seen.n_documents),
        slices=slice_scores(telling_slices(judgments), before.scores, after.scores),
        gained=gained,
        lost=lost,
        **{"created_at": datetime.now(UTC).isoformat(timespec="seconds"), **more},
    )


def changed_queries(
    folder: Path, judgments: Judgments, base: Evaluation, tuned: Evaluation
) -> tuple[list[ChangedQuery], list[ChangedQuery]]:
    """The queries that gained most and those that lost most in nDCG@10, up to 5 each.

    Both evaluations are of the same split. Raises JudgmentsInvalid.
    """
    before = base.scores.per_query[PRIMARY_METRIC]
    after = tuned.scores.per_query[PRIMARY_METRIC]
    gained, lost = most_changed(after - before, QUERIES_SHOWN)
    shown = {base.scores.query_ids[row] for row in lost + gained}
    doc_ids = {
        doc_id
        for evaluation in (base, tuned)
        for query_id in shown
        for doc_id, _ in evaluation.run[query_id][:HITS_SHOWN]
    }
    titles = {
        item.doc_id: shorten(item.title or item.text) for item in find_documents(folder, doc_ids)
    }

    def changed(row: int) -> ChangedQuery:
        query_id = base.scores.query_ids[row]
        relevant = set(judgments.relevant(query_id))
        base_hits, tuned_hits = (
            tuple(
                RankedTitle(
                    doc_id=doc_id, title=titles.get(doc_id, doc_id), relevant=doc_id in relevant
                )
                for doc_id, _ in evaluation.run[query_id][:HITS_SHOWN]
            )
            for evaluation in (base, tuned)
        )
        return ChangedQuery(
            query_id=query_id,
            text=judgments.queries[query_id],
            base=float(before[row]),
            tuned=float(after[row]),
            base_hits=base_hits,
            tuned_hits=tuned_hits,
            base_rank=_first(base.run[query_id], relevant),
            tuned_rank=_first(tuned.run[query_id], relevant),
        )

    return [changed(row) for row in gained], [changed(row) for row in lost]


def _first(hits: Sequence[tuple[str, float]], relevant: Container[str]) -> int | None:
    return next((rank for rank, (doc_id, _) in enumerate(hits, 1) if doc_id in relevant), None)


def shorten(text: str, n_chars: int = TITLE_CHARS) -> str:
    """One line, cut at a word."""
    line = " ".join(text.split())
    return (
        line if len(line) <= n_chars else line[:n_chars].rpartition(" ")[0] + "\N{NO-BREAK SPACE}…"
    )


def write_report(report: TrainingReport, folder: Path) -> tuple[Path, Path]:
    """Write report.html and report.md into the folder, and return where they are.

    Raises ExtraMissing when matplotlib is not installed.
    """
    from training.pages import write_twins
    from training.report_pages import training_html, training_markdown

    return write_twins(folder / "report.html", training_html(report), training_markdown(report))
