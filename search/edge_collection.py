"""One open collection of passage vectors in the embedded Qdrant engine."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as engine

from search.collection_file import CollectionFile
from search.dense import (
    CollectionSpec,
    DenseHit,
    FieldType,
    FloatMatrix,
    FloatVector,
    Layout,
    Point,
)
from search.disk_room import bytes_on_disk, check_room
from search.documents import Filter, metadata_json
from search.edge_errors import engine_errors
from search.errors import StoreError
from search.file_cache import read_ahead
from search.owner_lock import OwnerLock
from search.payload import (
    DOC_ID,
    EXACT_UP_TO_KB,
    HIT_FIELDS,
    HNSW_EF,
    INDEX_FROM_KB,
    METADATA,
    ODD,
    OVERSAMPLING,
    SEQ,
    FieldTest,
    Nearest,
    NearestDocuments,
    field_test,
    newest,
    satisfies,
    to_hit,
    to_payload,
    to_point,
    validate_points,
    validate_query,
)
from search.walk_width import N_QUERIES, K, narrowest_width
from training.kill_points import reached

log = logging.getLogger(__name__)

POINTS_A_WRITE = 500  # the engine keeps the GIL while it writes: about 10 ms a write
DOC_IDS_A_READ = 500
WRITTEN_TWICE = 2  # into the engine's log and into its segment
POINT_BYTES = 2_000  # beside vector and metadata, in either; 600 measured
GIVE_WAY_S = 0.0002
# Points between two flushes. Opening after a kill reads so many again, 1 s for 25,000, and until
# then the room of former payloads is not used again. The engine keeps the GIL while it flushes:
# 2,000 points take 15 to 50 ms, 20,000 up to 140, so it is often and short where searches wait.
BULK_FLUSH_POINTS, FLUSH_POINTS = 10_000, 2_000
# A walk that leaves out what does not pass a filter finds less than one without, and twice as wide
# it finds as much where every tenth point passes (random vectors, every third: 0.95, and 0.98 to
# 0.99). Fewer may lie apart: they are compared one by one. Where they are too many for that, the
# walk looks two links far (ACORN), which takes 25 times as long.
WALKED_FROM_SHARE, WIDER = 0.1, 2.0
ACORN_BELOW_SHARE = 0.05  # apart from the above, which the engine estimates in another way
FEW_KB = 15_000  # of vectors: comparing with all of them takes no longer than a walk


class EdgeCollection:
    """One open embedded collection; see `search.dense.DenseCollection`.

    Reads may run side by side with each other and with a write; writes take turns.
    """

    def __init__(
        self,
        folder: Path,
        described: CollectionFile,
        shard: engine.EdgeShard,
        owner: OwnerLock,
        *,
        bulk: bool,
    ) -> None:
        """bulk: it is being filled, and nobody searches in this process."""
        self._folder = folder
        self._spec = spec = described.spec
        self._hnsw_ef = described.hnsw_ef or HNSW_EF
        self._indexed = spec.filter_fields
        self._nearest = NearestDocuments()
        self._shard = shard
        self._owner = owner
        self._writing = threading.Lock()
        self._closed = False
        self._flush_points = BULK_FLUSH_POINTS if bulk else FLUSH_POINTS
        self._unflushed = 0  # points
        self._max_seq = self._stored_max_seq()

    @property
    def name(self) -> str:
        return self._folder.name

    @property
    def spec(self) -> CollectionSpec:
        return self._spec

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        validate_points(points, vectors, self._spec, self.name)
        rows = list(newest(points).items())
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        with self._writing:
            for start in range(0, len(rows), POINTS_A_WRITE):
                self._upsert(rows[start : start + POINTS_A_WRITE], points, vectors)

    def _upsert(
        self, rows: list[tuple[str, int]], points: Sequence[Point], vectors: FloatMatrix
    ) -> None:
        # Replay goes up in seq, so there is rarely anything stored that could be newer.
        if min(points[row].seq for _, row in rows) < self._max_seq:
            stored = self._stored_seqs([point_id for point_id, _ in rows])
            rows = [(i, row) for i, row in rows if stored.get(i, 0) <= points[row].seq]
            if not rows:
                return
        self._max_seq = max(self._max_seq, *(points[row].seq for _, row in rows))
        # The engine reads a memoryview 2.5 times as fast as a row of an array.
        batch = [
            engine.Point(i, vectors[row].data, to_payload(points[row], self._indexed))
            for i, row in rows
        ]
        metadata = sum(len(metadata_json(points[row].metadata)) for _, row in rows)
        self._check_room(
            "write to", WRITTEN_TWICE * (len(rows) * (4 * self._spec.dim + POINT_BYTES) + metadata)
        )
        with self._engine("write to"):
            self._shard.update(engine.UpdateOperation.upsert_points(batch))
        self._count_written(len(batch))

    def remove_older(self, seqs: Mapping[str, int]) -> None:
        doc_ids = list(seqs)
        with self._writing:
            for start in range(0, len(doc_ids), DOC_IDS_A_READ):
                part = doc_ids[start : start + DOC_IDS_A_READ]
                before = max(seqs[doc_id] for doc_id in part)
                older = engine.Filter(
                    must=[
                        engine.FieldCondition(DOC_ID, match=engine.MatchAny(part)),
                        engine.FieldCondition(SEQ, range=engine.RangeFloat(lt=before)),
                    ]
                )
                stale = [
                    record.id
                    for page in self._pages(1_000, older, payload=[DOC_ID, SEQ], vector=False)
                    for record in page
                    if record.payload[SEQ] < seqs[record.payload[DOC_ID]]
                ]
                if stale:
                    self._check_room("delete from")
                    with self._engine("delete from"):
                        self._shard.update(engine.UpdateOperation.delete_points(stale))
                    self._count_written(len(stale))

    def stored(self, doc_ids: Sequence[str]) -> tuple[list[Point], FloatMatrix]:
        points: list[Point] = []
        parts: list[FloatMatrix] = [self._matrix([])]
        unique = list(dict.fromkeys(doc_ids))
        for start in range(0, len(unique), DOC_IDS_A_READ):
            part = unique[start : start + DOC_IDS_A_READ]
            where = engine.Filter(must=[engine.FieldCondition(DOC_ID, match=engine.MatchAny(part))])
            for page in self._pages(1_000, where, payload=True, vector=True):
                points.extend(to_point(record.payload) for record in page)
                parts.append(self._matrix(page))
        order = sorted(range(len(points)), key=lambda i: (points[i].doc_id, points[i].number))
        return [points[i] for i in order], np.concatenate(parts)[order]

    def search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> list[DenseHit]:
        validate_query(vector, k, self._spec, self.name)
        if self._writing.locked():
            # The engine lets go of the GIL at every string of a payload that is written, and
            # searches without a pause between them take it back each time: 150 ms a point.
            time.sleep(GIVE_WAY_S)
        query = engine.Query.Nearest(np.ascontiguousarray(vector).data)  # type: ignore[arg-type]
        must = [_any_of(field_test(condition, self._indexed)) for condition in where]
        exact = exact or (bool(must) and self._are_better_compared(must))
        fields = [*HIT_FIELDS, METADATA] if where else HIT_FIELDS

        def fetch(limit: int, leave_out: Sequence[str], exact: bool) -> Nearest:
            request = engine.QueryRequest(
                limit=limit,
                query=query,
                filter=_filter(must, leave_out),
                with_payload=fields,
                params=self._search_params(
                    exact=exact, filtered=bool(must or leave_out), hnsw_ef=self._hnsw_ef
                ),
            )
            with self._engine("search"):
                scored = self._shard.query(request)
            return Nearest(
                hits=[
                    to_hit(point.payload, point.score)
                    for point in scored
                    if not where or satisfies(point.payload, where)
                ],
                found=len(scored),
                lowest=scored[-1].score if scored else 0.0,
            )

        return self._nearest.search(fetch, k, exact=exact)

    def scan(self, batch: int = 1_000) -> Iterator[tuple[list[Point], FloatMatrix]]:
        for page in self._pages(batch, None, payload=True, vector=True):
            yield [to_point(record.payload) for record in page], self._matrix(page)

    def scan_points(self, batch: int = 5_000) -> Iterator[list[Point]]:
        for page in self._pages(batch, None, payload=True, vector=False):
            yield [to_point(record.payload) for record in page]

    def count(self) -> int:
        with self._engine("count"):
            return self._shard.count(engine.CountRequest(exact=True))

    def indexed(self) -> float:
        with self._engine("read"):
            info = self._shard.info()
        outside = max(0, info.points_count - info.indexed_vectors_count)
        if outside * self._spec.dim * 4 <= INDEX_FROM_KB * 1024:
            return 1.0
        return 1.0 - outside / info.points_count

    def layout(self) -> Layout:
        with self._engine("read"):
            paths = frozenset(self._shard.info().payload_schema)
        try:
            config = json.loads((self._folder / "shard" / "edge_config.json").read_text("utf-8"))
            metric = str(config["vectors"][""]["distance"]).lower()
        except (OSError, ValueError, KeyError, TypeError):
            metric = "unknown"  # the answers still show what it is
        return Layout(metric=metric, indexed_paths=paths)

    def finish(self) -> None:
        """Build the HNSW graph. The engine keeps the GIL throughout, so every thread of this
        process stands still (about 40 s for 100,000 vectors): call it in a child process."""
        with self._writing:
            # The engine writes every segment anew beside the old one.
            self._check_room("index", bytes_on_disk(self._folder / "shard" / "segments"))
            with self._engine("index"):
                self._shard.flush()
                self._shard.optimize()
                self._shard.flush()
                reached("index.built")
                self._hnsw_ef = narrowest_width(self._find, self._some_vectors(N_QUERIES))
            CollectionFile(spec=self._spec, hnsw_ef=self._hnsw_ef).write(self._folder)

    def close(self, *, ends: bool = False) -> None:
        """ends: this process does, right after it. Then the engine keeps its files, which the
        system's cache would lose with them, and whoever opens them next need not read the disk."""
        with self._writing:
            if self._closed:
                return
            self._closed = True  # first, so that a search on its way knows what happened to it
            try:
                with engine_errors(f"cannot close collection {self.name!r}", StoreError):
                    self._shard.flush()
                    if not ends:
                        self._shard.close()
            except StoreError as error:  # a full disk: the engine's log has what was written
                log.warning("%s; it is read from the log when it is opened again", error)
            if not ends:
                del self._shard  # the engine lets go of its files even where it could not close
                self._owner.release()

    def _count_written(self, n_points: int) -> None:
        """A process that is killed leaves in the engine's log what was not flushed, and whoever
        opens the collection next waits until all of that has been read."""
        self._unflushed += n_points
        if self._unflushed >= self._flush_points:
            with self._engine("write to"):
                self._shard.flush()
            self._unflushed = 0

    def read_ahead(self) -> None:
        """Have the system keep in memory what describes a hit; the engine sees to vectors and graph
        by itself."""
        segments = self._folder / "shard" / "segments"
        read_ahead(segments.glob("*/payload_storage/page_*.dat"), lambda: self._closed)

    # -- parts ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _engine(self, doing: str) -> Iterator[None]:
        closed = StoreError(f"collection {self.name!r} has been closed; open it again")
        if self._closed:
            raise closed
        try:
            with engine_errors(f"cannot {doing} collection {self.name!r}", StoreError):
                yield
        except StoreError as error:
            if self._closed:
                raise closed from error
            raise

    def _check_room(self, doing: str, more_bytes: int = 0) -> None:
        check_room(self._folder, f"cannot {doing} collection {self.name!r}", more_bytes)

    def _stored_max_seq(self) -> int:
        request = engine.ScrollRequest(
            limit=1, with_payload=[SEQ], order_by=engine.OrderBy(SEQ, engine.Direction.Desc)
        )
        with self._engine("read"):
            records, _ = self._shard.scroll(request)
        return int(records[0].payload[SEQ]) if records and records[0].payload else 0

    def _stored_seqs(self, ids: list[str]) -> dict[str, int]:
        with self._engine("read"):
            records = self._shard.retrieve(list(ids), [SEQ], False)
        return {str(record.id): record.payload[SEQ] for record in records if record.payload}

    def _pages(
        self, batch: int, where: engine.Filter | None, *, payload: bool | list[str], vector: bool
    ) -> Iterator[list[Any]]:
        """Records in the order of their ids, page by page."""
        offset: engine.PointId | None = None
        while True:
            request = engine.ScrollRequest(
                offset=offset, limit=batch, filter=where, with_payload=payload, with_vector=vector
            )
            with self._engine("read"):
                records, offset = self._shard.scroll(request)
            if records:
                yield records
            if offset is None:
                return

    def _some_vectors(self, n: int) -> FloatMatrix:
        """(at most n, dim), by chance: the order of the ids has nothing to do with the vectors."""
        return self._matrix(next(self._pages(n, None, payload=False, vector=True), []))

    def _find(self, vector: FloatVector, hnsw_ef: int | None) -> list[float]:
        request = engine.QueryRequest(
            limit=K,
            query=engine.Query.Nearest(np.ascontiguousarray(vector).data),  # type: ignore[arg-type]
            params=self._search_params(exact=hnsw_ef is None, filtered=False, hnsw_ef=hnsw_ef),
        )
        return [point.score for point in self._shard.query(request)]

    def _matrix(self, records: Sequence[Any]) -> FloatMatrix:
        rows = [record.vector for record in records]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self._spec.dim)

    def _are_better_compared(self, must: list[engine.ConditionType]) -> bool:
        """One by one. By the engine's estimates, which take it some 20 µs each."""
        with self._engine("search"):
            passing = self._shard.count(
                engine.CountRequest(exact=False, filter=engine.Filter(must=must))
            )
            of = self._shard.count(engine.CountRequest(exact=False))
        passing_kb = passing * self._spec.dim * 4 / 1024
        return passing_kb <= (FEW_KB if passing >= WALKED_FROM_SHARE * of else EXACT_UP_TO_KB)

    def _search_params(
        self, *, exact: bool, filtered: bool, hnsw_ef: int | None
    ) -> engine.SearchParams:
        return engine.SearchParams(
            exact=exact,
            hnsw_ef=int(WIDER * hnsw_ef) if filtered and hnsw_ef is not None else hnsw_ef,
            acorn=engine.AcornSearchParams(enable=True, max_selectivity=ACORN_BELOW_SHARE)
            if filtered
            else None,
            quantization=engine.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=OVERSAMPLING
            )
            if self._spec.quantization != "none"
            else None,
        )


