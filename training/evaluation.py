"""How well an encoder ranks a judged corpus by itself: exact cosine, no index, no BM25."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.errors import ModelUnsupported
from training.judgments import JudgedDocument, read_documents, read_judgments
from training.metrics import DEPTH, METRICS, Difference, PerQuery, Qrels, Scores, score
from training.resampling import bootstrap_means, interval

DOCUMENTS_PER_BLOCK = 4_096
DOCUMENTS_PER_CALL = 1_024  # of the encoder: enough to sort by length, and some progress to show
QUERIES_PER_BLOCK = 1_024

Matrix = NDArray[np.float32]  # (n, dim), rows of length 1
ScoredRun = Mapping[str, Sequence[tuple[str, float]]]  # doc_id and cosine, best first, by query id


class TextEncoder(Protocol):
    """The two sides of a model version; `training.encoder.Encoder` is one."""

    def encode_queries(self, texts: Sequence[str], /) -> Matrix: ...

    def encode_documents(self, texts: Sequence[str], /) -> Matrix: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """What an encoder did on judged queries with vectors of one length."""

    dim: int
    scores: Scores
    run: ScoredRun


def evaluate_dims(
    encoder: TextEncoder,
    folder: Path,
    split: str,
    dims: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> dict[int, Evaluation]:
    """Exact dense search over a BEIR folder with the first d columns, for every d in dims.

    Queries and documents are encoded once. The encoder's own dimension is always there and comes
    first, the others follow from long to short. A document is encoded as one text, title first, up
    to the model's own maximum length. on_progress gets the number of documents done so far. Memory
    does not grow with the corpus beyond one block. Raises JudgmentsInvalid, ModelUnsupported when
    the rows are shorter than a dimension, and what the encoder raises.
    """
    judgments = read_judgments(folder, split)
    runs = scored_runs(
        encoder, judgments.queries, read_documents(folder), dims=dims or (), on_progress=on_progress
    )
    return {dim: evaluation(dim, run, judgments.qrels) for dim, run in runs.items()}


def evaluation(dim: int, run: ScoredRun, qrels: Qrels) -> Evaluation:
    """The metrics of a run, together with it."""
    ranked = {query_id: [doc_id for doc_id, _ in hits] for query_id, hits in run.items()}
    return Evaluation(dim=dim, scores=score(ranked, qrels), run=run)


def evaluate_encoder(
    encoder: TextEncoder,
    folder: Path,
    split: str,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Metrics of exact dense search with this encoder over a BEIR folder, as evaluate_dims."""
    full, *_ = evaluate_dims(encoder, folder, split, on_progress=on_progress).values()
    return full.scores


def differences(candidate: Scores, baseline: Scores) -> dict[str, Difference]:
    """Candidate minus baseline in every metric, each with its 95 % paired-bootstrap interval.

    Raises ValueError when the two were not scored on the same queries.
    """
    if candidate.query_ids != baseline.query_ids:
        raise ValueError(
            f"found scores of {len(candidate.query_ids)} and {len(baseline.query_ids)} queries "
            "that are not the same ones; score both on one split"
        )
    changes = np.stack(
        [candidate.per_query[name] - baseline.per_query[name] for name in METRICS], axis=1
    )  # (n_queries, n_metrics)
    drawn = bootstrap_means(changes)
    return {
        name: interval(float(changes[:, column].mean()), drawn[:, column])
        for column, name in enumerate(METRICS)
    }


def most_changed(change: PerQuery, n: int) -> tuple[list[int], list[int]]:
    """Places of the queries that gained most and of those that lost most, up to n each.

    change: (n_queries,), above 0 for a gain.
    """
    order = [int(place) for place in np.argsort(change, kind="stable")]
    lost = [place for place in order if change[place] < 0]
    gained = [place for place in reversed(order) if change[place] > 0]
    return gained[:n], lost[:n]


def dense_run(
    encoder: TextEncoder,
    queries: Mapping[str, str],
    documents: Iterable[JudgedDocument],
    *,
    k: int = DEPTH,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, list[str]]:
    """The k nearest doc_ids of every query by exact cosine, best first, ties by doc_id.

    queries: text by query id. Documents are read and encoded block by block.
    """
    runs = scored_runs(encoder, queries, documents, k=k, on_progress=on_progress)
    (run,) = runs.values()
    return {query_id: [doc_id for doc_id, _ in hits] for query_id, hits in run.items()}


