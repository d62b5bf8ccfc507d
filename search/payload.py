"""What both dense engines store beside a vector, how a filter reads it, how they search, and how
hits of passages become hits of documents. Knows no engine.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from search.dense import (
    CollectionSpec,
    DenseHit,
    FieldType,
    FloatMatrix,
    FloatVector,
    Point,
    field_types,
)
from search.documents import Condition, Filter, Scalar, Value
from search.errors import CollectionDamaged, InvalidQuery, SpaceMismatch, StoreError

DOC_ID = "doc_id"
SEQ = "seq"
MARK = "mark"
METADATA = "metadata"  # an object of its own, so that no field of a document can collide with ours
ODD = "odd"  # names of the metadata fields whose index is for another kind of value
HIT_FIELDS = [DOC_ID, "number", "start", "end", SEQ]

Payload = Mapping[str, Any] | None  # as an engine returns it

# How both engines index and search.
INDEX_FROM_KB = 10_000  # vectors of a segment; below it comparing with all of them takes about 1 ms
HNSW_EF = 128  # candidates a walk of the graph keeps, where that was not measured (walk_width)
ACORN_BELOW = 0.6  # share of the points that pass the filter; below it the walk looks two links far
EXACT_UP_TO_KB = 75_000  # vectors that pass a filter: comparing with all takes 15 ms, that walk 25
OVERSAMPLING = 2.0  # int8 candidates compared again with the float32 vectors, per hit

_RESERVED = re.compile(r'[%"\\]')  # a quoted key of a JSON path can hold neither " nor \
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")  # needs no quotes in a JSON path
_ESCAPED = re.compile(r"%(22|25|5C)")
_FIRST_ROUNDED = 2.0**53  # from here on float64, in which engines compare, rounds integers
SPARE_PASSAGES = 8  # asked for beyond k, and to see what comes after the k-th
MAX_OVERSAMPLING = 8.0  # passages asked for, for each document wanted
_MAX_TIES = 1_000  # documents looked at beyond k because they are exactly as near as the k-th


def to_payload(point: Point, indexed: Mapping[str, FieldType]) -> dict[str, Any]:
    """indexed: what kind of value the index of a metadata field is for."""
    payload: dict[str, Any] = {
        DOC_ID: point.doc_id,
        "number": point.number,
        "count": point.count,
        SEQ: point.seq,
        "content_hash": point.content_hash,
        "text_hash": point.text_hash,
        "start": point.start,
        "end": point.end,
    }
    if point.mark is not None:
        payload[MARK] = point.mark
    if point.metadata:
        payload[METADATA] = {
            _RESERVED.sub(_escape, name): list(value) if isinstance(value, tuple) else value
            for name, value in point.metadata.items()
        }
        odd = [
            name
            for name, value in point.metadata.items()
            if name in indexed and field_types(value) - {indexed[name]}
        ]
        if odd:
            payload[ODD] = odd
    return payload


def to_point(payload: Payload) -> Point:
    """Raises CollectionDamaged for a point that something else wrote."""
    fields = payload or {}
    try:
        return Point(
            doc_id=fields[DOC_ID],
            number=fields["number"],
            count=fields["count"],
            seq=fields[SEQ],
            content_hash=fields["content_hash"],
            text_hash=fields["text_hash"],
            start=fields["start"],
            end=fields["end"],
            metadata=metadata_of(fields),
            mark=fields.get(MARK),
        )
    except KeyError as error:
        raise _foreign(error) from None


_hit = DenseHit._make  # half the time of DenseHit(...)


def to_hit(payload: Payload, score: float) -> DenseHit:
    """Raises CollectionDamaged for a point that something else wrote."""
    fields = payload or {}
    try:
        return _hit(
            (fields[DOC_ID], score, fields["number"], fields["start"], fields["end"], fields[SEQ])
        )
    except KeyError as error:
        raise _foreign(error) from None


def _foreign(error: KeyError) -> CollectionDamaged:
    return CollectionDamaged(
        f"the collection holds a point without {error}, which reindexer did not write; keep other "
        "programs from writing to it and build the generation again with `reindexer upgrade MODEL "
        "--anew`"
    )


def metadata_of(payload: Payload) -> Mapping[str, Value]:
    """Canonical metadata again: sorted names, lists as tuples."""
    stored = (payload or {}).get(METADATA) or {}
    fields = {_ESCAPED.sub(_unescape, name): value for name, value in stored.items()}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in sorted(fields.items())
    }


def field_path(field: str) -> str:
    """JSON path of a metadata field: any name, whatever dots, brackets or quotes it has."""
    key = _RESERVED.sub(_escape, field)
    return f"{METADATA}.{key}" if _PLAIN.fullmatch(key) else f'{METADATA}."{key}"'


def indexed_paths(filter_fields: Iterable[str]) -> frozenset[str]:
    """Everything in the payload that needs an index, for replay or for filters."""
    return frozenset({DOC_ID, SEQ, ODD, *map(field_path, filter_fields)})


def _escape(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02X}"


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1], 16))


# -- filters ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberRange:
    """Float64 bounds; None is no bound."""

    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldTest:
    """One condition in terms that every engine has: the field satisfies it when one of its items
    is one of the texts or booleans or lies in one of the ranges.

    An engine without an index for a kind of value reads every payload. So what is asked of a field
    in another kind than its index is for must be asked of the points that are ODD in it.
    """

    field: str
    path: str
    indexed: FieldType | None = None  # the kind of value its index is for; None without an index
    texts: tuple[str, ...] = ()
    booleans: tuple[bool, ...] = ()
    ranges: tuple[NumberRange, ...] = ()

    def is_odd(self, kind: FieldType) -> bool:
        return self.indexed is not None and self.indexed != kind


def field_test(condition: Condition, indexed: Mapping[str, FieldType]) -> FieldTest:
    """Lets through everything the condition does, and beyond it only what differs from it by the
    rounding of numbers from 2^53 on; `satisfies` settles those."""
    field = condition.field
    path, kind = field_path(field), indexed.get(field)
    if condition.is_range:
        return FieldTest(field=field, path=path, indexed=kind, ranges=(_widened(condition),))
    numbers = dict.fromkeys(float(value) for value in condition.any_of if _is_number(value))
    return FieldTest(
        field=field,
        path=path,
        indexed=kind,
        texts=tuple(value for value in condition.any_of if isinstance(value, str)),
        booleans=tuple(
            dict.fromkeys(value for value in condition.any_of if isinstance(value, bool))
        ),
        ranges=tuple(
            NumberRange(gte=_rounded(number, -math.inf), lte=_rounded(number, math.inf))
            for number in numbers
        ),
    )


def satisfies(payload: Payload, where: Filter) -> bool:
    """The filter's own meaning, to the last digit. The payload must hold the metadata."""
    metadata = metadata_of(payload)
    return all(condition.matches(metadata) for condition in where)


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _widened(condition: Condition) -> NumberRange:
    gt, gte, lt, lte = condition.gt, condition.gte, condition.lt, condition.lte
    if gt is not None and abs(gt) >= _FIRST_ROUNDED:
        gte, gt = (gt if gte is None else max(gt, gte)), None
    if lt is not None and abs(lt) >= _FIRST_ROUNDED:
        lte, lt = (lt if lte is None else min(lt, lte)), None
    if gt is None and gte is None and lt is None and lte is None:
        gte = -sys.float_info.max  # no bound at all: any number
    return NumberRange(
        gt=gt,
        gte=None if gte is None else _rounded(gte, -math.inf),
        lt=lt,
        lte=None if lte is None else _rounded(lte, math.inf),
    )


