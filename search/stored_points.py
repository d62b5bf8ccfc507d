"""Points with their vectors as bytes: on their way from the process that owns a collection, and as
they lie in a backup. No store is named in them, so every store can take them in."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from hashlib import blake2b
from typing import Any

import numpy as np
import orjson

from search.dense import FloatMatrix, Point, TermVector
from search.documents import metadata_from_json, metadata_json
from search.errors import StoreError

# A frame: length of the points, length of the vectors, then both. Points are JSON, deflated;
# vectors are rows of little-endian float32, which would not become smaller.
_LENGTHS = struct.Struct("<II")
_LEVEL = 1
_FIELDS = [field.name for field in fields(Point)]


def to_frame(points: Sequence[Point], vectors: FloatMatrix) -> bytes:
    """vectors: (len(points), dim). The same points give the same bytes."""
    rows = [[_value(point, name) for name in _FIELDS] for point in points]
    described = zlib.compress(orjson.dumps({"fields": _FIELDS, "rows": rows}), _LEVEL)
    raw = np.ascontiguousarray(vectors, dtype="<f4").tobytes()
    return _LENGTHS.pack(len(described), len(raw)) + described + raw


def from_frames(chunks: Iterable[bytes]) -> Iterator[tuple[list[Point], FloatMatrix]]:
    """The points of the frames that these bytes make, however they are cut.

    Raises StoreError when they end in the middle of a frame or are something else.
    """
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while (frame := _take(buffer)) is not None:
            yield frame
    if buffer:
        raise StoreError(
            f"the points break off: {len(buffer):,} bytes of a frame have come and the rest has "
            "not; ask for them again"
        )


def _take(buffer: bytearray) -> tuple[list[Point], FloatMatrix] | None:
    """The first frame, removed from the buffer; None when not all of it is there."""
    if len(buffer) < _LENGTHS.size:
        return None
    n_described, n_raw = _LENGTHS.unpack_from(buffer)
    end = _LENGTHS.size + n_described + n_raw
    if len(buffer) < end:
        return None
    try:
        told = orjson.loads(zlib.decompress(buffer[_LENGTHS.size : _LENGTHS.size + n_described]))
        points = [_point(dict(zip(told["fields"], row, strict=True))) for row in told["rows"]]
        raw = bytes(buffer[end - n_raw : end])
        vectors = np.frombuffer(raw, dtype="<f4").reshape(len(points), -1).astype(np.float32)
    except (zlib.error, ValueError, LookupError, TypeError) as error:
        raise StoreError(f"these bytes are no points ({error})") from error
    del buffer[:end]
    return points, vectors


def _value(point: Point, name: str) -> Any:
    match name:
        case "metadata":
            return metadata_json(point.metadata)
        case "terms":
            return tuple(point.terms) if point.terms is not None else None
    return getattr(point, name)


def _point(values: dict[str, Any]) -> Point:
    terms = values.get("terms")
    return Point(
        **{
            **values,
            "metadata": metadata_from_json(values["metadata"]),
            "terms": TermVector(*map(tuple, terms)) if terms is not None else None,
        }
    )


class PointDigest:
    """One number for a set of points, whatever order they come in: equal collections have equal
    digests. Vectors are left out, since a store may round them."""

    def __init__(self) -> None:
        self.n_points = 0
        self._sum = 0

    def add(self, points: Iterable[Point]) -> None:
        for point in points:
            described = (
                f"{point.doc_id}\0{point.number}\0{point.count}\0{point.seq}\0{point.content_hash}"
                f"\0{point.text_hash}\0{point.start}\0{point.end}"
            )
            digest = blake2b(described.encode(), digest_size=16).digest()
            self._sum += int.from_bytes(digest, "little")
            self.n_points += 1

    @property
    def value(self) -> str:
        return f"{self._sum % (1 << 128):032x}"
