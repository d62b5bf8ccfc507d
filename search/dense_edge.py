"""Embedded dense collections: the Qdrant engine inside this process (qdrant-edge-py).

    <root>/.lock-<name>      whose process has the collection open (flock; its pid as text)
    <root>/<name>/collection.json
    <root>/<name>/shard/     the engine's own files, write-ahead log included

A collection appears under its name complete, by a rename, and disappears by one; what a killed
process leaves of either is called `.new-…` or `.trash-…` and is cleared away.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import qdrant_edge as engine

from search.collection_file import (
    REBUILD,
    CollectionFile,
    is_empty,
    is_name,
    missing,
    read_collection_file,
    valid_name,
)
from search.dense import CollectionSpec, Metric
from search.disk_room import OPENING_BYTES, bytes_on_disk, check_room
from search.edge_collection import EdgeCollection
from search.edge_errors import engine_errors
from search.edge_process import EdgeProcessCollection
from search.errors import CollectionDamaged, StoreError
from search.owner_lock import OwnerLock
from search.payload import (
    DOC_ID,
    INDEX_FROM_KB,
    ODD,
    SEQ,
    check_fingerprint,
    check_same_spec,
    field_path,
)
from training.kill_points import reached
from training.whole_file import sync_folder

OWNER_WAIT_S = 5.0  # for another process to close a collection that is created or dropped

_NEW, _TRASH, _LOCK = ".new-", ".trash-", ".lock-"


class EdgeStore:
    """Embedded collections below one folder; see `search.dense.DenseStore`."""

    shared = False
    metric: Metric = "cosine"

    def __init__(self, root: Path, *, owner: int | None = None) -> None:
        """owner: process that is named as the one that has a collection open; this one unless
        given."""
        self._root = root
        self._owner = owner if owner is not None else os.getpid()
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(f"{_TRASH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def create(self, name: str, spec: CollectionSpec) -> EdgeCollection:
        owner = self._lock(name, wait_s=OWNER_WAIT_S)
        try:
            self._make_unless_there(name, spec)
            return self._load(self._root / name, owner, bulk=True)
        except BaseException:
            owner.release()
            raise

    def create_apart(self, name: str, spec: CollectionSpec) -> EdgeProcessCollection:
        owner = self._lock(name, wait_s=OWNER_WAIT_S)
        try:
            self._make_unless_there(name, spec)
        finally:
            owner.release()
        return EdgeProcessCollection(
            self._root.absolute(), name, spec.fingerprint, OWNER_WAIT_S, bulk=True
        )

    def open(
        self, name: str, fingerprint: str, *, wait_s: float = 5.0, bulk: bool = False
    ) -> EdgeCollection:
        """bulk: as after `create`."""
        folder = self._existing(name)
        owner = self._lock(name, wait_s)
        try:
            check_fingerprint(read_collection_file(folder).spec, fingerprint, name)
            return self._load(folder, owner, bulk=bulk)
        except BaseException:
            owner.release()
            raise

    def open_apart(
        self, name: str, fingerprint: str, *, wait_s: float = 5.0
    ) -> EdgeProcessCollection:
        self._existing(name)
        return EdgeProcessCollection(self._root.absolute(), name, fingerprint, wait_s)

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
        owner = self._lock(name, wait_s=OWNER_WAIT_S)
        try:
            trash = self._root / f"{_TRASH}{name}-{secrets.token_hex(4)}"
            with contextlib.suppress(FileNotFoundError):  # dropped by somebody else meanwhile
                folder.rename(trash)
                sync_folder(self._root)
                reached("prune.trashed")
                shutil.rmtree(trash, ignore_errors=True)  # what stays is swept at the next start
        finally:
            owner.release(remove=True)

    def alias(self) -> str | None:
        return None

    def set_alias(self, name: str) -> None:
        """Embedded collections have no outsiders, hence no alias."""

    def clear_alias(self) -> None:
        """There is none."""

    def version(self) -> str:
        from importlib.metadata import version  # not for a process that only has a collection open

        return version("qdrant-edge-py")

    def disk_bytes(self, name: str) -> int | None:
        """Bytes that the collection's files take up on disk."""
        folder = self._root / valid_name(name)
        return bytes_on_disk(folder) if folder.exists() else None

    def close(self) -> None:
        """Collections are closed one by one, by whoever opened them."""

    def _existing(self, name: str) -> Path:
        """Asked before the lock, which would leave a file behind."""
        folder = self._root / valid_name(name)
        if is_empty(folder):
            raise missing(folder)
        return folder

    def _lock(self, name: str, wait_s: float) -> OwnerLock:
        lock = self._root / f"{_LOCK}{valid_name(name)}"
        return OwnerLock(lock, name, wait_s, owner=self._owner)

    def _make_unless_there(self, name: str, spec: CollectionSpec) -> None:
        """Under the lock."""
        if spec.terms:
            raise StoreError(
                f"{spec.generation} keeps its terms beside its vectors, which only a Qdrant server "
                "does; set store.kind = qdrant, or lexical.kind = bm25s"
            )
        folder = self._root / name
        if is_empty(folder):
            self._make(folder, spec)
        else:
            check_same_spec(read_collection_file(folder).spec, spec, name)

    def _make(self, folder: Path, spec: CollectionSpec) -> None:
        """The collection is complete when it gets its name."""
        new = folder.with_name(f"{_NEW}{folder.name}")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        check_room(new, f"cannot create collection {folder.name!r}")
        with engine_errors(f"cannot create collection {folder.name!r}", StoreError):
            shard = engine.EdgeShard.create(str(new / "shard"), _shard_config(spec, self.metric))
            for path, schema in _payload_indexes(spec):
                shard.update(engine.UpdateOperation.create_field_index(path, schema))
            shard.close()
        CollectionFile(spec=spec, hnsw_ef=None).write(new)
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()  # an empty folder in the way
        reached("collection.made")
        new.rename(folder)
        sync_folder(self._root)
        reached("collection.named")

    def _load(self, folder: Path, owner: OwnerLock, *, bulk: bool) -> EdgeCollection:
        described = read_collection_file(folder)
        check_room(folder, f"cannot open collection {folder.name!r}", reserve_bytes=OPENING_BYTES)
        with engine_errors(
            f"cannot open collection {folder.name!r} in {folder}", CollectionDamaged, REBUILD
        ):
            shard = engine.EdgeShard.load(str(folder / "shard"))
            return EdgeCollection(folder, described, shard, owner, bulk=bulk)


