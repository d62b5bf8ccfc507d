"""An encoder by itself on a folder, as `evaluate --model` reports it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.progress import Progress
    from training.probes import Task


def score_model(
    data: DataDirectory,
    progress: Progress,
    folder: Path,
    split: str,
    model: str,
    *,
    dims: Sequence[int] = (),
) -> dict[str, Any]:
    """Exact dense search over a BEIR folder: the metrics of the whole vectors, of every dimension
    in dims, and of the slices that the queries name. Raises JudgmentsInvalid, ModelUnsupported."""
    from training.evaluation import evaluate_dims
    from training.judgments import count_documents, read_judgments
    from training.slices import slice_means, telling_slices

    judgments = read_judgments(folder, split)
    version, encoder = _load(data, progress, model)
    progress.update(0, total=count_documents(folder), state="encoding documents")
    found = evaluate_dims(encoder, folder, split, dims, on_progress=progress.update)
    full, *shorter = found.values()
    groups = telling_slices(judgments)
    return {
        "generation": None,
        "model": version,
        "metrics": {
            "dense": full.scores.means(),
            **{f"dense:{item.dim}": item.scores.means() for item in shorter},
        },
        "slices": {"dense": slice_means(groups, full.scores)} if groups else {},
        "missing_documents": 0,
    }


def probe_model(
    data: DataDirectory, progress: Progress, folder: Path, task: Task, model: str, *, seed: int
) -> dict[str, Any]:
    """The encoder on duplicates, clustering or classification. Raises JudgmentsInvalid."""
    from training.probes import probe

    version, encoder = _load(data, progress, model)
    progress.update(0, state="encoding texts")
    result = probe(encoder, folder, task, seed=seed, on_progress=progress.update)
    return {"model": version, **result.to_json(), "seed": seed}


def _load(data: DataDirectory, progress: Progress, model: str) -> tuple[str, Any]:
    progress.update(state=f"loading {model}")
    from reindexer.recipes import find_model

    version = str(find_model(data, model))
    return version, data.load_encoder(version)
