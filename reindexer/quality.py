"""Retrieval quality of a candidate against the live generation, on judged queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from reindexer.data_directory import DataDirectory
from reindexer.live import open_live
from reindexer.tuning import fit_candidate
from reindexer.verify import Check
from search.answer import RunMode
from search.fusion_fit import FusionFit
from search.generations import Generation
from search.serving import OpenGeneration
from training.evaluation import differences, most_changed
from training.judgments import Judgments, judgments_hash, read_judgments
from training.metrics import DEPTH, PRIMARY_METRIC, Scores, score

MAX_LOSS_NDCG = 0.01  # a candidate may score so much less than live and still pass
QUERIES_PER_CALL = 64
QUERIES_SHOWN = 5  # that gained most, and as many that lost most


def check_quality(
    data: DataDirectory, opened: OpenGeneration, directory: Path, split: str
) -> tuple[Check, Mapping[str, Any]]:
    """The gate's check on quality, and the metrics of `verify --json`.

    Both generations answer the split's queries as users would get them (hybrid). The interval is a
    95 % paired bootstrap. When the live generation's fusion was fitted, the candidate's is fitted
    first, and its cross-validated nDCG counts. Raises JudgmentsInvalid when the folder cannot be
    used.
    """
    judgments = read_judgments(directory, split)
    opened, fit = fit_candidate(data, opened, judgments)
    check, metrics = _compare(data, opened.name, opened.searcher.runs, judgments, fit)
    return check, {**metrics, "judged": _judged(directory, split, judgments)}


def compare_with_live(
    data: DataDirectory, name: str, runs: Any, directory: Path, split: str
) -> tuple[Check, Mapping[str, Any]]:
    """The same for a generation that another process has open, with the fusion that it has.

    runs: as in `score_answers`.
    """
    judgments = read_judgments(directory, split)
    check, metrics = _compare(data, name, runs, judgments, None)
    return check, {**metrics, "judged": _judged(directory, split, judgments)}


def _compare(
    data: DataDirectory, name: str, runs: Any, judgments: Judgments, fit: FusionFit | None
) -> tuple[Check, Mapping[str, Any]]:
    generation, live = data.catalog.get(name), data.catalog.live()
    compared = [generation] if live is None or live.name == name else [generation, live]
    modes: list[RunMode] = ["hybrid"]
    if any(item.recipe.fusion.fitted is not None for item in compared):
        modes.append("hybrid-rrf")
    candidate = {mode: score_answers(judgments, runs, mode) for mode in modes}
    if fit is not None:
        candidate["hybrid"] = _as_validated(candidate["hybrid"], fit)
    baseline: Mapping[RunMode, Scores] = {}
    if len(compared) > 1:
        with open_live(data) as answering:
            baseline = {mode: score_answers(judgments, answering.runs, mode) for mode in modes}
    by_mode = {mode: _side_by_side(candidate[mode], baseline.get(mode)) for mode in modes}
    metrics = by_mode["hybrid"]
    if "hybrid-rrf" in by_mode:
        metrics["rrf"] = by_mode["hybrid-rrf"]
    metrics["against"] = compared[1].name if len(compared) > 1 else None
    if baseline:
        metrics["changed"] = _changed(judgments, candidate["hybrid"], baseline["hybrid"])
    detail = [f"{len(judgments.queries)} queries"]
    detail += [_fused(item, judgments) for item in compared if item.recipe.fusion.fitted]
    return _check(metrics, "; ".join(detail)), metrics


def _judged(directory: Path, split: str, judgments: Judgments) -> dict[str, Any]:
    return {"folder": str(directory), "split": split, "queries": len(judgments.queries)}


def _changed(judgments: Judgments, candidate: Scores, baseline: Scores) -> dict[str, Any]:
    """How many queries are answered better and worse in nDCG@10, and those that changed most."""
    before, after = baseline.per_query[PRIMARY_METRIC], candidate.per_query[PRIMARY_METRIC]
    change = after - before
    gained, lost = most_changed(change, QUERIES_SHOWN)

    def rows(places: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {
                "query_id": candidate.query_ids[place],
                "query": judgments.queries[candidate.query_ids[place]],
                "live": float(before[place]),
                "candidate": float(after[place]),
            }
            for place in places
        ]

    return {
        "better": int((change > 0).sum()),
        "worse": int((change < 0).sum()),
        "alike": int((change == 0).sum()),
        "gained": rows(gained),
        "lost": rows(lost),
    }


def _check(metrics: Mapping[str, Any], detail: str) -> Check:
    found = f"{PRIMARY_METRIC} {metrics['candidate'][PRIMARY_METRIC]:.4f}"
    expected, passed = "anything: nothing else is live to compare with", True
    if metrics["live"] is not None:
        difference = metrics["difference"][PRIMARY_METRIC]
        found += (
            f" against {metrics['live'][PRIMARY_METRIC]:.4f} of {metrics['against']}, a difference "
            f"of {difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )
        expected = f"no more than {MAX_LOSS_NDCG} below the live generation"
        passed = difference["mean"] >= -MAX_LOSS_NDCG
    if "rrf" in metrics:
        found += f"; with plain RRF {metrics['rrf']['candidate'][PRIMARY_METRIC]:.4f}"
        if metrics["rrf"]["live"] is not None:
            found += f" against {metrics['rrf']['live'][PRIMARY_METRIC]:.4f}"
    return Check(name="quality", passed=passed, found=found, expected=expected, detail=detail)


def _side_by_side(candidate: Scores, baseline: Scores | None) -> dict[str, Any]:
    if baseline is None:
        return {"live": None, "candidate": candidate.means(), "difference": None}
    return {
        "live": baseline.means(),
        "candidate": candidate.means(),
        "difference": {
            name: item.to_json() for name, item in differences(candidate, baseline).items()
        },
    }


def _as_validated(scores: Scores, fit: FusionFit) -> Scores:
    """nDCG@10 of each query with a fusion that was fitted without it: what the fitted fusion is
    worth to queries that it does not know."""
    validated = dict(zip(fit.query_ids, fit.per_query["fitted"].tolist(), strict=True))
    known = dict(zip(scores.query_ids, scores.per_query[PRIMARY_METRIC].tolist(), strict=True))
    values = np.array([validated.get(query_id, value) for query_id, value in known.items()])
    return replace(scores, per_query={**scores.per_query, PRIMARY_METRIC: values})


def _fused(generation: Generation, judgments: Judgments) -> str:
    fusion = generation.recipe.fusion
    assert fusion.fitted is not None
    is_same = fusion.fitted.judgments_sha256 == judgments_hash(judgments)
    return f"{generation.name} fuses {fusion.in_words}" + (", these ones" if is_same else "")


def score_answers(judgments: Judgments, runs: Any, mode: RunMode) -> Scores:
    """Metrics of what a generation answers to the judged queries.

    runs: `Searcher.runs`, or the same through the service.
    """
    query_ids = list(judgments.queries)
    ranked: dict[str, Sequence[str]] = {}
    for start in range(0, len(query_ids), QUERIES_PER_CALL):
        ids = query_ids[start : start + QUERIES_PER_CALL]
        texts = [judgments.queries[query_id] for query_id in ids]
        answer = runs(texts, mode=mode, depth=DEPTH)
        ranked.update(zip(ids, answer["runs"], strict=True))
    return score(ranked, judgments.qrels)
