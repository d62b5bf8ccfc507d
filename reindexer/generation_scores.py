"""What a generation scores on judged queries, mode by mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.live import open_live
from reindexer.progress import Progress
from search.answer import Mode, RunMode
from search.recipe import FusionRecipe
from training.judgments import Judgments, judgments_hash
from training.metrics import DEPTH, score
from training.slices import slice_means, telling_slices

_DOCUMENTS_AT_ONCE = 500


def score_generation(
    data: DataDirectory,
    progress: Progress,
    judgments: Judgments,
    modes: Sequence[Mode],
    generation: str | None = None,
) -> dict[str, Any]:
    """Metrics by mode of the live generation, or of the one named, as `evaluate --json` prints
    them. Where hybrid is a fitted fusion, plain RRF is measured too."""
    query_ids, texts = list(judgments.queries), list(judgments.queries.values())
    metrics: dict[str, dict[str, float]] = {}
    slices: dict[str, dict[str, dict[str, float]]] = {}
    groups = telling_slices(judgments)
    missing = missing_documents(data, judgments)
    left: list[RunMode] = list(modes)
    with open_live(data, generation, on_wait=lambda text: progress.update(state=text)) as live:
        answer: dict[str, Any] = {}
        fusion = FusionRecipe()
        while left:
            mode = left.pop(0)
            done = len(metrics) * len(texts)
            progress.update(done, total=done + (1 + len(left)) * len(texts), state=mode)
            answer = live.runs(texts, mode=mode, depth=DEPTH, on_progress=_after(done, progress))
            scores = score(dict(zip(query_ids, answer["runs"], strict=True)), judgments.qrels)
            metrics[mode] = scores.means()
            if groups:
                slices[mode] = slice_means(groups, scores)
            fusion = data.catalog.get(answer["generation"]).recipe.fusion
            if mode == "hybrid" and fusion.fitted is not None:
                left.append("hybrid-rrf")
    return {
        "generation": answer["generation"],
        "model": answer["model"],
        "metrics": metrics,
        "slices": slices,
        "fusion": _fusion_json(fusion, judgments),
        "missing_documents": missing,
    }


def missing_documents(data: DataDirectory, judgments: Judgments) -> int:
    """How many relevant documents the corpus does not have."""
    relevant = {
        doc_id
        for grades in judgments.qrels.values()
        for doc_id, grade in grades.items()
        if grade > 0
    }
    wanted, found = sorted(relevant), 0
    for start in range(0, len(wanted), _DOCUMENTS_AT_ONCE):
        found += len(data.corpus.get_many(wanted[start : start + _DOCUMENTS_AT_ONCE]))
    return len(wanted) - found


def _fusion_json(fusion: FusionRecipe, judgments: Judgments) -> dict[str, Any]:
    value = {**asdict(fusion), "in_words": fusion.in_words}
    if fusion.fitted is not None:
        is_same = fusion.fitted.judgments_sha256 == judgments_hash(judgments)
        value["fitted"]["on_these_queries"] = is_same
    return value


def _after(done_before: int, progress: Progress) -> Callable[[int], None]:
    return lambda done: progress.update(done_before + done)
