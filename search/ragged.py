"""Rows of different lengths in two flat arrays: quick to map from a file, to gather and to join."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Offsets = NDArray[np.int64]
RowNumbers = NDArray[np.int64]

# Values moved by one numpy call. It keeps temporary arrays small, and other threads never wait
# longer than a few milliseconds for the interpreter.
BLOCK_VALUES = 1 << 19


class Ragged:
    """n rows; row i is values[offsets[i]:offsets[i + 1]]. Immutable.

    offsets: (n + 1,) int64, starting at 0
    values: (offsets[n],) of any dtype
    """

    __slots__ = ("offsets", "values")

    def __init__(self, offsets: Offsets, values: NDArray[Any]) -> None:
        self.offsets = offsets
        self.values = values

    @classmethod
    def of(cls, counts: Sequence[int] | NDArray[Any], values: NDArray[Any]) -> Ragged:
        offsets = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=offsets[1:])
        return cls(offsets, values)

    @classmethod
    def empty(cls, dtype: Any) -> Ragged:
        return cls(np.zeros(1, np.int64), np.empty(0, dtype))

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> Ragged:
        """One row of UTF-8 bytes a text."""
        encoded = [text.encode("utf-8") for text in texts]
        return cls.of([len(row) for row in encoded], np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n,) length of each row."""
        return np.diff(self.offsets)

    def text(self, row: int) -> str:
        return str(self[row].tobytes(), "utf-8")

    def texts(self, rows: Sequence[int]) -> list[str]:
        raw, offsets = self.values.data, self.offsets.data
        return [str(raw[offsets[row] : offsets[row + 1]], "utf-8") for row in rows]

    def find_text(self, wanted: str, low: int = 0) -> tuple[int, bool]:
        """Where a text is, or would go, among rows sorted by their UTF-8 bytes, which is the order
        of their characters; low: a row known to sort before it."""
        key = wanted.encode("utf-8")
        high = len(self)
        raw, offsets = self.values.data, self.offsets.data
        while low < high:
            middle = (low + high) // 2
            if bytes(raw[offsets[middle] : offsets[middle + 1]]) < key:
                low = middle + 1
            else:
                high = middle
        found = low < len(self) and bytes(raw[offsets[low] : offsets[low + 1]]) == key
        return low, found

    def append(self, other: Ragged) -> Ragged:
        """These rows, then the other's."""
        return Ragged(
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            np.concatenate([self.values[: self.offsets[-1]], other.values]),
        )

    def gather(self, rows: RowNumbers) -> Ragged:
        """These rows in this order."""
        return gather(self, Ragged.empty(self.values.dtype), rows)


def gather(first: Ragged, second: Ragged, order: RowNumbers) -> Ragged:
    """Rows of two Raggeds in a new order; number len(first) + i is row i of the second."""
    counts = np.concatenate([first.counts, second.counts])[order]
    result = Ragged.of(counts, np.empty(int(counts.sum()), first.values.dtype))
    start = 0
    while start < len(order):
        limit = int(result.offsets[start]) + BLOCK_VALUES
        end = max(start + 1, int(np.searchsorted(result.offsets, limit, "right")) - 1)
        end = min(end, start + BLOCK_VALUES, len(order))
        rows = order[start:end]
        from_first = rows < len(first)
        for part, chosen, shift in ((first, from_first, 0), (second, ~from_first, len(first))):
            if chosen.any():
                sources = _positions(part.offsets[rows[chosen] - shift], counts[start:end][chosen])
                targets = _positions(result.offsets[start:end][chosen], counts[start:end][chosen])
                result.values[targets] = part.values[sources]
        start = end
    return result


def merge_order(first: Ragged, keep: NDArray[np.bool_], new: Sequence[str]) -> RowNumbers:
    """The order, for `gather`, that merges sorted new texts into the kept rows of sorted texts."""
    kept = np.flatnonzero(keep)
    places = np.empty(len(new), np.int64)
    low = 0
    for number, text in enumerate(new):
        low, _ = first.find_text(text, low)
        places[number] = low
    return np.insert(
        kept, np.searchsorted(kept, places), np.arange(len(new), dtype=np.int64) + len(first)
    )


def _positions(starts: Offsets, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, … for counts[0] steps, then the same from starts[1], and so on."""
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(total)