def _shard_config(spec: CollectionSpec, metric: Metric) -> engine.EdgeConfig:
    distance = engine.Distance.Cosine if metric == "cosine" else engine.Distance.Euclid
    return engine.EdgeConfig(
        vectors=engine.EdgeVectorParams(size=spec.dim, distance=distance),
        hnsw_config=engine.HnswIndexConfig(
            m=spec.hnsw_m, ef_construct=spec.hnsw_ef_construct, full_scan_threshold=INDEX_FROM_KB
        ),
        quantization_config=_quantization(spec),
        optimizers=engine.EdgeOptimizersConfig(
            default_segment_number=1,
            indexing_threshold=INDEX_FROM_KB,
            prevent_unoptimized=False,  # true would hide new points until the next finish()
        ),
        max_search_threads=1,  # the points are in one segment; a pool of threads costs 0.1 ms
        wal_enabled=True,
    )


def _quantization(
    spec: CollectionSpec,
) -> (
    engine.ScalarQuantizationConfig
    | engine.ProductQuantizationConfig
    | engine.BinaryQuantizationConfig
    | None
):
    match spec.quantization:
        case "int8":
            return engine.ScalarQuantizationConfig(
                engine.ScalarType.Int8, quantile=0.99, memory=engine.Memory.Pinned
            )
        case "product":
            return engine.ProductQuantizationConfig(
                engine.CompressionRatio.X16, memory=engine.Memory.Pinned
            )
        case "binary":
            return engine.BinaryQuantizationConfig(memory=engine.Memory.Pinned)
    return None


def _payload_indexes(spec: CollectionSpec) -> Iterator[tuple[str, engine.PayloadSchemaParams]]:
    """enable_hnsw adds links among the points of each value, which only a filter can use. What
    replay alone asks for stays on disk: to load it would take longer than to use it."""
    yield DOC_ID, engine.KeywordIndexParams(enable_hnsw=False, on_disk=True)
    yield (
        SEQ,
        engine.IntegerIndexParams(lookup=False, range=True, enable_hnsw=False, on_disk=True),
    )
    yield ODD, engine.KeywordIndexParams(enable_hnsw=False)
    for field, kind in spec.filter_fields.items():
        match kind:
            case "keyword":
                yield field_path(field), engine.KeywordIndexParams()
            case "number":
                yield field_path(field), engine.FloatIndexParams()
            case "boolean":
                yield field_path(field), engine.BoolIndexParams()
