"""The compacted part of a lexical index: its arrays and the vocabulary that numbers its terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.documents import Filter
from search.metadata import Columns, Fields, Mask
from search.postings import Postings, Rows
from search.ragged import Ragged

MAX_CACHED_MASKS = 32  # filters remembered, one number a row each
TERMS_AT_ONCE = 20_000  # numbered in one call, in which queries in other threads wait: 2 ms


class Vocabulary(dict[str, int]):
    """term → number; a term that is asked for as vocabulary[term] gets one if it has none.

    Only grows; states that know fewer terms ignore the later ones.
    """

    def __init__(self, terms: Iterable[str] = ()) -> None:
        """terms: each once, in the order of their numbers."""
        super().__init__()
        self.terms = list(terms)  # by number
        for start in range(0, len(self.terms), TERMS_AT_ONCE):
            part = self.terms[start : start + TERMS_AT_ONCE]
            self.update(zip(part, range(start, start + len(part)), strict=True))

    def __missing__(self, term: str) -> int:
        number = self[term] = len(self.terms)
        self.terms.append(term)
        return number


@dataclass(frozen=True, kw_only=True, eq=False)
class Base:
    """The compacted documents, sorted by doc_id, with the BM25 score of every posting."""

    rows: Rows
    postings: Postings
    scores: NDArray[np.float32]  # (n_postings,)
    gone: Ragged  # UTF-8 doc_ids of deleted documents, sorted
    gone_seqs: NDArray[np.int64]
    fields: Fields

    @classmethod
    def empty(cls) -> Base:
        return cls(
            rows=Rows.empty(),
            postings=Postings.empty(),
            scores=np.empty(0, np.float32),
            gone=Ragged.empty(np.uint8),
            gone_seqs=np.empty(0, np.int64),
            fields=Fields(),
        )

    def to_arrays(self, terms: Sequence[str]) -> dict[str, NDArray[Any]]:
        """What a file keeps, with the vocabulary of the base."""
        return {
            **self.rows.to_arrays(),
            "postings.starts": self.postings.starts,
            "postings.rows": self.postings.rows,
            "postings.counts": self.postings.counts,
            "scores": self.scores,
            "gone.offsets": self.gone.offsets,
            "gone.values": self.gone.values,
            "gone_seqs": self.gone_seqs,
            "vocabulary": packed(terms),
        }

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, NDArray[Any]], fields: Fields
    ) -> tuple[Base, list[str]]:
        base = cls(
            rows=Rows.from_arrays(arrays),
            postings=Postings(
                starts=arrays["postings.starts"],
                rows=arrays["postings.rows"],
                counts=arrays["postings.counts"],
            ),
            scores=arrays["scores"],
            gone=Ragged(arrays["gone.offsets"], arrays["gone.values"]),
            gone_seqs=arrays["gone_seqs"],
            fields=fields,
        )
        return base, unpacked(arrays["vocabulary"])

    def matches(self, where: Filter) -> Mask:
        """(n,) rows that satisfy the filter; remembered, for changes never touch the base."""
        key = repr(where)  # conditions on True and on 1 are equal as values, not as filters
        mask = self._masks.get(key)
        if mask is None:
            mask = self._columns.matches(where)
            if len(self._masks) >= MAX_CACHED_MASKS:
                self._masks.clear()
            self._masks[key] = mask
        return mask

    @cached_property
    def _columns(self) -> Columns:
        return Columns(self.rows.metadata, self.fields)

    @cached_property
    def _masks(self) -> dict[str, Mask]:
        return {}


def packed(terms: Sequence[str]) -> NDArray[np.uint8]:
    """Terms as bytes of UTF-8; no term holds a line break."""
    return np.frombuffer("\n".join(terms).encode("utf-8"), np.uint8)


def unpacked(raw: NDArray[np.uint8]) -> list[str]:
    return str(raw.tobytes(), "utf-8").split("\n") if len(raw) else []