def _rounded(number: float, towards: float) -> float:
    """The number, or from 2^53 on its neighbour: no integer that rounds to it is left outside,
    whether the engine compares integers as they are or as float64."""
    return math.nextafter(number, towards) if abs(number) >= _FIRST_ROUNDED else number


# -- from passages to documents --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Nearest:
    """The engine's answer to one request for the nearest passages."""

    hits: list[DenseHit]  # nearest first, those that satisfy the filter
    found: int  # passages the engine returned
    lowest: float  # score of the last of them


Fetch = Callable[[int, Sequence[str], bool], Nearest]  # limit, doc_ids to leave out, exact


class NearestDocuments:
    """From the nearest passages to the nearest documents, of one collection.

    It learns from every search how many passages the documents near a query bring along, so that
    one request is enough as a rule.
    """

    def __init__(self) -> None:
        self._passages_a_document = 1.25  # of the passages a request returned, on average

    def search(self, fetch: Fetch, k: int, *, exact: bool) -> list[DenseHit]:
        """The k nearest documents by their best passages.

        A document that was found is left out of the next request, so one with hundreds of passages
        costs one request more and crowds nobody out. An approximate search that comes back short of
        k is asked once more, exactly. Documents exactly as near as the k-th are all looked at (up
        to 1,000), so that doc_id decides which of them belong to the answer.
        """
        best: dict[str, DenseHit] = {}
        limit = int(k * self._passages_a_document) + SPARE_PASSAGES
        is_first = True
        while True:
            answer = fetch(limit, tuple(best), exact)
            for hit in answer.hits:
                rival = best.setdefault(hit.doc_id, hit)
                if rival is not hit and (-hit.score, hit.number) < (-rival.score, rival.number):
                    best[hit.doc_id] = hit
            if is_first and best:
                self._learn(len(answer.hits) / len(best))
                is_first = False
            ranked = list(best.values())
            if len({hit.score for hit in ranked}) < len(ranked):
                ranked.sort(key=_by_doc_id)  # two sorts on plain keys are quicker
            ranked.sort(key=_by_score, reverse=True)
            if answer.found < limit:
                if exact or len(ranked) >= k:
                    return ranked[:k]
                exact = True
            elif len(ranked) >= k and (
                answer.lowest < ranked[k - 1].score or len(ranked) >= k + _MAX_TIES
            ):
                return ranked[:k]
            limit *= 2

    def _learn(self, passages_a_document: float) -> None:
        # Threads may overwrite each other's lesson: it is a guess, and the next search mends it.
        found = min(passages_a_document, MAX_OVERSAMPLING)
        self._passages_a_document += (found - self._passages_a_document) / 8


