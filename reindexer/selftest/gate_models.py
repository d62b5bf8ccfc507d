"""Models with one thing wrong with them, and healthy ones, for the gate to tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reindexer.selftest.word_encoder import WordEncoder, direction
from search.dense import FloatMatrix
from training.tokenizer import TokenizedTexts

_BLUR = 0.03  # of a vector: what retraining changes, besides the space
_PROMPT = 7  # the id of the token that a prompt adds


class TurnedEncoder(WordEncoder):
    """As good as the word encoder of its seed, in another vector space: every turn is a space.

    The space is turned as a whole, so that cosines stay, and each word moved a little.
    """

    def __init__(self, turn: int, *, dim: int) -> None:
        super().__init__(1, dim=dim)
        self.fingerprint = f"{dim:032x}{turn + 1_000:032x}"
        rng = np.random.default_rng([_PROMPT, turn])
        matrix, _ = np.linalg.qr(rng.standard_normal((dim, dim)))
        self._turned = np.asarray(matrix, np.float32)
        self._turn = turn

    def _token_vectors(self, ids: np.typing.NDArray[np.int32]) -> FloatMatrix:
        unique, rows = np.unique(ids, return_inverse=True)
        table = np.stack(
            [
                direction(1, self.dim, token) + _BLUR * direction(self._turn + 2, self.dim, token)
                for token in unique.tolist()
            ]
        )
        return np.asarray((table @ self._turned)[rows], np.float32)


class WronglyPooled(TurnedEncoder):
    """The largest of each component instead of the mean."""

    def _pooled(self, tokenized: TokenizedTexts) -> FloatMatrix:
        vectors = self._token_vectors(tokenized.ids)
        return np.asarray(np.maximum.reduceat(vectors, tokenized.offsets[:-1], axis=0), np.float32)


class Prompted(TurnedEncoder):
    """Begins every document with a prompt."""

    def _encode(self, tokenized: TokenizedTexts) -> FloatMatrix:
        rows = [tokenized.row(at).tolist() for at in range(len(tokenized))]
        return super()._encode(TokenizedTexts.of([[*row[:1], _PROMPT, *row[1:]] for row in rows]))


class NotNormalized(TurnedEncoder):
    """Vectors of any length."""

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        return 2 * super().encode_documents(texts)


class Truncating(TurnedEncoder):
    """Reads the first half of every text."""

    def _encode(self, tokenized: TokenizedTexts) -> FloatMatrix:
        rows = [tokenized.row(at).tolist() for at in range(len(tokenized))]
        return super()._encode(TokenizedTexts.of([row[: (len(row) + 1) // 2] for row in rows]))


class Forgetful(TurnedEncoder):
    """Does not understand some queries at all."""

    forgotten: frozenset[str] = frozenset()

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        vectors = super().encode_queries(texts)
        for row, text in enumerate(texts):
            if text in self.forgotten:
                vectors[row] = np.roll(vectors[row], 1)
        return vectors
