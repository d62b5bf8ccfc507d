"""Texts that share the most telling words with a query (BM25, as Lucene scores it)."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

_WORD = re.compile(r"\w+")


def bm25_lookalikes(queries: Sequence[str], texts: Sequence[str], depth: int) -> list[list[int]]:
    """Positions of the best texts for each query, best first, at most depth; none that shares no
    word with it."""
    if not queries or not any(_WORD.search(text) for text in texts):
        return [[] for _ in queries]
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    index = bm25s.BM25(method="lucene")
    index.index([words(text) for text in texts], show_progress=False)
    rows, scores = index.retrieve(
        [words(query) for query in queries], k=min(depth, len(texts)), show_progress=False
    )
    return [
        [int(at) for at, score in zip(found, values, strict=True) if score > 0]
        for found, values in zip(rows, scores, strict=True)
    ]


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return _WORD.findall(text.casefold())
