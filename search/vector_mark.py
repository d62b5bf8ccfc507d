"""A number beside each stored vector that fits it, its text and its model, and hardly any other.

Two vectors of one dimension look alike, whatever made them. So whoever encodes a passage leaves a
mark with its vector: the scalar product with a pattern of signs that follows from the model's
fingerprint and the passage's text. Looking through a whole collection then shows the one vector
that another model made, that belongs to another text, or that something overwrote, without
encoding anything again.

A foreign vector carries a fitting mark by chance once in about 100,000. What a mark cannot show is
an encoder that has the right fingerprint and computes something else; that takes encoding again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.dense import FloatMatrix

Marks = NDArray[np.float32]  # (n,)

# Engines bring vectors to length 1 in their own way: a mark changes by some 1e-6. Of vectors that
# do not belong together, marks differ by about 1.4.
TOLERANCE = 1e-5


def vector_marks(fingerprint: str, text_hashes: Sequence[str], vectors: FloatMatrix) -> Marks:
    """The marks of vectors that the model of this fingerprint made of texts with these hashes.

    vectors: (n, dim); their length does not matter. About 2 µs each at 384 dimensions.
    """
    n, dim = vectors.shape
    n_bytes = (dim + 7) // 8
    drawn = b"".join(
        hashlib.shake_128(f"{fingerprint}{text_hash}".encode()).digest(n_bytes)
        for text_hash in text_hashes
    )
    bits = np.unpackbits(np.frombuffer(drawn, np.uint8).reshape(n, n_bytes), axis=1, count=dim)
    # sum(v · sign) = 2 · sum of v where the bit is set - sum(v)
    products = 2 * np.einsum("ij,ij->i", vectors, bits) - vectors.sum(axis=1)
    lengths = np.linalg.norm(vectors, axis=1)
    return np.asarray(products / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def fits(stored: Marks, expected: Marks) -> NDArray[np.bool_]:
    """(n,) which marks are right; a missing one (NaN) is not."""
    return np.asarray(np.abs(stored - expected) <= TOLERANCE)