# -- the engine's terms ----------------------------------------------------------------------------


def _filter(must: list[engine.ConditionType], leave_out: Sequence[str]) -> engine.Filter | None:
    if not must and not leave_out:
        return None
    return engine.Filter(
        must=must or None,
        must_not=[engine.FieldCondition(DOC_ID, match=engine.MatchAny(list(leave_out)))]
        if leave_out
        else None,
    )


def _any_of(test: FieldTest) -> engine.ConditionType:
    conditions: list[engine.ConditionType] = []

    def add(kind: FieldType, condition: engine.FieldCondition) -> None:
        odd = engine.FieldCondition(ODD, match=engine.MatchValue(test.field))
        conditions.append(engine.Filter(must=[odd, condition]) if test.is_odd(kind) else condition)

    if test.texts:
        texts = engine.MatchAny(list(test.texts))
        add("keyword", engine.FieldCondition(test.path, match=texts))
    for value in test.booleans:  # Python's own True becomes the integer 1 on its way in
        truth = engine.MatchValue(np.bool_(value))  # type: ignore[arg-type]
        add("boolean", engine.FieldCondition(test.path, match=truth))
    for bounds in test.ranges:
        numbers = engine.RangeFloat(gt=bounds.gt, gte=bounds.gte, lt=bounds.lt, lte=bounds.lte)
        add("number", engine.FieldCondition(test.path, range=numbers))
    return conditions[0] if len(conditions) == 1 else engine.Filter(should=conditions)
