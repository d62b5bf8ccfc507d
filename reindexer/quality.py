"""Retrieval quality of a candidate against the live generation, on judged queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from reindexer.data_directory import DataDirectory
from reindexer.live import open_live
from reindexer.verify import Check
from search.serving import OpenGeneration
from training.judgments import Judgments, read_judgments
from training.metrics import Scores, paired_bootstrap, score

Mode = Literal["hybrid", "dense", "lexical"]

MAX_LOSS_NDCG = 0.01  # a candidate may score so much less than live and still pass
PRIMARY_METRIC = "ndcg@10"
DEPTH = 100
QUERIES_PER_CALL = 64


def check_quality(
    data: DataDirectory, opened: OpenGeneration, directory: Path, split: str
) -> tuple[Check, Mapping[str, Any]]:
    """The gate's check on quality, and the metrics of `verify --json`.

    Both generations answer the split's queries as users would get them (hybrid). The interval is a
    95 % paired bootstrap. Raises JudgmentsInvalid when the folder cannot be used.
    """
    return compare_with_live(data, opened.name, opened.searcher.runs, directory, split)


def compare_with_live(
    data: DataDirectory, name: str, runs: Any, directory: Path, split: str
) -> tuple[Check, Mapping[str, Any]]:
    """The same for a generation that another process has open. runs: as in `score_answers`."""
    judgments = read_judgments(directory, split)
    queries = list(judgments.queries.values())
    candidate = score_answers(judgments, runs, "hybrid")
    live = data.catalog.live()
    if live is None or live.name == name:
        found = f"{PRIMARY_METRIC} {candidate.means()[PRIMARY_METRIC]:.4f}"
        check = Check(
            name="quality",
            passed=True,
            found=f"{found} on {len(queries)} queries",
            expected="anything: nothing else is live to compare with",
        )
        return check, {"live": None, "candidate": candidate.means(), "difference": None}
    with open_live(data) as answering:
        baseline = score_answers(judgments, answering.runs, "hybrid")
    difference = paired_bootstrap(
        candidate.per_query[PRIMARY_METRIC], baseline.per_query[PRIMARY_METRIC]
    )
    check = Check(
        name="quality",
        passed=difference.mean >= -MAX_LOSS_NDCG,
        found=f"{PRIMARY_METRIC} {candidate.means()[PRIMARY_METRIC]:.4f} against "
        f"{baseline.means()[PRIMARY_METRIC]:.4f} of {live.name}, a difference of "
        f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]",
        expected=f"no more than {MAX_LOSS_NDCG} below the live generation",
        detail=f"{len(queries)} queries",
    )
    return check, {
        "live": baseline.means(),
        "candidate": candidate.means(),
        "difference": {PRIMARY_METRIC: difference.to_json()},
    }


def score_answers(judgments: Judgments, runs: Any, mode: Mode) -> Scores:
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
