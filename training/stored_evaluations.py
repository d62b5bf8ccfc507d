"""Evaluations that were made before. A model version never changes, so on the same documents and
judgments it need not be measured twice: not after a kill, and not for the next training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.evaluation import Evaluation
from training.metrics import Scores
from training.model_version import ModelVersion
from training.whole_file import write_whole


def evaluation_file(
    root: Path,
    version: ModelVersion,
    folder: Path,
    split: str,
    dims: Sequence[int],
    *,
    device: str,
    dtype: str,
) -> Path:
    """Where the evaluation of this version is kept: by everything that it depends on.

    folder: a BEIR folder; its files count by what they hold. Raises OSError when one is missing.
    """
    digest = hashlib.sha256()
    for part in (version.fingerprint, device.partition(":")[0], dtype, split, *sorted(dims)):
        digest.update(f"{part}\n".encode())
    for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return root / f"{digest.hexdigest()[:32]}.json"


def write_evaluations(path: Path, evaluations: Mapping[int, Evaluation]) -> None:
    value = [
        {
            "dim": item.dim,
            "query_ids": item.scores.query_ids,
            "per_query": {name: row.tolist() for name, row in item.scores.per_query.items()},
            "run": item.run,
        }
        for item in evaluations.values()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(value, ensure_ascii=False))


def read_evaluations(path: Path) -> dict[int, Evaluation]:
    """What write_evaluations wrote; empty when it did not."""
    if not path.exists():
        return {}
    return {
        item["dim"]: Evaluation(
            dim=item["dim"],
            scores=Scores(
                query_ids=tuple(item["query_ids"]),
                per_query={name: np.array(found) for name, found in item["per_query"].items()},
            ),
            run={
                query_id: [(doc_id, value) for doc_id, value in hits]
                for query_id, hits in item["run"].items()
            },
        )
        for item in json.loads(path.read_bytes())
    }
