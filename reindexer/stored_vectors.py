"""One look at everything a collection holds: each point, its vector, and whether the two fit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.dense import DenseCollection, FloatMatrix
from search.documents import metadata_json
from search.vector_mark import fits, vector_marks

NAMED_DOCUMENTS = 5  # how many culprits a message names
LENGTH_TOLERANCE = 1e-2

POINTS = np.dtype(
    [
        ("doc", "u8"),
        ("content", "u8"),
        ("metadata", "u8"),
        ("seq", "i8"),
        ("number", "i4"),
        ("count", "i4"),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfits:
    """Vectors with one thing wrong: how many, and a few of their documents."""

    count: int = 0
    doc_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return such_as(self.count, self.doc_ids)

    def and_also(self, doc_ids: list[str]) -> Misfits:
        known = dict.fromkeys((*self.doc_ids, *doc_ids))
        return Misfits(
            count=self.count + len(doc_ids), doc_ids=tuple(list(known)[:NAMED_DOCUMENTS])
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVectors:
    """What a whole collection came to; see `look_through`."""

    points: NDArray[Any]  # (n,) of POINTS: identities as numbers, so that millions fit in memory
    misshapen: Misfits  # not finite, or not of length 1
    foreign: Misfits  # made by another model, of another text, or overwritten
    unmarked: Misfits  # nobody can say

    @property
    def n(self) -> int:
        return len(self.points)


def look_through(
    collection: DenseCollection,
    fingerprint: str,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> StoredVectors:
    """Read every point with its vector; encode nothing. 100,000 of 384 dimensions take about 4 s.

    fingerprint: of the model whose vectors these should be. Every finding is about a point by
    itself, so it holds while others are written.
    """
    parts = [np.empty(0, dtype=POINTS)]
    misshapen, foreign, unmarked = Misfits(), Misfits(), Misfits()
    n = 0
    for points, vectors in collection.scan():
        parts.append(
            np.array(
                [
                    (
                        hash64(point.doc_id),
                        content64(point.content_hash),
                        hash64(metadata_json(point.metadata)),
                        point.seq,
                        point.number,
                        point.count,
                    )
                    for point in points
                ],
                dtype=POINTS,
            )
        )
        text_hashes = [point.text_hash for point in points]
        stored = np.array([np.nan if p.mark is None else p.mark for p in points], np.float32)
        has_shape = well_formed(vectors)
        expected = vector_marks(fingerprint, text_hashes, np.where(has_shape[:, None], vectors, 0))
        is_marked = ~np.isnan(stored)

        def named(rows: NDArray[np.bool_], points: list[Any] = points) -> list[str]:
            return [points[row].doc_id for row in np.flatnonzero(rows)]

        misshapen = misshapen.and_also(named(~has_shape))
        foreign = foreign.and_also(named(is_marked & has_shape & ~fits(stored, expected)))
        unmarked = unmarked.and_also(named(~is_marked))
        n += len(points)
        on_progress(n)
    return StoredVectors(
        points=np.concatenate(parts), misshapen=misshapen, foreign=foreign, unmarked=unmarked
    )


def well_formed(vectors: FloatMatrix) -> NDArray[np.bool_]:
    """(n,) which rows are finite and of length 1."""
    with np.errstate(invalid="ignore", over="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
        return np.asarray(np.abs(lengths - 1) < LENGTH_TOLERANCE)  # false for NaN


def hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def content64(content_hash: str) -> int:
    """The first 64 bits; 0 for a tombstone."""
    return int(content_hash[:16] or "0", 16)


def such_as(count: int, doc_ids: Iterable[str]) -> str:
    """`2 differ, such as 'd3', 'd7'`; nothing for none."""
    named = ", ".join(map(repr, list(dict.fromkeys(doc_ids))[:NAMED_DOCUMENTS]))
    return f"{count:,} differ, such as {named}" if count else ""
