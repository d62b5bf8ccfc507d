"""Embedded dense collections: the Qdrant engine inside this process (qdrant-edge-py).

    <root>/.lock-<name>      whose process has the collection open (flock; its pid as text)
    <root>/<name>/collection.json
    <root>/<name>/shard/     the engine's own files, write-ahead log included

A collection appears under its name complete, by a rename, and disappears by one; what a killed
process leaves of either is called `.new-…` or `.trash-…` and is cleared away.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as engine

from search.collection_file import (
    REBUILD,
    is_empty,
    is_name,
    missing,
    read_spec,
    sync_folder,
    valid_name,
    write_spec,
)
from search.dense import CollectionSpec, DenseHit, FloatMatrix, FloatVector, Point
from search.documents import Filter
from search.errors import (
    CollectionDamaged,
    SearchError,
    StoreError,
    StoreLocked,
)
from search.owner_lock import OwnerLock
from search.payload import (
    DOC_ID,
    HIT_FIELDS,
    METADATA,
    SEQ,
    FieldTest,
    Nearest,
    check_fingerprint,
    check_same_spec,
    field_path,
    field_test,
    nearest_documents,
    newest,
    satisfies,
    to_hit,
    to_payload,
    to_point,
    validate_points,
    validate_query,
)

INDEX_FROM_KB = 10_000  # vectors of a segment; below it comparing with all of them takes about 1 ms
POINTS_A_WRITE = 500  # the engine keeps the GIL while it writes: about 10 ms a write
DOC_IDS_A_READ = 500
OVERSAMPLING = 2.0  # int8 candidates compared again with the float32 vectors, per hit
ACORN_BELOW = 0.6  # share of the points that pass the filter; below it HNSW looks two links far

_NEW, _TRASH, _LOCK = ".new-", ".trash-", ".lock-"


class EdgeCollection:
    """One open embedded collection; see `search.dense.DenseCollection`.

    Reads may run side by side with each other and with a write; writes take turns.
    """

    def __init__(
        self, folder: Path, spec: CollectionSpec, shard: engine.EdgeShard, owner: OwnerLock
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._shard = shard
        self._owner = owner
        self._writing = threading.Lock()
        self._closed = False
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
        batch = [engine.Point(i, vectors[row], to_payload(points[row])) for i, row in rows]
        with self._engine("write to"):
            self._shard.update(engine.UpdateOperation.upsert_points(batch))

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
                    with self._engine("delete from"):
                        self._shard.update(engine.UpdateOperation.delete_points(stale))

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
        query = engine.Query.Nearest(vector)  # type: ignore[arg-type]
        must = [_any_of(field_test(condition)) for condition in where]
        fields = [*HIT_FIELDS, METADATA] if where else HIT_FIELDS

        def fetch(limit: int, leave_out: Sequence[str], exact: bool) -> Nearest:
            request = engine.QueryRequest(
                limit=limit,
                query=query,
                filter=_filter(must, leave_out),
                with_payload=fields,
                params=self._search_params(exact=exact, filtered=bool(must or leave_out)),
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

        return nearest_documents(fetch, k, exact=exact)

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

    def finish(self) -> None:
        """Build the HNSW graph. The engine keeps the GIL throughout, so every thread of this
        process stands still (about 40 s for 100,000 vectors): call it in a child process."""
        with self._writing:
            with self._engine("index"):
                self._shard.flush()
                self._shard.optimize()
                self._shard.flush()
            write_spec(self._folder, self._spec, finished=True)

    def close(self) -> None:
        with self._writing:
            if self._closed:
                return
            try:
                with self._engine("close"):
                    self._shard.flush()
                    self._shard.close()
            finally:
                self._closed = True
                self._owner.release()

    # -- parts ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _engine(self, doing: str) -> Iterator[None]:
        if self._closed:
            raise StoreError(f"collection {self.name!r} has been closed; open it again")
        with _engine_errors(f"cannot {doing} collection {self.name!r}", StoreError):
            yield

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

    def _matrix(self, records: Sequence[Any]) -> FloatMatrix:
        rows = [record.vector for record in records]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self._spec.dim)

    def _search_params(self, *, exact: bool, filtered: bool) -> engine.SearchParams:
        return engine.SearchParams(
            exact=exact,
            acorn=engine.AcornSearchParams(enable=True, max_selectivity=ACORN_BELOW)
            if filtered
            else None,
            quantization=engine.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=OVERSAMPLING
            )
            if self._spec.quantization == "int8"
            else None,
        )


class EdgeStore:
    """Embedded collections below one folder; see `search.dense.DenseStore`."""

    shared = False

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{_TRASH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def create(self, name: str, spec: CollectionSpec) -> EdgeCollection:
        owner = self._lock(name, wait_s=5.0)
        try:
            folder = self._root / name
            if is_empty(folder):
                self._make(folder, spec)
            else:
                check_same_spec(read_spec(folder), spec, name)
            return self._load(folder, owner)
        except BaseException:
            owner.release()
            raise

    def open(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> EdgeCollection:
        folder = self._root / valid_name(name)
        if is_empty(folder):  # asked before the lock, which would leave a file behind
            raise missing(folder)
        owner = self._lock(name, wait_s)
        try:
            check_fingerprint(read_spec(folder), fingerprint, name)
            return self._load(folder, owner)
        except BaseException:
            owner.release()
            raise

    def names(self) -> list[str]:
        return sorted(
            folder.name
            for folder in self._root.iterdir()
            if is_name(folder.name) and not is_empty(folder)
        )

    def drop(self, name: str) -> None:
        folder = self._root / valid_name(name)
        if not folder.exists():
            return
        owner = self._lock(name, wait_s=5.0)
        try:
            trash = self._root / f"{_TRASH}{name}-{secrets.token_hex(4)}"
            with contextlib.suppress(FileNotFoundError):  # dropped by somebody else meanwhile
                folder.rename(trash)
                sync_folder(self._root)
                shutil.rmtree(trash, ignore_errors=True)  # what stays is swept at the next start
        finally:
            owner.release(remove=True)

    def alias(self) -> str | None:
        return None

    def set_alias(self, name: str) -> None:
        """Embedded collections have no outsiders, hence no alias."""

    def disk_bytes(self, name: str) -> int | None:
        """Bytes that the collection's files take up on disk."""
        folder = self._root / valid_name(name)
        total = 0
        for file in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the engine is at work
                total += file.lstat().st_blocks * 512
        return total if folder.exists() else None

    def close(self) -> None:
        """Collections are closed one by one, by whoever opened them."""

    def _lock(self, name: str, wait_s: float) -> OwnerLock:
        return OwnerLock(self._root / f"{_LOCK}{valid_name(name)}", name, wait_s)

    def _make(self, folder: Path, spec: CollectionSpec) -> None:
        """Under the lock. The collection is complete when it gets its name."""
        new = folder.with_name(f"{_NEW}{folder.name}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        with _engine_errors(f"cannot create collection {folder.name!r}", StoreError):
            shard = engine.EdgeShard.create(str(new / "shard"), _shard_config(spec))
            for path, schema in _payload_indexes(spec):
                shard.update(engine.UpdateOperation.create_field_index(path, schema))
            shard.flush()
            shard.close()
        write_spec(new, spec, finished=False)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()  # an empty folder in the way
        new.rename(folder)
        sync_folder(self._root)

    def _load(self, folder: Path, owner: OwnerLock) -> EdgeCollection:
        spec = read_spec(folder)
        with _engine_errors(
            f"cannot open collection {folder.name!r} in {folder}", CollectionDamaged, REBUILD
        ):
            shard = engine.EdgeShard.load(str(folder / "shard"))
            return EdgeCollection(folder, spec, shard, owner)


# -- the engine's terms ----------------------------------------------------------------------------


@contextlib.contextmanager
def _engine_errors(what: str, kind: type[StoreError], advice: str = "") -> Iterator[None]:
    """The engine raises bare Exceptions, and panics of its Rust code as a BaseException."""
    try:
        yield
    except SearchError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = " ".join(str(error).split())
        if "WAL" in text and "WouldBlock" in text:
            raise StoreLocked(
                f"{what}: a program that is not reindexer has it open; stop it and try again"
            ) from error
        if "No space left" in text:
            kind, advice = StoreError, "the disk is full: free space and try again"
        raise kind(f"{what}: {text}" + (f"; {advice}" if advice else "")) from error


def _shard_config(spec: CollectionSpec) -> engine.EdgeConfig:
    return engine.EdgeConfig(
        vectors=engine.EdgeVectorParams(size=spec.dim, distance=engine.Distance.Cosine),
        hnsw_config=engine.HnswIndexConfig(
            m=spec.hnsw_m, ef_construct=spec.hnsw_ef_construct, full_scan_threshold=INDEX_FROM_KB
        ),
        quantization_config=engine.ScalarQuantizationConfig(
            engine.ScalarType.Int8, quantile=0.99, memory=engine.Memory.Pinned
        )
        if spec.quantization == "int8"
        else None,
        optimizers=engine.EdgeOptimizersConfig(
            default_segment_number=1,
            indexing_threshold=INDEX_FROM_KB,
            prevent_unoptimized=False,  # true would hide new points until the next finish()
        ),
        wal_enabled=True,
    )


def _payload_indexes(spec: CollectionSpec) -> Iterator[tuple[str, engine.PayloadSchemaParams]]:
    """enable_hnsw adds links among the points of each value, which only a filter can use."""
    yield DOC_ID, engine.KeywordIndexParams(enable_hnsw=False)
    yield SEQ, engine.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False)
    for field, kind in spec.filter_fields.items():
        match kind:
            case "keyword":
                yield field_path(field), engine.KeywordIndexParams()
            case "number":
                yield field_path(field), engine.FloatIndexParams()
            case "boolean":
                yield field_path(field), engine.BoolIndexParams()


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
    if test.texts:
        conditions.append(engine.FieldCondition(test.path, match=engine.MatchAny(list(test.texts))))
    conditions.extend(
        engine.FieldCondition(test.path, match=engine.MatchValue(value)) for value in test.booleans
    )
    conditions.extend(
        engine.FieldCondition(
            test.path,
            range=engine.RangeFloat(gt=bounds.gt, gte=bounds.gte, lt=bounds.lt, lte=bounds.lte),
        )
        for bounds in test.ranges
    )
    return conditions[0] if len(conditions) == 1 else engine.Filter(should=conditions)