def scored_runs(
    encoder: TextEncoder,
    queries: Mapping[str, str],
    documents: Iterable[JudgedDocument],
    *,
    dims: Sequence[int] = (),
    k: int = DEPTH,
    on_progress: Callable[[int], None] | None = None,
) -> dict[int, dict[str, list[tuple[str, float]]]]:
    """The k nearest documents of every query, by dimension; otherwise as evaluate_dims.

    Best first, ties by doc_id. Every dimension comes from one pass over the documents.
    """
    query_vectors = encoder.encode_queries(list(queries.values()))
    dims = _every_dim(query_vectors.shape[1], dims)
    query_rows = {dim: truncate(query_vectors, dim) for dim in dims}
    nearest = {dim: _Nearest(len(queries), k) for dim in dims}
    n_done = 0
    remaining = iter(documents)
    while block := list(itertools.islice(remaining, DOCUMENTS_PER_BLOCK)):
        parts = []
        for start in range(0, len(block), DOCUMENTS_PER_CALL):
            texts = [item.full_text for item in block[start : start + DOCUMENTS_PER_CALL]]
            parts.append(encoder.encode_documents(texts))
            n_done += len(texts)
            if on_progress is not None:
                on_progress(n_done)
        vectors = np.concatenate(parts)
        doc_ids = np.array([document.doc_id for document in block], dtype=object)
        for dim in dims:
            nearest[dim].add(query_rows[dim], truncate(vectors, dim), doc_ids)
    return {dim: dict(zip(queries, nearest[dim].rankings(), strict=True)) for dim in dims}


def truncate(rows: Matrix, dim: int) -> Matrix:
    """The first dim columns, brought back to length 1 (Kusupati et al. 2022, Matryoshka).

    Without that, what is left of a long vector ranks by its length and not by its direction.
    rows: (n, at least dim).
    """
    if dim == rows.shape[1]:
        return rows
    kept = rows[:, :dim]
    lengths = np.linalg.norm(kept, axis=1, keepdims=True)
    shortened: Matrix = kept / np.maximum(lengths, np.finfo(np.float32).tiny)
    return shortened


def _every_dim(full: int, dims: Iterable[int]) -> list[int]:
    """The full dimension, then the others from long to short, each once."""
    impossible = sorted(dim for dim in dims if not 0 < dim <= full)
    if impossible:
        raise ModelUnsupported(
            f"the model makes rows of {full} dimensions; {impossible[0]} cannot be kept of them, "
            f"name 1 to {full}"
        )
    return sorted({full, *dims}, reverse=True)


class _Nearest:
    """The k best documents of every query among those seen so far."""

    def __init__(self, n_queries: int, k: int) -> None:
        self._k = k
        self._scores = np.empty((n_queries, 0), dtype=np.float32)  # (n_queries, at most k)
        self._doc_ids = np.empty((n_queries, 0), dtype=object)

    def add(self, queries: Matrix, documents: Matrix, doc_ids: NDArray[np.object_]) -> None:
        """queries: (n_queries, dim). documents: (n, dim), doc_ids: (n,)."""
        rows = range(0, len(queries), QUERIES_PER_BLOCK)
        parts = [
            self._best(slice(row, row + QUERIES_PER_BLOCK), queries, documents, doc_ids)
            for row in rows
        ]
        if parts:
            self._scores = np.concatenate([scores for scores, _ in parts])
            self._doc_ids = np.concatenate([names for _, names in parts])

    def _best(
        self, rows: slice, queries: Matrix, documents: Matrix, doc_ids: NDArray[np.object_]
    ) -> tuple[Matrix, NDArray[np.object_]]:
        scores = queries[rows] @ documents.T
        columns = _largest(scores, self._k)
        scores = np.take_along_axis(scores, columns, axis=1)
        scores = np.concatenate([self._scores[rows], scores], axis=1)
        names = np.concatenate([self._doc_ids[rows], doc_ids[columns]], axis=1)
        columns = _largest(scores, self._k)
        return np.take_along_axis(scores, columns, axis=1), np.take_along_axis(
            names, columns, axis=1
        )

    def rankings(self) -> list[list[tuple[str, float]]]:
        return [
            [(doc_id, -below) for below, doc_id in sorted(zip((-row).tolist(), names, strict=True))]
            for row, names in zip(self._scores, self._doc_ids, strict=True)
        ]


def _largest(scores: Matrix, k: int) -> NDArray[np.intp]:
    """Columns of the k largest values of each row, in no order. scores: (n, m)."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]
