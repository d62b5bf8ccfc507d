"""Replay: read corpus changes after a watermark, split, encode, write, then move the watermark.

Every operation on a dense collection is this one code path; only the range and the collection
differ. The three stages run side by side with one unit waiting between them: reading, splitting
and tokenizing the next unit, encoding this one, writing the one before.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from reindexer.stages import StageClock
from search.corpus import Corpus
from search.dense import DenseCollection, FloatMatrix, Point
from search.documents import Change, Document, Passage
from search.splitter import Splitter
from search.vector_mark import vector_marks
from training.errors import EncodingFailed
from training.kill_points import reached

if TYPE_CHECKING:
    from search.term_weights import TermWeights
    from training.tokenizer import TokenizedTexts
    from training.version_encoder import VersionEncoder

UNIT_BYTES = 8_000_000  # text in one unit, so that huge documents do not fill the memory
DOC_BYTES = 4_000  # of a document that is not huge; a window of many such is read whole
FIRST_PAGE = 32  # changes; their size says how many more fit
SPLIT_BYTES = 250_000  # text split and tokenized at a time; between two of these it can be stopped
UPSERT_POINTS = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayProgress:
    """Totals of one replay up to a durable watermark."""

    watermark: int
    documents: int  # puts applied
    deletes: int  # tombstones applied
    passages: int
    encoded: int  # passages that went through the model
    reused: int  # passages whose stored vector was kept
    tokens: int  # of the passages that went through the model
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds; they overlap


@dataclass(slots=True)
class _Unit:
    """What one unit of changes asks for: the points that must be there afterwards."""

    changes: Sequence[Change]
    watermark: int
    fresh: bool  # no older version of these documents can be stored
    points: list[Point]
    vectors: FloatMatrix | None  # of the reused points, (n_reused, dim)
    reused: int  # the first so many points keep their stored vectors
    passages: list[Passage]  # to encode, one for each of the other points
    tokenized: TokenizedTexts | None


class Replay:
    """Applies the corpus log to one dense collection."""

    def __init__(
        self,
        *,
        corpus: Corpus,
        collection: DenseCollection,
        encoder: VersionEncoder,
        splitter: Splitter,
        window: int,
        checkpoint: Callable[[ReplayProgress], None],
        weights: TermWeights | None = None,
        check: Callable[[], None] = lambda: None,
        while_waiting: Callable[[], None] = lambda: None,
        turn: Callable[[], AbstractContextManager[object]] | None = None,
        clock: StageClock | None = None,
    ) -> None:
        """window: documents that may be encoded and not yet acknowledged; so many at most are
        encoded again after a kill. checkpoint: called after each durable write. weights: of the
        terms, for a collection that holds those of each document. check: called before each write,
        while_waiting often while there is nothing to encode; they raise when
        this process must stop. turn: entered around each batch that is encoded, as
        `VersionEncoder.encode_tokenized` takes it. clock: is told how long each stage took; they
        overlap."""
        self._corpus = corpus
        self._collection = collection
        self._encoder = encoder
        self._splitter = splitter
        self._units_at_once = min(2, window)  # one being encoded, one being written
        self._unit_docs = window // self._units_at_once
        self._unit_bytes = max(UNIT_BYTES, DOC_BYTES * self._unit_docs)
        self._checkpoint = checkpoint
        self._weights = weights
        self._check = check
        self._while_waiting = while_waiting
        self._turn = turn
        self._clock = clock if clock is not None else StageClock()

    def run(self, after: int, until: int, *, fresh_until: int = 0) -> ReplayProgress:
        """Apply the changes with after < seq <= until and return the totals.

        fresh_until: documents up to this seq cannot be stored in an older version (a build from
        an empty collection), so the collection need not be asked for what it holds.

        Raises EncodingFailed naming the document, StoreError, LeaseLost, or what `check` raises;
        everything up to the last checkpoint stays applied.
        """
        stop = threading.Event()
        prepared: queue.Queue[_Unit | BaseException | None] = queue.Queue(maxsize=1)
        encoded: queue.Queue[tuple[_Unit, FloatMatrix] | None] = queue.Queue(maxsize=1)
        room = threading.Semaphore(self._units_at_once)  # for units not yet acknowledged
        writer = _Writer(
            self._collection, encoded, room, self._checkpoint, self._check, self._clock, stop
        )

        def read() -> None:
            try:
                for unit in self._units(after, until, fresh_until, stop):
                    if not _put(prepared, unit, stop):
                        return
                _put(prepared, None, stop)
            except BaseException as error:
                _put(prepared, error, stop)

        reader = threading.Thread(target=read, name="replay-read", daemon=True)
        reader.start()
        writer.start()
        try:
            while not stop.is_set():
                unit = _get(prepared, stop, self._while_waiting)
                if isinstance(unit, BaseException):
                    raise unit
                if unit is None or not _acquire(room, stop, self._while_waiting):
                    break
                with self._clock.timed("encode"):
                    vectors = self._encode(unit)
                if not _put(encoded, (unit, vectors), stop):
                    break
            _put(encoded, None, stop)
        except BaseException as error:
            stop.set()
            writer.join()
            reader.join()
            if writer.error is not None:
                error.add_note(f"and what was encoded before could not be written: {writer.error}")
            raise
        writer.join()
        stop.set()
        reader.join()
        if writer.error is not None:
            raise writer.error
        return writer.progress(after if writer.watermark < after else writer.watermark)

    # -- stage 1: read, compare, split, tokenize ---------------------------------------------

    def _units(
        self, after: int, until: int, fresh_until: int, stop: threading.Event
    ) -> Iterator[_Unit]:
        while after < until:
            with self._clock.timed("read"):
                changes = self._read(after, until)
            if not changes:
                return
            after = changes[-1].seq
            unit = self._prepare(changes, stop, fresh=after <= fresh_until)
            if unit is None:
                return
            yield unit

    def _read(self, after: int, until: int) -> list[Change]:
        changes: list[Change] = []
        n_bytes = 0
        limit = FIRST_PAGE
        while len(changes) < self._unit_docs and n_bytes < self._unit_bytes:
            page = self._corpus.changes(
                after, min(limit, self._unit_docs - len(changes)), until=until
            )
            if not page:
                break
            after = page[-1].seq
            changes.extend(page)
            page_bytes = sum(len(c.document.text) for c in page if c.document is not None)
            n_bytes += page_bytes
            limit = max(1, (self._unit_bytes - n_bytes) * len(page) // max(1, page_bytes))
        return changes

    def _prepare(
        self, changes: Sequence[Change], stop: threading.Event, *, fresh: bool
    ) -> _Unit | None:
        """None when the pipeline stopped meanwhile."""
        puts = [change for change in changes if change.document is not None]
        passages: list[Passage] = []
        tokenized: TokenizedTexts | None = None
        for documents in _portions([change.document for change in puts if change.document]):
            if stop.is_set():
                return None
            with self._clock.timed("split"):
                more, tokens = self._splitter.split_all(documents)
            passages += more
            tokenized = tokens if tokenized is None else tokenized.extended(tokens)
        by_doc = {change.doc_id: change for change in puts}
        points = [self._point(passage, by_doc[passage.doc_id]) for passage in passages]
        unit = _Unit(
            changes=changes,
            watermark=changes[-1].seq,
            fresh=fresh,
            points=points,
            vectors=None,
            reused=0,
            passages=passages,
            tokenized=tokenized,
        )
        if fresh or not puts:
            return unit
        with self._clock.timed("read"):
            return self._reuse(unit)

    def _point(self, passage: Passage, change: Change) -> Point:
        document = change.document
        assert document is not None
        weights = self._weights if passage.number == 0 else None
        return Point(
            doc_id=passage.doc_id,
            number=passage.number,
            count=passage.count,
            seq=change.seq,
            content_hash=change.content_hash,
            text_hash=passage.text_hash,
            start=passage.start,
            end=passage.end,
            metadata=document.metadata,
            terms=weights.document(document) if weights is not None else None,
        )

    def _reuse(self, unit: _Unit) -> _Unit:
        """Keep the stored vectors of passages whose text has not changed."""
        doc_ids = sorted({point.doc_id for point in unit.points})
        stored, vectors = self._collection.stored(doc_ids)
        row_of = {point.id: row for row, point in enumerate(stored)}
        keep: list[int] = []
        rows: list[int] = []
        encode: list[int] = []
        for at, point in enumerate(unit.points):
            row = row_of.get(point.id)
            if row is not None and stored[row].text_hash == point.text_hash:
                keep.append(at)
                rows.append(row)
            else:
                encode.append(at)
        if not keep:
            return unit
        assert unit.tokenized is not None
        kept = [  # a mark stays with its vector: a new one would vouch for whatever is stored
            replace(unit.points[at], mark=stored[row].mark)
            for at, row in zip(keep, rows, strict=True)
        ]
        return replace(
            unit,
            points=kept + [unit.points[at] for at in encode],
            vectors=vectors[rows],
            reused=len(keep),
            passages=[unit.passages[at] for at in encode],
            tokenized=unit.tokenized.select(encode) if encode else None,
        )

    # -- stage 2: encode ---------------------------------------------------------------------

    def _encode(self, unit: _Unit) -> FloatMatrix:
        """(len(unit.points), dim): the reused vectors first, then the encoded ones."""
        empty = np.empty((0, self._encoder.dim), dtype=np.float32)
        reused = empty if unit.vectors is None else unit.vectors
        if unit.tokenized is None or not unit.passages:
            return reused
        try:
            if self._turn is None:
                encoded = self._encoder.encode_tokenized(unit.tokenized)
            else:
                encoded = self._encoder.encode_tokenized(unit.tokenized, turn=self._turn)
        except EncodingFailed as error:
            index = getattr(error, "index", None)
            if index is None:
                raise
            passage = unit.passages[index]
            raise EncodingFailed(
                f"document {passage.doc_id!r}, passage {passage.number}: {error}"
            ) from error
        unit.points[unit.reused :] = self._marked(unit.points[unit.reused :], encoded)
        return np.concatenate([reused, encoded]) if len(reused) else encoded

    def _marked(self, points: Sequence[Point], vectors: FloatMatrix) -> list[Point]:
        text_hashes = [point.text_hash for point in points]
        marks = vector_marks(self._encoder.fingerprint, text_hashes, vectors).tolist()
        return [replace(point, mark=mark) for point, mark in zip(points, marks, strict=True)]


class _Writer(threading.Thread):
    """Stage 3: write, wait for the acknowledgement, checkpoint."""

    def __init__(
        self,
        collection: DenseCollection,
        encoded: queue.Queue[tuple[_Unit, FloatMatrix] | None],
        room: threading.Semaphore,
        checkpoint: Callable[[ReplayProgress], None],
        check: Callable[[], None],
        clock: StageClock,
        stop: threading.Event,
    ) -> None:
        super().__init__(name="replay-write", daemon=True)
        self._collection = collection
        self._encoded = encoded
        self._room = room
        self._checkpoint = checkpoint
        self._check = check
        self._clock = clock
        self._stop_event = stop
        self.error: BaseException | None = None
        self.watermark = -1
        self._documents = self._deletes = self._passages = self._reused = self._tokens = 0

    def progress(self, watermark: int) -> ReplayProgress:
        return ReplayProgress(
            watermark=watermark,
            documents=self._documents,
            deletes=self._deletes,
            passages=self._passages,
            encoded=self._passages - self._reused,
            reused=self._reused,
            tokens=self._tokens,
            stages=self._clock.seconds(),
        )

    def run(self) -> None:
        try:
            while (item := _get(self._encoded, self._stop_event)) is not None:
                self._write(*item)
                self._room.release()
        except BaseException as error:
            self.error = error
            self._stop_event.set()

    def _write(self, unit: _Unit, vectors: FloatMatrix) -> None:
        self._check()
        with self._clock.timed("write"):
            for start in range(0, len(unit.points), UPSERT_POINTS):
                end = start + UPSERT_POINTS
                reached("upsert.begin")
                self._collection.upsert(unit.points[start:end], vectors[start:end])
                reached("upsert.acknowledged")
            if not unit.fresh:
                self._collection.remove_older(
                    {change.doc_id: change.seq for change in unit.changes}
                )
                reached("stale.removed")
        n_puts = sum(change.document is not None for change in unit.changes)
        self._documents += n_puts
        self._deletes += len(unit.changes) - n_puts
        self._passages += len(unit.points)
        self._reused += unit.reused
        self._tokens += int(unit.tokenized.lengths.sum()) if unit.tokenized is not None else 0
        self.watermark = unit.watermark
        self._checkpoint(self.progress(unit.watermark))


def _portions(documents: Sequence[Document]) -> Iterator[list[Document]]:
    portion: list[Document] = []
    n_bytes = 0
    for document in documents:
        portion.append(document)
        n_bytes += len(document.text)
        if n_bytes >= SPLIT_BYTES:
            yield portion
            portion, n_bytes = [], 0
    if portion:
        yield portion


def _put(into: queue.Queue[Any], item: object, stop: threading.Event) -> bool:
    """False when the pipeline stopped before there was room."""
    while not stop.is_set():
        try:
            into.put(item, timeout=0.05)
            return True
        except queue.Full:
            continue
    return False


def _acquire(room: threading.Semaphore, stop: threading.Event, check: Callable[[], None]) -> bool:
    """False when the pipeline stopped before there was room. Raises what check raises."""
    while not stop.is_set():
        check()
        if room.acquire(timeout=0.05):
            return True
    return False


def _get(
    source: queue.Queue[Any], stop: threading.Event, check: Callable[[], None] = lambda: None
) -> Any:
    """None when the pipeline stopped, or at its end. Raises what check raises."""
    while True:
        check()
        try:
            return source.get(timeout=0.05)
        except queue.Empty:
            if stop.is_set():
                return None
