"""A model without weights: words have random but fixed directions, a text is their mean.

It has the parts of `training.encoder.Encoder` that replay, verification and search use, needs no
torch, and counts what it encodes.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from search.dense import FloatMatrix, FloatVector
from training.errors import EncodingFailed
from training.tokenizer import TokenizedTexts

_BEGIN = 1  # the id of a token that begins every text


class WordEncoder:
    """One seed is one vector space; all of the same dimension."""

    def __init__(self, seed: int = 0, *, dim: int = 16, max_tokens: int = 32) -> None:
        self.seed = seed
        self.dim = dim
        self.max_tokens = max_tokens
        self.fingerprint = f"{seed:064x}"
        self.device = "cpu"
        self.workers = 1
        self.n_encoded = 0  # passages, over the life of this encoder
        self.fails_on: str | None = None  # a word that it cannot encode

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return TokenizedTexts.of([[_BEGIN, *map(_id, text.split())] for text in texts])

    def encode_tokenized(
        self,
        tokenized: TokenizedTexts,
        *,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> FloatMatrix:
        with turn():
            return self._encode(tokenized)

    def _encode(self, tokenized: TokenizedTexts) -> FloatMatrix:
        rows = [tokenized.row(at).tolist() for at in range(len(tokenized))]
        for index, row in enumerate(rows):
            if self.fails_on is not None and _id(self.fails_on) in row:
                raise EncodingFailed(f"text {index} could not be encoded", index=index)
        self.n_encoded += len(rows)
        vectors = np.array(
            [sum(_direction(self.seed, self.dim, token) for token in row) for row in rows],
            dtype=np.float32,
        ).reshape(len(rows), self.dim)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self.encode_tokenized(self.tokenize_documents(texts))

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self.encode_documents(texts)


def _id(word: str) -> int:
    return zlib.crc32(word.encode()) >> 1


@functools.cache
def _direction(seed: int, dim: int, token: int) -> FloatVector:
    return np.asarray(np.random.default_rng([seed, token]).standard_normal(dim), np.float32)
