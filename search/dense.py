"""The dense half of a generation: one collection of passage vectors, behind one seam.

Two implementations: `search/dense_edge.py` (embedded, qdrant-edge-py) and
`search/dense_qdrant.py` (a Qdrant server or cluster). The contract tests run over both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from search.documents import Filter, Value, point_id

FloatMatrix = NDArray[np.float32]  # (n, dim), rows of length 1
FloatVector = NDArray[np.float32]  # (dim,)

Metric = Literal["cosine", "euclid"]  # how near; the latter is there to be refused by the gate
Quantization = Literal["none", "int8", "product", "binary"]  # of the vectors searched first
FieldType = Literal["keyword", "number", "boolean"]


def field_types(value: Value) -> set[FieldType]:
    """What kinds of payload index a metadata value needs; none for an empty list."""
    items = value if isinstance(value, tuple) else (value,)
    return {
        "boolean" if isinstance(item, bool) else "keyword" if isinstance(item, str) else "number"
        for item in items
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionSpec:
    """What a collection is made for; stored inside the collection and compared on every open."""

    generation: str  # docs@7
    fingerprint: str  # of the encoder whose vectors it holds
    dim: int
    hnsw_m: int = 16
    hnsw_ef_construct: int = 128
    quantization: Quantization = "none"
    filter_fields: Mapping[str, FieldType] = field(default_factory=dict)  # payload indexes
    terms: bool = False  # whether it holds the terms of each document as well, for BM25

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CollectionSpec:
        return cls(**value)


class TermVector(NamedTuple):
    """The terms of a document, or of a query, with their weights; see `search.term_weights`."""

    numbers: tuple[int, ...]  # of the terms, ascending
    weights: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A passage as the collection stores it, without its vector and without its text."""

    doc_id: str
    number: int  # passage number in its document, 0-based
    count: int  # passages of the document
    seq: int  # of the document's change that wrote it
    content_hash: str  # of the document
    text_hash: str  # of the passage's own text
    start: int  # first character in Document.text
    end: int  # one past the last
    metadata: Mapping[str, Value]
    # Of its vector, text and model (`search.vector_mark`); None for a point without one.
    mark: float | None = field(default=None, compare=False)
    # Of the whole document, at its first passage, where the collection holds terms.
    terms: TermVector | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """UUIDv5 of (doc_id, number)."""
        return str(point_id(self.doc_id, self.number))


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """How the engine itself says that it keeps a collection, whatever its spec asked for."""

    metric: str  # cosine
    indexed_paths: frozenset[str] | None  # of the payload; None where the engine has no indexes


class DenseHit(NamedTuple):
    """A document and its best passage."""

    doc_id: str
    score: float  # cosine
    number: int
    start: int
    end: int
    seq: int


class DenseCollection(Protocol):
    """One open physical collection. Calls may come from several threads.

    Every method raises a subclass of `search.errors.StoreError` when the store fails; vectors of
    another dimension are a SpaceMismatch, a k below 1 or a query that is not finite InvalidQuery.
    """

    @property
    def name(self) -> str:
        """Physical name; never an alias."""
        ...

    @property
    def spec(self) -> CollectionSpec:
        """As stored in the collection itself."""
        ...

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        """Write points; returns once they survive a killed process. A point that is stored with a
        higher seq stays as it is. vectors: (len(points), dim)."""
        ...

    def remove_older(self, seqs: Mapping[str, int]) -> None:
        """Delete the points of each doc_id whose seq is below the given one; durable on return."""
        ...

    def stored(self, doc_ids: Sequence[str]) -> tuple[list[Point], FloatMatrix]:
        """All points of these documents with their vectors, ordered by (doc_id, number)."""
        ...

    def search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> list[DenseHit]:
        """The k nearest documents, each by its best passage, best first, ties by doc_id.

        where: means what `Condition.matches` means, whatever the engine makes of numbers. A field
        that is not in `spec.filter_fields` works too, without an index: slower, not less right.
        exact: compare with every vector instead of walking the HNSW graph.
        """
        ...

    def scan(self, batch: int = 1_000) -> Iterator[tuple[list[Point], FloatMatrix]]:
        """Every point with its vector, in the store's own order."""
        ...

    def scan_points(self, batch: int = 5_000) -> Iterator[list[Point]]:
        """Every point without its vector, in the store's own order."""
        ...

    def count(self) -> int:
        """Exact number of points."""
        ...

    def indexed(self) -> float:
        """Share (0..1) of the points that the ANN index covers; 1.0 for a collection that is too
        small to need one."""
        ...

    def layout(self) -> Layout:
        """What the engine made of the spec."""
        ...

    def finish(self) -> None:
        """Build the ANN index and restore search settings; blocks until it is ready. For `edge`
        this stops the whole process for its length: call it in a child process only."""
        ...

    def close(self) -> None:
        """Flush and give the collection back. May be called twice."""
        ...


@runtime_checkable
class SearchesAside(Protocol):
    """A collection that can search while its caller does something else."""

    def begin_search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> AbstractContextManager[Callable[[], list[DenseHit]]]:
        """What it gives waits for the hits, and raises what `DenseCollection.search` raises."""
        ...


class DenseStore(Protocol):
    """Where collections live."""

    @property
    def shared(self) -> bool:
        """True when many processes can have one collection open (a server); False when each
        collection has one owner process at a time (embedded)."""
        ...

    metric: Metric
    """Of the collections that it makes; `selftest gate` makes one that is wrong."""

    def create(self, name: str, spec: CollectionSpec) -> DenseCollection:
        """A new collection, open and in bulk-load mode. An existing one of the same name and spec
        is opened instead; of another spec: SpaceMismatch."""
        ...

    def create_apart(self, name: str, spec: CollectionSpec) -> DenseCollection:
        """The same, an embedded collection in a process of its own: filling it holds nobody up in
        this one, which has to open it itself for `finish`."""
        ...

    def open(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> DenseCollection:
        """Open by physical name. Raises CollectionMissing, CollectionDamaged, SpaceMismatch when
        the stored fingerprint differs, StoreLocked when another process keeps an embedded
        collection for longer than wait_s."""
        ...

    def open_apart(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> DenseCollection:
        """The same, an embedded collection in a process of its own: opening and searching it hold
        nobody up in this one."""
        ...

    def names(self) -> list[str]:
        """Physical collections that are there, finished or not, sorted."""
        ...

    def drop(self, name: str) -> None:
        """Delete a collection and what belongs to it. Does nothing when it is not there. Raises
        StoreError when an alias points at it, StoreLocked when it is open elsewhere."""
        ...

    def alias(self) -> str | None:
        """The physical name the live alias points at, if the store has aliases and it is set."""
        ...

    def set_alias(self, name: str) -> None:
        """Point the live alias at a collection (for outsiders; search itself never asks it)."""
        ...

    def clear_alias(self) -> None:
        """Take the live alias away, if there is one. Collections stay."""
        ...

    def version(self) -> str:
        """Of the engine. Raises StoreError when it lacks something that is needed."""
        ...

    def disk_bytes(self, name: str) -> int | None:
        """Bytes on disk where the store can tell."""
        ...

    def close(self) -> None: ...
