"""Brings the documents of a source into the corpus."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from reindexer.sources.positions import Positions, Reading
from reindexer.sources.rows import DocumentSource, Rejected, Row
from search.corpus import Corpus

MAX_KEPT_REJECTIONS = 1_000
_BATCH_CHARACTERS = 16_000_000  # of text; a batch of huge documents is smaller
_SHOWN_ID_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What one ingest did."""

    source: str
    added: int
    changed: int
    unchanged: int
    deleted: int
    rejected: tuple[Rejected, ...]  # the first 1,000
    rejected_total: int
    head_seq: int
    seconds: float
    warnings: tuple[str, ...] = ()
    passed_over: int = 0  # files behind URLs that have not changed since they were read
    went_on: int = 0  # files, tables, ... that were entered where an ingest had left them

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source,
            "added": self.added,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "rejected": [{"where": row.where, "reason": row.reason} for row in self.rejected],
            "rejected_total": self.rejected_total,
            "head_seq": self.head_seq,
            "seconds": round(self.seconds, 3),
            "warnings": list(self.warnings),
            "passed_over": self.passed_over,
            "went_on": self.went_on,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestProgress:
    """How far an ingest has come."""

    rows: int  # read so far, rejected ones included
    rejected: int
    share_read: float | None  # 0..1 of the source, where it can tell


def ingest(
    corpus: Corpus,
    source: DocumentSource,
    *,
    positions: Positions | None = None,
    delete_missing: bool = False,
    again: bool = False,
    batch: int = 5_000,
    on_progress: Callable[[IngestProgress], None] | None = None,
) -> IngestReport:
    """Put every document of a source into the corpus; a bad row is reported and left out.

    Batches are committed as they go. An ingest that was killed is simply run again: it finds what
    is stored already unchanged. Of two rows with the same id the first counts.

    positions: where it is kept how far the source has been read, after each batch. An ingest of
    the same goes on there; a file behind a URL that was read to its end without a bad row is
    passed over until it changes; a database with an updated-at column is asked for what is new.
    again: read everything from the beginning nevertheless. So does delete_missing: it has to see
    every row.

    delete_missing: delete the documents of this source (never of another) that it no longer has.
    A document that was written by somebody else while this ran is kept. Nothing is deleted when
    the source cannot be trusted to be whole: it was empty, it broke off, or a row was rejected
    whose id nobody knows.

    batch: rows a transaction. Raises DatabaseUnavailable or DatabaseError when the database fails;
    the batches before are stored.
    """
    started = time.monotonic()
    first_head = corpus.head()
    tally = _Tally(first_head)
    kept = positions.of(source.name) if positions else {}
    reading = Reading(source, kept, from_beginning=again or delete_missing)
    with _SeenIds() as seen:
        for rows in _batches(reading, batch):
            tally.rows += len(rows)
            rejected_before = tally.rejected_total
            _put(corpus, source.name, seen.unseen(rows, tally), tally)
            if positions:
                positions.keep(source.name, *reading.marks(tally.rejected_total - rejected_before))
            if on_progress:
                on_progress(
                    IngestProgress(
                        rows=tally.rows,
                        rejected=tally.rejected_total,
                        share_read=source.share_read,
                    )
                )
        if positions:
            positions.keep(source.name, *reading.marks(0))  # what ended behind the last batch
        deleted = 0
        warnings: list[str] = []
        if not tally.rows and not reading.passed_over and not reading.went_on:
            warnings.append("the source has no rows; nothing was read")
        if delete_missing:
            if doubt := _doubt(tally):
                warnings.append(f"nothing was deleted: {doubt}")
            else:
                deleted = _delete_missing(corpus, source.name, seen, first_head, tally)
    if tally.rejected_total > MAX_KEPT_REJECTIONS:
        warnings.append(
            f"{tally.rejected_total:,} rows were rejected; the first {MAX_KEPT_REJECTIONS:,} are "
            "listed"
        )
    return IngestReport(
        source=source.name,
        added=tally.added,
        changed=tally.changed,
        unchanged=tally.unchanged,
        deleted=deleted,
        rejected=tuple(tally.rejected),
        rejected_total=tally.rejected_total,
        head_seq=tally.head_seq,
        seconds=time.monotonic() - started,
        warnings=tuple(warnings),
        passed_over=reading.passed_over,
        went_on=reading.went_on,
    )


@dataclass(slots=True)
class _Tally:
    head_seq: int
    rows: int = 0
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    rejected_total: int = 0
    first_unknown: Rejected | None = None  # the first row whose id nobody knows

    def reject(self, row: Rejected) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_KEPT_REJECTIONS:
            self.rejected.append(row)
        if row.doc_id is None and self.first_unknown is None:
            self.first_unknown = row


