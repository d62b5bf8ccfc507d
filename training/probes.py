"""What else an encoder's vectors are good for: finding duplicates, clustering, classification.

A folder holds JSON Lines, one file a task or one a part of it:

    duplicates.jsonl       {"text1": "…", "text2": "…", "duplicate": true}
                           or duplicates.dev.jsonl and duplicates.test.jsonl
    clustering.jsonl       {"text": "…", "label": "…"}
    classification.jsonl   {"text": "…", "label": "…"}
                           or classification.train.jsonl and classification.test.jsonl

A single file is cut in two halves, label by label, by a seed. All texts are encoded as documents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from training.errors import JudgmentsInvalid
from training.evaluation import Matrix, TextEncoder
from training.judgments import read_rows

Task = Literal["duplicates", "clustering", "classification"]
TASKS: tuple[Task, ...] = get_args(Task)
NEIGHBOURS = 5
KMEANS_STARTS = 10
TEXTS_PER_BLOCK = 4_096

Similarities = NDArray[np.float32]  # (n,), cosines
Labels = NDArray[Any]  # (n,)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeResult:
    """What an encoder reached on one task."""

    task: Task
    metrics: Mapping[str, float]
    counts: Mapping[str, int]  # texts or pairs by part, and labels

    def to_json(self) -> dict[str, Any]:
        return {"task": self.task, "metrics": dict(self.metrics), "counts": dict(self.counts)}


def probe(
    encoder: TextEncoder,
    folder: Path,
    task: Task,
    *,
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> ProbeResult:
    """Score an encoder on a folder's task. on_progress gets the number of texts encoded so far.

    duplicates: F1, precision and recall on the test part at the cosine that was best for F1 on the
    dev part, and average precision, which needs none. clustering: purity and V-measure (Rosenberg
    and Hirschberg 2007) of k-means with as many clusters as there are labels. classification:
    accuracy of the 5 nearest neighbours and of logistic regression, fitted on the train part.

    Raises JudgmentsInvalid, and what the encoder raises.
    """
    encode = _Encode(encoder, on_progress)
    if task == "duplicates":
        return _duplicates(encode, folder, seed)
    if task == "clustering":
        return _clustering(encode, folder, seed)
    return _classification(encode, folder, seed)


def best_threshold(similarities: Similarities, is_duplicate: NDArray[np.bool_]) -> float:
    """The cosine from which on pairs are called duplicates for the best F1; halfway to the next
    lower one that occurs. Raises ValueError when no pair is a duplicate."""
    if not is_duplicate.any():
        raise ValueError("found no duplicate; expected at least one to choose a threshold by")
    order = np.argsort(-similarities, kind="stable")
    ordered = similarities[order].astype(np.float64)
    found = np.cumsum(is_duplicate[order])
    f1 = 2 * found / (np.arange(1, len(ordered) + 1) + is_duplicate.sum())
    f1[:-1][ordered[:-1] == ordered[1:]] = -1  # equal cosines cannot be told apart
    last = int(f1.argmax())
    below = ordered[last + 1] if last + 1 < len(ordered) else -1.0
    return float((ordered[last] + below) / 2)


def purity(labels: Labels, clusters: NDArray[np.integer[Any]]) -> float:
    """The share of texts whose label is the most frequent one of their cluster."""
    most = 0
    for cluster in np.unique(clusters):
        _, times = np.unique(labels[clusters == cluster], return_counts=True)
        most += int(times.max())
    return most / len(labels)


class _Encode:
    """Texts to rows in blocks, counting them for the one who waits."""

    def __init__(self, encoder: TextEncoder, on_progress: Callable[[int], None] | None) -> None:
        self._encoder = encoder
        self._on_progress = on_progress
        self._n_done = 0

    def __call__(self, texts: Sequence[str]) -> Matrix:
        parts = []
        for start in range(0, len(texts), TEXTS_PER_BLOCK):
            block = texts[start : start + TEXTS_PER_BLOCK]
            parts.append(self._encoder.encode_documents(block))
            self._n_done += len(block)
            if self._on_progress is not None:
                self._on_progress(self._n_done)
        return np.concatenate(parts)


def _duplicates(encode: _Encode, folder: Path, seed: int) -> ProbeResult:
    from sklearn.metrics import average_precision_score

    dev, test = _two_parts(folder, "duplicates", "dev", "test", _read_pairs, seed)
    similarities, truths = {}, {}
    for part, rows in (("dev", dev), ("test", test)):
        truths[part] = np.array([label for _, label in rows], dtype=bool)
        if not truths[part].any() or truths[part].all():
            raise JudgmentsInvalid(
                f"{folder}: the {part} part of duplicates has {int(truths[part].sum())} duplicates "
                f"among {len(rows)} pairs; expected some and some that are none"
            )
        one, other = (encode([texts[side] for texts, _ in rows]) for side in (0, 1))
        similarities[part] = np.einsum("nd,nd->n", one, other)
    threshold = best_threshold(similarities["dev"], truths["dev"])
    called, true = similarities["test"] >= threshold, truths["test"]
    hits = int((called & true).sum())
    precision, recall = hits / max(int(called.sum()), 1), hits / int(true.sum())
    return ProbeResult(
        task="duplicates",
        metrics={
            "f1": 2 * hits / (int(called.sum()) + int(true.sum())),
            "precision": precision,
            "recall": recall,
            "average_precision": float(average_precision_score(true, similarities["test"])),
            "threshold": threshold,
        },
        counts={"dev": len(dev), "test": len(test)},
    )


def _clustering(encode: _Encode, folder: Path, seed: int) -> ProbeResult:
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    path = folder / "clustering.jsonl"
    if not path.is_file():
        raise _missing(folder, path.name, "clustering")
    rows = _read_labelled(path)
    labels = np.array([label for _, label in rows])
    n_labels = len(set(labels))
    if n_labels < 2:
        raise JudgmentsInvalid(f"{folder}: clustering has {n_labels} label; expected 2 or more")
    vectors = encode([text for text, _ in rows])
    if len(np.unique(vectors, axis=0)) < n_labels:
        clusters = np.unique(vectors, axis=0, return_inverse=True)[1].reshape(-1)
    else:
        clusters = KMeans(n_labels, n_init=KMEANS_STARTS, random_state=seed).fit_predict(vectors)
    return ProbeResult(
        task="clustering",
        metrics={
            "purity": purity(labels, clusters),
            "v_measure": float(v_measure_score(labels, clusters)),
        },
        counts={"texts": len(rows), "labels": n_labels},
    )


def _classification(encode: _Encode, folder: Path, seed: int) -> ProbeResult:
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    train, test = _two_parts(folder, "classification", "train", "test", _read_labelled, seed)
    labels, truths = (np.array([label for _, label in rows]) for rows in (train, test))
    if len(set(labels)) < 2:
        raise JudgmentsInvalid(
            f"{folder}: the train part of classification has {len(set(labels))} label; expected 2 "
            "or more"
        )
    fitted_on, asked = (encode([text for text, _ in rows]) for rows in (train, test))
    nearest = KNeighborsClassifier(min(NEIGHBOURS, len(train)), weights="distance")
    logistic = LogisticRegression(max_iter=1_000, random_state=seed)
    return ProbeResult(
        task="classification",
        metrics={
            "knn_accuracy": float((nearest.fit(fitted_on, labels).predict(asked) == truths).mean()),
            "logistic_accuracy": float(
                (logistic.fit(fitted_on, labels).predict(asked) == truths).mean()
            ),
        },
        counts={"train": len(train), "test": len(test), "labels": len({*labels, *truths})},
    )


# -- files ----------------------------------------------------------------------------------------


def _two_parts(
    folder: Path,
    task: str,
    first: str,
    second: str,
    read: Callable[[Path], list[tuple[Any, Any]]],
    seed: int,
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """(input, label) of the two parts: two files, or one that is cut by the seed."""
    parts = [folder / f"{task}.{part}.jsonl" for part in (first, second)]
    if all(path.is_file() for path in parts):
        return read(parts[0]), read(parts[1])
    whole = folder / f"{task}.jsonl"
    if not whole.is_file():
        raise _missing(folder, f"{whole.name}, or {parts[0].name} and {parts[1].name}", task)
    return _halves(read(whole), seed)


_EXAMPLES = {
    "duplicates": '{"text1": "…", "text2": "…", "duplicate": true}',
    "classification": '{"text": "…", "label": "…"}',
    "clustering": '{"text": "…", "label": "…"}',
}


def _missing(folder: Path, names: str, task: str) -> JudgmentsInvalid:
    return JudgmentsInvalid(f"{folder}: found no {names}; expected lines such as {_EXAMPLES[task]}")


def _halves(
    rows: Sequence[tuple[Any, Any]], seed: int
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Half of the rows of every label, drawn by the seed, and the others; of an odd number the
    first half has one more."""
    rng = np.random.default_rng(seed)
    by_label: dict[Any, list[int]] = {}
    for at, (_, label) in enumerate(rows):
        by_label.setdefault(label, []).append(at)
    first: set[int] = set()
    for places in by_label.values():
        first.update(rng.permutation(places)[: (len(places) + 1) // 2].tolist())
    return [rows[at] for at in sorted(first)], [
        row for at, row in enumerate(rows) if at not in first
    ]


def _read_pairs(path: Path) -> list[tuple[tuple[str, str], bool]]:
    rows = []
    for where, row in read_rows(path):
        one, other = (_text(row, name, where, "duplicates") for name in ("text1", "text2"))
        label = row.get("duplicate")
        if label not in (True, False):  # 1 and 0 as well
            raise JudgmentsInvalid(
                f"{where}: found {label!r} as duplicate, expected true or false, such as "
                f"{_EXAMPLES['duplicates']}"
            )
        rows.append(((one, other), bool(label)))
    return _some(rows, path)


def _read_labelled(path: Path) -> list[tuple[str, str]]:
    rows = []
    for where, row in read_rows(path):
        label = row.get("label")
        if isinstance(label, bool | None) or not isinstance(label, str | int) or label == "":
            raise JudgmentsInvalid(
                f"{where}: found {label!r} as label, expected a name or a whole number, such as "
                f"{_EXAMPLES['classification']}"
            )
        rows.append((_text(row, "text", where, "classification"), str(label)))
    return _some(rows, path)


def _text(row: Mapping[str, Any], name: str, where: str, task: str) -> str:
    text = row.get(name)
    if not isinstance(text, str) or not text.strip():
        raise JudgmentsInvalid(f"{where}: found no {name}, expected {_EXAMPLES[task]}")
    return text


def _some(rows: list[Any], path: Path) -> list[Any]:
    if not rows:
        raise JudgmentsInvalid(f"{path} is empty; expected one JSON object a line")
    return rows
