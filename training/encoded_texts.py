"""An encoder that encodes each text once: mining and evaluating the base share its work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from training.evaluation import Matrix, TextEncoder

MAX_BYTES = 2_000_000_000  # of rows kept; texts beyond it are encoded again when asked for
TEXTS_PER_BLOCK = 1_024  # between two reports of progress


class EncodedTexts:
    """A TextEncoder around another one."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._queries: dict[str, Matrix] = {}  # rows of length dim
        self._documents: dict[str, Matrix] = {}

    def remember(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Encode what is not known yet. on_progress gets texts done, of how many."""
        total = len(queries) + len(documents)
        self.encode_queries(queries)
        for start in range(0, len(documents), TEXTS_PER_BLOCK):
            on_progress(len(queries) + start, total)
            self.encode_documents(documents[start : start + TEXTS_PER_BLOCK])
        on_progress(total, total)

    def encode_queries(self, texts: Sequence[str], /) -> Matrix:
        """(len(texts), dim)"""
        return self._rows(texts, self._queries, self._encoder.encode_queries)

    def encode_documents(self, texts: Sequence[str], /) -> Matrix:
        """(len(texts), dim)"""
        return self._rows(texts, self._documents, self._encoder.encode_documents)

    def _rows(
        self,
        texts: Sequence[str],
        known: dict[str, Matrix],
        encode: Callable[[Sequence[str]], Matrix],
    ) -> Matrix:
        new = list(dict.fromkeys(text for text in texts if text not in known))
        if not new and texts:
            return np.stack([known[text] for text in texts])
        rows = encode(new)
        if (len(known) + len(new)) * rows.itemsize * rows.shape[1] > MAX_BYTES:
            return encode(texts)
        known.update(zip(new, rows, strict=True))
        return np.stack([known[text] for text in texts]) if texts else rows
