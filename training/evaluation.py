"""How well an encoder ranks a judged corpus by itself: exact cosine, no index, no BM25."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from training.judgments import JudgedDocument, read_documents, read_judgments
from training.metrics import DEPTH, Scores, score

DOCUMENTS_PER_BLOCK = 4_096
QUERIES_PER_BLOCK = 1_024

Matrix = NDArray[np.float32]  # (n, dim), rows of length 1


class TextEncoder(Protocol):
    """The two sides of a model version; `training.encoder.Encoder` is one."""

    def encode_queries(self, texts: Sequence[str], /) -> Matrix: ...

    def encode_documents(self, texts: Sequence[str], /) -> Matrix: ...


def evaluate_encoder(
    encoder: TextEncoder,
    folder: Path,
    split: str,
    on_progress: Callable[[int], None] | None = None,
) -> Scores:
    """Metrics of exact dense search with this encoder over a BEIR folder.

    A document is encoded as one text, title first, up to the model's own maximum length.
    on_progress gets the number of documents done so far. Memory does not grow with the corpus
    beyond one block. Raises JudgmentsInvalid, and what the encoder raises.
    """
    judgments = read_judgments(folder, split)
    run = dense_run(encoder, judgments.queries, read_documents(folder), on_progress=on_progress)
    return score(run, judgments.qrels)


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
    query_vectors = encoder.encode_queries(list(queries.values()))
    nearest = _Nearest(len(queries), k)
    n_done = 0
    remaining = iter(documents)
    while block := list(itertools.islice(remaining, DOCUMENTS_PER_BLOCK)):
        vectors = encoder.encode_documents([document.full_text for document in block])
        nearest.add(query_vectors, vectors, np.array([item.doc_id for item in block], dtype=object))
        n_done += len(block)
        if on_progress is not None:
            on_progress(n_done)
    return dict(zip(queries, nearest.rankings(), strict=True))


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

    def rankings(self) -> list[list[str]]:
        return [
            [doc_id for _, doc_id in sorted(zip((-scores).tolist(), names, strict=True))]
            for scores, names in zip(self._scores, self._doc_ids, strict=True)
        ]


def _largest(scores: Matrix, k: int) -> NDArray[np.intp]:
    """Columns of the k largest values of each row, in no order. scores: (n, m)."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(-scores, k - 1, axis=1)[:, :k]
