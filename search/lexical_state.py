"""What a lexical index knows at one watermark: immutable, so queries never wait or see half."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.analyzer import Analyzer
from search.documents import Change, Filter
from search.lexical_base import MAX_CACHED_MASKS, Base, Vocabulary, packed, unpacked
from search.metadata import ENTRY, Columns, Entry, Mask
from search.postings import TOMBSTONE, Postings, Rows, merge_blocks
from search.ragged import Ragged, RowNumbers, gather, merge_order

SCAN_BATCH = 10_000  # documents decoded at a time
MIN_UNUSED_TERMS = 1_000  # fewer terms that no document holds any more are left where they are


@dataclass(frozen=True, kw_only=True, eq=False)
class LexicalState:
    """A base and the rows that were put or deleted since. Row numbers run through both."""

    base: Base
    changed: Rows  # in order of arrival, tombstones and replaced rows included
    changed_postings: Postings  # of `changed`, numbered on from the base
    latest: dict[str, int]  # doc_id → its last row in `changed`
    live: Mask  # (n_rows,) False: replaced, deleted, or a tombstone
    frequencies: NDArray[np.int64]  # (n_terms,) live documents that hold the term
    documents: int  # live
    n_tokens: int  # of all live documents
    vocabulary: Vocabulary
    watermark: int
    k1: float
    b: float

    @classmethod
    def of_base(
        cls, base: Base, vocabulary: Vocabulary, *, watermark: int, k1: float, b: float
    ) -> LexicalState:
        """Nothing changed since the base."""
        return cls(
            base=base,
            changed=Rows.empty(),
            changed_postings=Postings.empty(),
            latest={},
            live=np.ones(len(base.rows), np.bool_),
            frequencies=base.postings.frequencies(base.postings.n_terms),
            documents=len(base.rows),
            n_tokens=int(base.rows.lengths.sum(dtype=np.int64)),
            vocabulary=vocabulary,
            watermark=watermark,
            k1=k1,
            b=b,
        )

    def changes_to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps beside the base."""
        n_terms, known = len(self.frequencies), self.base.postings.n_terms
        postings = self.changed_postings
        return {
            **self.changed.to_arrays(),
            "postings.terms": np.repeat(
                np.arange(n_terms, dtype=np.int32), postings.frequencies(n_terms)
            ),
            "postings.rows": postings.rows,
            "postings.counts": postings.counts,
            "dead": np.flatnonzero(~self.live),
            "vocabulary": packed(self.vocabulary.terms[known:n_terms]),
        }

    @classmethod
    def from_arrays(
        cls,
        base: Base,
        base_terms: list[str],
        arrays: Mapping[str, NDArray[Any]],
        *,
        watermark: int,
        k1: float,
        b: float,
    ) -> LexicalState:
        vocabulary = Vocabulary(base_terms + unpacked(arrays["vocabulary"]))
        n_terms, n_base = len(vocabulary.terms), len(base.rows)
        state = cls.of_base(base, vocabulary, watermark=watermark, k1=k1, b=b)
        changed = Rows.from_arrays(arrays)
        if not len(changed):
            return state
        starts = np.zeros(n_terms + 1, np.int64)
        np.cumsum(np.bincount(arrays["postings.terms"], minlength=n_terms), out=starts[1:])
        live = np.ones(n_base + len(changed), np.bool_)
        live[arrays["dead"]] = False
        doc_ids = changed.doc_ids.texts(range(len(changed)))
        gone = base.rows.terms.gather(np.flatnonzero(~live[:n_base])).values
        here = changed.terms.gather(np.flatnonzero(live[n_base:])).values
        return replace(
            state,
            changed=changed,
            changed_postings=Postings(
                starts=starts, rows=arrays["postings.rows"], counts=arrays["postings.counts"]
            ),
            latest={doc_id: row for row, doc_id in enumerate(doc_ids)},
            live=live,
            frequencies=base.postings.frequencies(n_terms)
            - np.bincount(gone, minlength=n_terms)
            + np.bincount(here, minlength=n_terms),
            documents=int(np.count_nonzero(live)),
            n_tokens=sum(
                int(rows.lengths[part].sum(dtype=np.int64))
                for rows, part in ((base.rows, live[:n_base]), (changed, live[n_base:]))
            ),
        )

    @property
    def n_rows(self) -> int:
        return len(self.live)

    @cached_property
    def norms(self) -> NDArray[np.float32]:
        """(n_rows,) k1 · (1 - b + b · length / average length) of each row now; infinite for a row
        that is not live, whose score is then 0."""
        lengths = np.concatenate([self.base.rows.lengths, self.changed.lengths])
        norms = length_norms(lengths, self)
        norms[~self.live] = np.inf
        return norms

    def idf(self, terms: Any) -> NDArray[np.float32]:
        """ln(1 + (N - n + 0.5) / (n + 0.5)) of these term numbers."""
        holding = self.frequencies[terms]
        idf = np.log1p((self.documents - holding + 0.5) / (holding + 0.5))
        return np.asarray(idf, np.float32)

    def matches(self, where: Filter) -> NDArray[np.float32]:
        """(n_rows,) 1.0 for a row that satisfies the filter, else 0.0."""
        key = repr(where)
        mask = self._masks.get(key)
        if mask is None:
            changed = Columns(self.changed.metadata, self.base.fields).matches(where)
            mask = np.concatenate([self.base.matches(where), changed]).astype(np.float32)
            mask.setflags(write=False)
            if len(self._masks) >= MAX_CACHED_MASKS:
                self._masks.clear()
            self._masks[key] = mask
        return mask

    @cached_property
    def _masks(self) -> dict[str, NDArray[np.float32]]:
        return {}

    def doc_ids(self, rows: Sequence[int]) -> list[str]:
        base, changed, n_base = self.base.rows.doc_ids, self.changed.doc_ids, len(self.base.rows)
        if not len(changed):
            return base.texts(rows)
        return [base.text(row) if row < n_base else changed.text(row - n_base) for row in rows]

    def seqs(self, rows: Sequence[int]) -> list[int]:
        base, changed, n_base = self.base.rows.seqs, self.changed.seqs, len(self.base.rows)
        if not len(changed):
            return list(base[rows].tolist())
        return [int(base[row] if row < n_base else changed[row - n_base]) for row in rows]

    def contains(self, doc_id: str) -> bool:
        return self._find(doc_id)[0] is not None

    def _find(self, doc_id: str) -> tuple[int | None, int]:
        """A document's live row, and the seq of its last change; (None, -1) if it had none."""
        changed_row = self.latest.get(doc_id)
        if changed_row is not None:
            row = changed_row + len(self.base.rows)
            return (row if self.live[row] else None), int(self.changed.seqs[changed_row])
        place, found = self.base.rows.doc_ids.find_text(doc_id)
        if found:
            return place, int(self.base.rows.seqs[place])
        place, found = self.base.gone.find_text(doc_id)
        return None, int(self.base.gone_seqs[place]) if found else -1

    def scan(self) -> Iterator[tuple[str, int, str]]:
        """(doc_id, seq, content_hash) of every live document."""
        for rows, start in ((self.base.rows, 0), (self.changed, len(self.base.rows))):
            live = np.flatnonzero(self.live[start : start + len(rows)])
            for batch in np.array_split(live, len(live) // SCAN_BATCH + 1):
                numbers = batch.tolist()
                yield from zip(
                    rows.doc_ids.texts(numbers),
                    rows.seqs[batch].tolist(),
                    rows.content_hashes.texts(numbers),
                    strict=True,
                )

    def after(self, changes: Sequence[Change], analyzer: Analyzer) -> LexicalState:
        """The state with these changes applied; those that it already has are left out. Time and
        memory follow the changes, but for a few flat copies of one number a row."""
        if not changes:
            return self
        watermark = max(self.watermark, *(change.seq for change in changes))
        newest: dict[str, Change] = {}
        for change in changes:
            known = newest.get(change.doc_id)
            if known is None or change.seq > known.seq:
                newest[change.doc_id] = change
        replaced = []
        for doc_id, change in list(newest.items()):
            row, seq = self._find(doc_id)
            if change.seq <= seq:
                del newest[doc_id]
            elif row is not None:
                replaced.append(row)
        if not newest:
            return replace(self, watermark=watermark)
        added, counts = self._read(list(newest.values()), analyzer)
        n_terms = len(self.vocabulary.terms)
        live = np.concatenate([self.live, added.lengths != TOMBSTONE])
        live[replaced] = False
        frequencies = np.zeros(n_terms, np.int64)
        frequencies[: len(self.frequencies)] = self.frequencies
        np.add.at(frequencies, added.terms.values, 1)
        n_tokens = self.n_tokens + int(added.lengths[added.lengths > 0].sum(dtype=np.int64))
        for row in replaced:
            part, own = self._part(row)
            frequencies[part.terms[own]] -= 1
            n_tokens -= int(part.lengths[own])
        first = len(self.changed)
        return replace(
            self,
            changed=self.changed.append(added),
            changed_postings=self.changed_postings.append(
                Postings.of(added.terms, counts, n_terms, first_row=self.n_rows)
            ),
            latest=self.latest | {doc_id: first + i for i, doc_id in enumerate(newest)},
            live=live,
            frequencies=frequencies,
            documents=self.documents + int(live[self.n_rows :].sum()) - len(replaced),
            n_tokens=n_tokens,
            watermark=watermark,
        )

    def _part(self, row: int) -> tuple[Rows, int]:
        n_base = len(self.base.rows)
        return (self.base.rows, row) if row < n_base else (self.changed, row - n_base)

    def _read(self, changes: Sequence[Change], analyzer: Analyzer) -> tuple[Rows, list[int]]:
        """Rows of the changes, and how often each of `Rows.terms` occurs."""
        terms: list[int] = []
        counts: list[int] = []
        row_sizes: list[int] = []
        lengths: list[int] = []
        entries: list[Entry] = []
        entry_sizes: list[int] = []
        number_of = self.vocabulary.__getitem__
        for change in changes:
            if change.document is None:
                lengths.append(TOMBSTONE)
                row_sizes.append(0)
                entry_sizes.append(0)
                continue
            words = analyzer.terms(change.document.full_text)
            occurrences = Counter(words)
            terms += map(number_of, occurrences)
            counts += occurrences.values()
            row_sizes.append(len(occurrences))
            lengths.append(len(words))
            of_document = self.base.fields.entries(change.document.metadata)
            entries += of_document
            entry_sizes.append(len(of_document))
        rows = Rows(
            doc_ids=Ragged.of_texts(change.doc_id for change in changes),
            content_hashes=Ragged.of_texts(change.content_hash for change in changes),
            seqs=np.array([change.seq for change in changes], np.int64),
            lengths=np.array(lengths, np.int32),
            terms=Ragged.of(row_sizes, np.array(terms, np.int32)),
            metadata=Ragged.of(entry_sizes, np.array(entries, ENTRY)),
        )
        return rows, counts

    def compacted(self) -> LexicalState:
        """The same documents with everything in a new base. Linear in the postings; works in
        blocks, so that queries in other threads wait a few milliseconds at the most."""
        base, n_base = self.base, len(self.base.rows)
        changed_rows = np.flatnonzero(self.live[n_base:])
        changed_rows, doc_ids = _sorted_by_id(self.changed.doc_ids, changed_rows)
        order = merge_order(base.rows.doc_ids, self.live[:n_base], doc_ids)
        is_new = order >= n_base
        order[is_new] = changed_rows[order[is_new] - n_base] + n_base
        rows = base.rows.merged(self.changed, order)
        moved = np.full(self.n_rows, -1, np.int64)
        moved[order] = np.arange(len(order))

        vocabulary, frequencies = self.vocabulary, self.frequencies
        postings, scores = self._merged_postings(rows, moved)
        unused = int((frequencies == 0).sum())
        if unused > max(MIN_UNUSED_TERMS, len(frequencies) // 4):
            used = frequencies > 0
            numbers = np.cumsum(used, dtype=np.int32) - np.int32(1)
            terms = Ragged(rows.terms.offsets, numbers[rows.terms.values])
            rows = replace(rows, terms=terms)
            postings = replace(postings, starts=postings.starts[np.append(used, True)])
            vocabulary = Vocabulary(vocabulary.terms[i] for i in np.flatnonzero(used).tolist())
        gone, gone_seqs = self._merged_tombstones()
        merged = Base(
            rows=rows,
            postings=postings,
            scores=scores,
            gone=gone,
            gone_seqs=gone_seqs,
            fields=base.fields,
        )
        return LexicalState.of_base(
            merged, vocabulary, watermark=self.watermark, k1=self.k1, b=self.b
        )

    def _merged_postings(
        self, rows: Rows, moved: NDArray[np.int64]
    ) -> tuple[Postings, NDArray[np.float32]]:
        n_terms = len(self.frequencies)
        n_postings = int(self.frequencies.sum())
        highest = int(self.changed_postings.counts.max(initial=0))
        merged_rows = np.empty(n_postings, np.int32)
        merged_counts = np.empty(
            n_postings,
            np.promote_types(self.base.postings.counts.dtype, np.min_scalar_type(highest)),
        )
        scores = np.empty(n_postings, np.float32)
        norms = length_norms(rows.lengths, self)
        idf = self.idf(np.arange(n_terms))
        start = 0
        blocks = merge_blocks(self.base.postings, moved, self.changed_postings, moved, n_terms)
        for terms, block_rows, counts in blocks:
            end = start + len(terms)
            merged_rows[start:end] = block_rows
            merged_counts[start:end] = counts
            scores[start:end] = bm25(counts.astype(np.float32), norms[block_rows], idf[terms])
            start = end
        starts = np.zeros(n_terms + 1, np.int64)
        np.cumsum(self.frequencies, out=starts[1:])
        return Postings(starts=starts, rows=merged_rows, counts=merged_counts), scores

    def _merged_tombstones(self) -> tuple[Ragged, NDArray[np.int64]]:
        gone = self.base.gone
        keep = np.ones(len(gone), np.bool_)
        deleted: list[tuple[str, int]] = []
        for doc_id, row in self.latest.items():
            place, found = gone.find_text(doc_id)
            if found:
                keep[place] = False
            if self.changed.lengths[row] == TOMBSTONE:
                deleted.append((doc_id, int(self.changed.seqs[row])))
        deleted.sort()
        doc_ids = [doc_id for doc_id, _ in deleted]
        order = merge_order(gone, keep, doc_ids)
        seqs = np.array([seq for _, seq in deleted], np.int64)
        return (
            gather(gone, Ragged.of_texts(doc_ids), order),
            np.concatenate([self.base.gone_seqs, seqs])[order],
        )


def length_norms(lengths: NDArray[np.int32], state: LexicalState) -> NDArray[np.float32]:
    """k1 · (1 - b + b · length / average length)."""
    average = state.n_tokens / state.documents if state.n_tokens else 1.0
    norms = lengths * np.float32(state.k1 * state.b / average)
    norms += np.float32(state.k1 * (1 - state.b))
    return np.asarray(norms, np.float32)


def bm25(
    counts: NDArray[np.float32], norms: NDArray[np.float32], idf: NDArray[np.float32]
) -> NDArray[np.float32]:
    """idf · count / (count + norm) of each posting, as bm25s' method "lucene" has it."""
    norms = norms + counts
    np.divide(counts, norms, out=norms)
    norms *= idf
    return norms


def _sorted_by_id(doc_ids: Ragged, rows: RowNumbers) -> tuple[RowNumbers, list[str]]:
    numbers = rows.tolist()
    by_id = sorted(zip(doc_ids.texts(numbers), numbers, strict=True))
    return np.array([row for _, row in by_id], np.int64), [doc_id for doc_id, _ in by_id]
