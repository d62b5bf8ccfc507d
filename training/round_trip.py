"""Queries that lead back to their own document, found among the others by exact search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation import TextEncoder
from training.judgments import JudgedDocument
from training.pairs import Pair

BLOCK = 1_024  # queries, or documents, at a time
TIE = 1e-6  # of a cosine: documents that read the same must not push each other out


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundTrip:
    """Pairs whose query finds its document, and those whose query does not."""

    kept: tuple[Pair, ...]
    dropped: tuple[Pair, ...]
    k: int
    documents: int  # that were searched


def round_trip(
    pairs: Sequence[Pair],
    documents: Sequence[JudgedDocument],
    encoder: TextEncoder,
    *,
    k: int,
    on_progress: Callable[[int], None] | None = None,
) -> RoundTrip:
    """Keep the pairs whose positive is among the k nearest documents of its query, by cosine.

    documents: must hold the doc_id of every pair. on_progress gets the number of documents encoded
    so far. Holds one row a document in memory. Raises what the encoder raises.
    """
    blocks = []
    for start in range(0, len(documents), BLOCK):
        texts = [document.full_text for document in documents[start : start + BLOCK]]
        blocks.append(encoder.encode_documents(texts))
        if on_progress is not None:
            on_progress(start + len(texts))
    kept: list[Pair] = []
    dropped: list[Pair] = []
    column = {document.doc_id: at for at, document in enumerate(documents)}
    rows = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
    for start in range(0, len(pairs), BLOCK):
        block = pairs[start : start + BLOCK]
        queries = encoder.encode_queries([pair.anchor for pair in block])
        own = np.array([column[pair.doc_id or ""] for pair in block], dtype=np.intp)
        for pair, rank in zip(block, _ranks(queries, rows, own).tolist(), strict=True):
            (kept if rank <= k else dropped).append(pair)
    return RoundTrip(kept=tuple(kept), dropped=tuple(dropped), k=k, documents=len(documents))


def _ranks(
    queries: NDArray[np.float32], rows: NDArray[np.float32], own: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Rank of each query's own document, from 1. queries: (n, dim), rows: (m, dim), own: (n,)."""
    own_scores = np.einsum("nd,nd->n", queries, rows[own])
    better = np.zeros(len(queries), dtype=np.intp)
    for start in range(0, len(rows), BLOCK):
        scores = queries @ rows[start : start + BLOCK].T
        better += (scores > own_scores[:, None] + TIE).sum(axis=1)
    return better + 1