_by_doc_id = attrgetter("doc_id")
_by_score = attrgetter("score")


# -- what is let in --------------------------------------------------------------------------------


def validate_query(vector: FloatVector, k: int, spec: CollectionSpec, name: str) -> None:
    """Raises SpaceMismatch or InvalidQuery."""
    if vector.shape != (spec.dim,):
        raise SpaceMismatch(
            f"the query vector has shape {vector.shape}, collection {name!r} of {spec.generation} "
            f"holds vectors of {spec.dim} dimensions; encode the query with the model of "
            f"{spec.generation}"
        )
    if not np.isfinite(vector).all():
        raise InvalidQuery("the query vector has a value that is not finite; check the encoder")
    if k < 1:
        raise InvalidQuery(f"k is {k}, expected at least 1")


def validate_points(
    points: Sequence[Point], vectors: FloatMatrix, spec: CollectionSpec, name: str
) -> None:
    """Raises SpaceMismatch or StoreError before anything is written."""
    if vectors.shape != (len(points), spec.dim):
        raise SpaceMismatch(
            f"{len(points)} points came with vectors of shape {vectors.shape}; collection {name!r} "
            f"of {spec.generation} expects ({len(points)}, {spec.dim})"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        point = points[int(np.argmin(finite))]
        raise StoreError(
            f"passage {point.number} of document {point.doc_id!r} has a vector with a value that "
            f"is not finite; check the model of {spec.generation}"
        )


def newest(points: Sequence[Point]) -> dict[str, int]:
    """Point id → its row. Of a point that stands twice: the highest seq, then the last."""
    rows: dict[str, int] = {}
    for row, point in enumerate(points):
        point_id = point.id
        rival = rows.get(point_id)
        if rival is None or points[rival].seq <= point.seq:
            rows[point_id] = row
    return rows


def check_fingerprint(spec: CollectionSpec, fingerprint: str, name: str) -> None:
    """Raises SpaceMismatch when the collection holds another encoder's vectors."""
    if spec.fingerprint != fingerprint:
        raise SpaceMismatch(
            f"collection {name!r} holds vectors of the encoder {spec.fingerprint} "
            f"({spec.generation}), expected {fingerprint}; build the generation again with "
            "`reindexer upgrade MODEL --anew`"
        )


def check_same_spec(stored: CollectionSpec, wanted: CollectionSpec, name: str) -> None:
    """Raises SpaceMismatch, naming what differs, when a collection was made for something else."""
    ours, theirs = wanted.to_json(), stored.to_json()
    different = [
        f"{key} {theirs[key]!r}, expected {ours[key]!r}" for key in ours if ours[key] != theirs[key]
    ]
    if different:
        raise SpaceMismatch(
            f"collection {name!r} is already there with {'; '.join(different)}; drop it with "
            "`reindexer prune` or build under another name"
        )
