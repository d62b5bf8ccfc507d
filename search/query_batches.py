"""Queries that are asked at the same time are encoded together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from search.dense import FloatMatrix
from search.searcher import QueryEncoder

MAX_TEXTS = 32  # of one batch; more would make the first of them wait for the last
# An encoder that needs less than this for a query, as a table of token vectors does, is asked
# directly: handing a query over to another thread takes longer than encoding it.
WORTH_MS = 1.0


class QueryBatches:
    """A `QueryEncoder` that encodes for several threads at once. One belongs to one opened
    generation, so no batch ever holds queries of two.

    Nobody waits for company. Who finds nobody encoding encodes at once; those who come meanwhile
    are encoded together by the first of them, as soon as that is done.
    """

    def __init__(
        self, encoder: QueryEncoder, *, on_batch: Callable[[int], None] = lambda _size: None
    ) -> None:
        """on_batch hears how many queries were encoded together."""
        self._encoder = encoder
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._is_encoding = False
        self._waiting: list[_Asked] = []
        self._alone_ms = 0.0  # what one text takes by itself; 0 until that was measured

    @property
    def fingerprint(self) -> str:
        return self._encoder.fingerprint

    @property
    def dim(self) -> int:
        return self._encoder.dim

    @property
    def waiting(self) -> int:
        """Callers whose turn has not come."""
        return len(self._waiting)

    @property
    def is_quick(self) -> bool:
        """Whether the encoder was found to be too quick for batches to be worth it."""
        return 0 < self._alone_ms < WORTH_MS

    def encode_queries(self, texts: Sequence[str], /) -> FloatMatrix:
        """As the encoder's own; raises what it raises for these texts."""
        if len(texts) >= MAX_TEXTS or self.is_quick:
            self._on_batch(len(texts))
            return self._encoder.encode_queries(texts)
        asked = _Asked(texts)
        with self._lock:
            is_free = not self._is_encoding
            if is_free:
                self._is_encoding = True
            else:
                self._waiting.append(asked)
        if is_free:
            batch = [asked]
        else:
            asked.turn.wait()
            if asked.is_done:
                return asked.answer()
            batch = self._next_batch(asked)
        try:
            self._encode(batch)
        finally:
            self._pass_on(batch)
        return asked.answer()

    def _next_batch(self, first: _Asked) -> list[_Asked]:
        """Those who wait, with the one whose turn it is, up to the size of a batch."""
        batch, n_texts = [first], len(first.texts)
        with self._lock:
            while self._waiting and n_texts + len(self._waiting[0].texts) <= MAX_TEXTS:
                batch.append(self._waiting.pop(0))
                n_texts += len(batch[-1].texts)
        return batch

    def _pass_on(self, batch: Sequence[_Asked]) -> None:
        """Tell the batch that it is done, and the first of those who came meanwhile to go on."""
        with self._lock:
            successor = self._waiting.pop(0) if self._waiting else None
            self._is_encoding = successor is not None
        if successor is not None:
            successor.turn.set()
        for asked in batch[1:]:
            asked.is_done = True
            asked.turn.set()

    def _encode(self, batch: Sequence[_Asked]) -> None:
        began = time.perf_counter()
        try:
            texts = [text for asked in batch for text in asked.texts]
            self._on_batch(len(texts))
            vectors = self._encoder.encode_queries(texts)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for asked in batch:  # one that cannot be encoded is nothing to the others
                self._encode([asked])
            return
        if len(batch) == 1 and len(batch[0].texts) == 1:
            self._learn((time.perf_counter() - began) * 1e3)
        start = 0
        for asked in batch:
            asked.vectors = vectors[start : start + len(asked.texts)]
            start += len(asked.texts)

    def _learn(self, ms: float) -> None:
        """The least of late: a busy machine makes any encoder look slow for a moment."""
        self._alone_ms = min(ms, self._alone_ms * 1.05) if self._alone_ms else ms


class _Asked:
    """The texts of one caller, and what becomes of them."""

    __slots__ = ("error", "is_done", "texts", "turn", "vectors")

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.turn = threading.Event()  # done, or next to encode
        self.is_done = False
        self.vectors: FloatMatrix | None = None
        self.error: Exception | None = None

    def answer(self) -> FloatMatrix:
        if self.error is not None:
            raise self.error
        if self.vectors is None:  # whoever encoded was interrupted
            raise RuntimeError("the query was not encoded; ask again")
        return np.asarray(self.vectors)