def _batches(rows: Iterable[Row | Rejected], size: int) -> Iterator[list[Row | Rejected]]:
    batch: list[Row | Rejected] = []
    n_characters = 0
    for row in rows:
        batch.append(row)
        if isinstance(row, Row):
            n_characters += len(row.document.text)
        if len(batch) >= size or n_characters >= _BATCH_CHARACTERS:
            yield batch
            batch = []
            n_characters = 0
    if batch:
        yield batch


def _put(corpus: Corpus, source: str, rows: list[Row], tally: _Tally) -> None:
    if not rows:
        return
    result = corpus.put([row.document for row in rows])
    tally.added += result.added
    tally.changed += result.changed
    tally.unchanged += result.unchanged
    tally.head_seq = result.head_seq
    if result.refused:
        for row in rows:
            doc_id = row.document.doc_id
            if owner := result.refused.get(doc_id):
                tally.reject(
                    Rejected(
                        where=row.where,
                        reason=f"{_shown(doc_id)} belongs to source {owner!r}, this is source "
                        f"{source!r}; ingest it with --source {owner}, or give it another id",
                        doc_id=doc_id,
                    )
                )


def _doubt(tally: _Tally) -> str | None:
    """Why the source cannot be trusted to hold everything it should."""
    if not tally.rows:
        return "an empty source would delete every document of it; check the file"
    if tally.first_unknown:
        return (
            f"which document {tally.first_unknown.where} is cannot be told "
            f"({tally.first_unknown.reason}), and it may be one that is stored; repair it and "
            "ingest again with --delete-missing"
        )
    return None


def _delete_missing(
    corpus: Corpus, source: str, seen: _SeenIds, first_head: int, tally: _Tally
) -> int:
    deleted = 0
    for missing in seen.missing(corpus.doc_ids(source)):
        result = corpus.delete(missing, source=source, until=first_head)
        deleted += result.deleted
        tally.head_seq = result.head_seq
    return deleted


def _shown(doc_id: str) -> str:
    if len(doc_id) <= _SHOWN_ID_CHARACTERS:
        return repr(doc_id)
    return f"{doc_id[:_SHOWN_ID_CHARACTERS]!r}…"


class _SeenIds:
    """The ids of this source so far, with the place of the row that took each, in constant memory:
    a private SQLite database without a file, which spills to the temporary folder by itself."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("", isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = OFF",
            "PRAGMA synchronous = OFF",
            "PRAGMA cache_size = -16384",  # KiB
            # place is null for an id that only rejected rows had so far
            "CREATE TABLE seen (doc_id TEXT PRIMARY KEY, place TEXT) WITHOUT ROWID",
        ):
            self._connection.execute(statement)

    def __enter__(self) -> _SeenIds:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def unseen(self, rows: list[Row | Rejected], tally: _Tally) -> list[Row]:
        """The rows whose id no row before them took; the others are rejected."""
        places = self._places(
            row.document.doc_id if isinstance(row, Row) else row.doc_id for row in rows
        )
        first: list[Row] = []
        for row in rows:
            if isinstance(row, Rejected):
                tally.reject(row)
                if row.doc_id is not None:
                    places.setdefault(row.doc_id, None)
                continue
            doc_id = row.document.doc_id
            if place := places.get(doc_id):
                tally.reject(
                    Rejected(
                        where=row.where,
                        reason=f"duplicate id {_shown(doc_id)}; the first one is at {place}",
                        doc_id=doc_id,
                    )
                )
            else:
                places[doc_id] = row.where
                first.append(row)
        self._connection.execute("BEGIN")  # a transaction a row costs four times as much
        self._connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", places.items())
        self._connection.execute("COMMIT")
        return first

    def missing(self, doc_ids: Iterator[str], size: int = 500) -> Iterator[list[str]]:
        """Those of the ids that the source did not have, in lists of at most `size`."""
        while ids := [doc_id for _, doc_id in zip(range(size), doc_ids, strict=False)]:
            seen = self._places(ids)
            if missing := [doc_id for doc_id in ids if doc_id not in seen]:
                yield missing

    def _places(self, doc_ids: Iterable[str | None]) -> dict[str, str | None]:
        ids = [doc_id for doc_id in doc_ids if doc_id is not None]
        found: dict[str, str | None] = {}
        for start in range(0, len(ids), 500):
            some = ids[start : start + 500]
            marks = ",".join("?" * len(some))
            found.update(
                self._connection.execute(
                    f"SELECT doc_id, place FROM seen WHERE doc_id IN ({marks})", some
                )
            )
        return found
