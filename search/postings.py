"""The arrays of a lexical index: rows (documents), postings (term → rows), and how they merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.metadata import ENTRY
from search.ragged import BLOCK_VALUES, Ragged, RowNumbers, gather

_RAGGED = ("doc_ids", "content_hashes", "terms", "metadata")  # of Rows
TOMBSTONE = -1  # in place of a length: the row says that its document was deleted


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """What is known of n documents, one row each."""

    doc_ids: Ragged  # UTF-8
    content_hashes: Ragged  # UTF-8
    seqs: NDArray[np.int64]  # (n,)
    lengths: NDArray[np.int32]  # (n,) terms with repeats, or TOMBSTONE
    terms: Ragged  # int32 term numbers, each once a row
    metadata: Ragged  # search.metadata.ENTRY

    @classmethod
    def empty(cls) -> Rows:
        return cls(
            doc_ids=Ragged.empty(np.uint8),
            content_hashes=Ragged.empty(np.uint8),
            seqs=np.empty(0, np.int64),
            lengths=np.empty(0, np.int32),
            terms=Ragged.empty(np.int32),
            metadata=Ragged.empty(ENTRY),
        )

    def __len__(self) -> int:
        return len(self.seqs)

    def append(self, other: Rows) -> Rows:
        """These rows, then the other's."""
        return Rows(
            doc_ids=self.doc_ids.append(other.doc_ids),
            content_hashes=self.content_hashes.append(other.content_hashes),
            seqs=np.concatenate([self.seqs, other.seqs]),
            lengths=np.concatenate([self.lengths, other.lengths]),
            terms=self.terms.append(other.terms),
            metadata=self.metadata.append(other.metadata),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {"seqs": self.seqs, "lengths": self.lengths}
        for name in _RAGGED:
            part: Ragged = getattr(self, name)
            arrays[f"{name}.offsets"], arrays[f"{name}.values"] = part.offsets, part.values
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Rows:
        parts = {
            name: Ragged(arrays[f"{name}.offsets"], arrays[f"{name}.values"]) for name in _RAGGED
        }
        return cls(seqs=arrays["seqs"], lengths=arrays["lengths"], **parts)

    def merged(self, other: Rows, order: RowNumbers) -> Rows:
        """Rows of both in a new order; number len(self) + i is row i of the other."""
        return Rows(
            doc_ids=gather(self.doc_ids, other.doc_ids, order),
            content_hashes=gather(self.content_hashes, other.content_hashes, order),
            seqs=np.concatenate([self.seqs, other.seqs])[order],
            lengths=np.concatenate([self.lengths, other.lengths])[order],
            terms=gather(self.terms, other.terms, order),
            metadata=gather(self.metadata, other.metadata, order),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Postings:
    """Which rows hold a term, and how often. Term t has the postings starts[t] to starts[t + 1]."""

    starts: NDArray[np.int64]  # (n_terms + 1,)
    rows: NDArray[np.int32]  # (n_postings,) grouped by term
    counts: NDArray[Any]  # (n_postings,) unsigned; how often the term occurs in the row

    @classmethod
    def empty(cls) -> Postings:
        return cls(
            starts=np.zeros(1, np.int64), rows=np.empty(0, np.int32), counts=np.empty(0, np.uint32)
        )

    @classmethod
    def of(cls, terms: Ragged, counts: Sequence[int], n_terms: int, first_row: int) -> Postings:
        """Group the terms of rows (numbered from first_row) by term; counts: of terms.values."""
        by_term = np.argsort(terms.values, kind="stable")
        rows = np.repeat(np.arange(len(terms), dtype=np.int32) + np.int32(first_row), terms.counts)
        return cls(
            starts=_starts(np.bincount(terms.values, minlength=n_terms)),
            rows=rows[by_term],
            counts=np.asarray(counts, np.uint32)[by_term],
        )

    @property
    def n_terms(self) -> int:
        return len(self.starts) - 1

    def span(self, term: int) -> slice:
        """Where the postings of a term are; empty for a term that is newer than these postings."""
        if term >= self.n_terms:
            return slice(0, 0)
        return slice(int(self.starts[term]), int(self.starts[term + 1]))

    def frequencies(self, n_terms: int) -> NDArray[np.int64]:
        """(n_terms,) rows that hold each term."""
        return np.diff(self.starts, append=np.full(n_terms - self.n_terms, self.starts[-1]))

    def append(self, other: Postings) -> Postings:
        """With another's postings after these, term by term; its rows are numbered to follow."""
        n_terms = max(self.n_terms, other.n_terms)
        added = other.frequencies(n_terms)
        ends = np.cumsum(self.frequencies(n_terms))
        places = np.repeat(ends, added)
        return Postings(
            starts=_starts(added + self.frequencies(n_terms)),
            rows=np.insert(self.rows, places, other.rows),
            counts=np.insert(self.counts, places, other.counts),
        )


def merge_blocks(
    first: Postings,
    first_rows: NDArray[np.int64],
    second: Postings,
    second_rows: NDArray[np.int64],
    n_terms: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[Any]]]:
    """The postings of both under new row numbers, sorted by (term, row), block by block.

    first_rows, second_rows: the new number of each old row, -1 for a row that is left out.
    Yields (terms, rows, counts) of some whole terms at a time, terms ascending.
    """
    starts = [
        np.append(part.starts, np.full(n_terms - part.n_terms, part.starts[-1]))
        for part in (first, second)
    ]
    sizes = starts[0] + starts[1]
    low = 0
    while low < n_terms:
        high = int(np.searchsorted(sizes, sizes[low] + BLOCK_VALUES, "right")) - 1
        high = min(max(high, low + 1), n_terms)
        keys, counts = _keys(first, first_rows, starts[0], low, high)
        new_keys, new_counts = _keys(second, second_rows, starts[1], low, high)
        if len(new_keys):
            by_key = np.argsort(new_keys)
            new_keys, new_counts = new_keys[by_key], new_counts[by_key]
            places = np.searchsorted(keys, new_keys)
            keys = np.insert(keys, places, new_keys)
            wide = np.promote_types(counts.dtype, new_counts.dtype)
            counts = np.insert(counts.astype(wide), places, new_counts)
        yield keys >> 32, (keys & 0xFFFFFFFF).astype(np.int32), counts
        low = high


def _keys(
    postings: Postings, new_rows: NDArray[np.int64], starts: NDArray[np.int64], low: int, high: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """(term << 32 | new row) and the counts of the postings of terms low to high that stay."""
    part = slice(int(starts[low]), int(starts[high]))
    rows = new_rows[postings.rows[part]]
    terms = np.repeat(np.arange(low, high), np.diff(starts[low : high + 1]))
    stays = rows >= 0
    return (terms[stays] << 32) | rows[stays], postings.counts[part][stays]


def _starts(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    starts = np.zeros(len(frequencies) + 1, np.int64)
    np.cumsum(frequencies, out=starts[1:])
    return starts
