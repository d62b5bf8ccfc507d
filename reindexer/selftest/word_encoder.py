"""A model without weights: words have random but fixed directions, a text is their mean.

It has the parts of `training.encoder.Encoder` that replay, verification and search use, needs no
torch, encodes 50,000 short texts a second, and counts what it encodes.
"""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.dense import FloatMatrix, FloatVector
from training.errors import EncodingFailed
from training.tokenizer import TokenizedTexts

_BEGIN = 1  # the id of a token that begins every text


class WordEncoder:
    """One seed is one vector space; all of the same dimension are alike from outside."""

    workers = 1
    max_batch_tokens = 16_384

    def __init__(
        self,
        seed: int = 0,
        *,
        dim: int = 16,
        max_tokens: int = 32,
        on_encoded: Callable[[int], None] = lambda _n: None,
    ) -> None:
        """on_encoded: told how many passages each call of replay encoded; what the gate or a query
        asks for does not count."""
        self.seed = seed
        self.dim = dim
        self.max_tokens = max_tokens
        self.fingerprint = f"{seed:064x}" if dim == 16 else f"{dim:032x}{seed:032x}"
        self.device = "cpu"
        self.n_encoded = 0  # passages, over the life of this encoder
        self.fails_on: str | None = None  # a word that it cannot encode
        self._on_encoded = on_encoded

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return TokenizedTexts.of([[_BEGIN, *map(_id, text.split())] for text in texts])

    def encode_tokenized(
        self,
        tokenized: TokenizedTexts,
        *,
        turn: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> FloatMatrix:
        """turn: entered while this works, so that it can be made to wait."""
        with turn():
            vectors = self._encode(tokenized)
        self._on_encoded(len(tokenized))
        return vectors

    def _encode(self, tokenized: TokenizedTexts) -> FloatMatrix:
        if self.fails_on is not None:
            failing = np.flatnonzero(tokenized.ids == _id(self.fails_on))
            if len(failing):
                index = int(np.searchsorted(tokenized.offsets, failing[0], side="right")) - 1
                raise EncodingFailed(f"text {index} could not be encoded", index=index)
        vectors = self._pooled(tokenized)
        self.n_encoded += len(tokenized)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def _pooled(self, tokenized: TokenizedTexts) -> FloatMatrix:
        """(n, dim), of any length."""
        if not len(tokenized):
            return np.empty((0, self.dim), np.float32)
        return np.asarray(
            np.add.reduceat(self._token_vectors(tokenized.ids), tokenized.offsets[:-1], axis=0),
            np.float32,
        )

    def _token_vectors(self, ids: NDArray[np.int32]) -> FloatMatrix:
        unique, rows = np.unique(ids, return_inverse=True)
        table = [direction(self.seed, self.dim, token) for token in unique.tolist()]
        return np.asarray(np.stack(table)[rows])

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode(self.tokenize_documents(texts))

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self.encode_documents(texts)


def _id(word: str) -> int:
    return zlib.crc32(word.encode()) >> 1


@functools.cache
def direction(seed: int, dim: int, token: int) -> FloatVector:
    """(dim,) where a word points in one vector space."""
    return np.asarray(np.random.default_rng([seed, token]).standard_normal(dim), np.float32)
