"""Metadata as columns of plain numbers, so that a filter is a few comparisons of whole arrays."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.documents import Condition, Filter, Scalar, Value
from search.ragged import Ragged

TEXT, BOOLEAN, INTEGER, NUMBER = range(4)

# One item of one field of one document. bits: of a text its 64-bit BLAKE2b digest (only equality is
# ever asked), of a boolean or an integer the value, of another number its float64 as it lies in
# memory.
ENTRY = np.dtype([("field", np.int32), ("kind", np.int32), ("bits", np.int64)])

Entry = tuple[int, int, int]
Mask = NDArray[np.bool_]  # (n_rows,)
_Column = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]  # rows, kinds, bits
_INT64 = range(-(2**63), 2**63)


class Fields:
    """Names of metadata fields ↔ small numbers. Only grows, so numbers stay right."""

    def __init__(self, names: list[str] | None = None) -> None:
        self.names: list[str] = list(names or ())
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def get(self, name: str) -> int | None:
        return self._numbers.get(name)

    def add(self, name: str) -> int:
        number = self._numbers.get(name)
        if number is None:
            number = len(self.names)
            self.names.append(name)
            self._numbers[name] = number
        return number

    def entries(self, metadata: Mapping[str, Value]) -> list[Entry]:
        """What is stored of a document's metadata."""
        return [
            (self.add(name), *_entry(item))
            for name, value in metadata.items()
            for item in (value if isinstance(value, tuple) else (value,))
        ]


class Columns:
    """The metadata of n rows, taken apart by field when a field is first asked for.

    Means what `Condition.matches` means. Safe to use from several threads.
    """

    def __init__(self, metadata: Ragged, fields: Fields) -> None:
        self._metadata = metadata
        self._fields = fields
        self._columns: dict[int, _Column] = {}

    def matches(self, where: Filter) -> Mask:
        """(n_rows,) which rows satisfy every condition."""
        result = np.ones(len(self._metadata), np.bool_)
        for condition in where:
            satisfied = np.zeros(len(self._metadata), np.bool_)
            field = self._fields.get(condition.field)
            if field is not None:
                rows, kinds, bits = self._column(field)
                satisfied[rows[_satisfying(condition, kinds, bits)]] = True
            result &= satisfied
        return result

    def _column(self, field: int) -> _Column:
        column = self._columns.get(field)
        if column is None:
            entries = self._metadata.values
            found = np.flatnonzero(entries["field"] == field)
            column = (
                np.searchsorted(self._metadata.offsets, found, "right") - 1,
                entries["kind"][found],
                entries["bits"][found],
            )
            self._columns[field] = column
        return column


def _entry(item: Scalar) -> tuple[int, int]:
    if isinstance(item, bool):
        return BOOLEAN, int(item)
    if isinstance(item, int):
        return INTEGER, item
    if isinstance(item, float):
        return NUMBER, int(np.float64(item).view(np.int64))
    digest = hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return TEXT, int.from_bytes(digest, "little", signed=True)


def _satisfying(
    condition: Condition, kinds: NDArray[np.int32], bits: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which items satisfy the condition."""
    if condition.is_range:
        integers = _in_range(bits, _integer_bounds(condition))
        numbers = _in_range(bits.view(np.float64), _bounds(condition))
        found: Mask = np.where(kinds == INTEGER, integers, (kinds == NUMBER) & numbers)
        return found
    result = np.zeros(len(kinds), np.bool_)
    wanted: dict[int, list[int]] = {}
    for value in condition.any_of:
        for kind, value_bits in _equal_entries(value):
            wanted.setdefault(kind, []).append(value_bits)
    for kind, values in wanted.items():
        of_kind = kinds == kind
        if len(values) == 1:
            result |= of_kind & (bits == values[0])
        else:
            result |= of_kind & np.isin(bits, np.array(values, np.int64))
    return result


def _equal_entries(value: Scalar) -> list[tuple[int, int]]:
    """Every way in which an equal item may be stored: 2 and 2.0 are the same number."""
    if isinstance(value, bool | str):
        return [_entry(value)]
    entries = []
    if isinstance(value, float):
        entries.append(_entry(value))
        if value.is_integer() and int(value) in _INT64:
            entries.append((INTEGER, int(value)))
    else:
        if value in _INT64:
            entries.append((INTEGER, value))
        if float(value) == value:
            entries.append(_entry(float(value)))
    return entries


_Bounds = list[tuple[Any, Any]]  # (ufunc, bound): all must hold


def _bounds(condition: Condition) -> _Bounds:
    comparisons = (
        (np.greater, condition.gt),
        (np.greater_equal, condition.gte),
        (np.less, condition.lt),
        (np.less_equal, condition.lte),
    )
    return [(compare, bound) for compare, bound in comparisons if bound is not None]


def _integer_bounds(condition: Condition) -> _Bounds:
    """The same bounds for 64-bit integers, exact where float64 is not."""
    exact: _Bounds = []
    for compare, bound in _bounds(condition):
        if math.isnan(bound):
            exact.append((np.less, _INT64.start))
        elif compare in (np.greater, np.greater_equal):
            exact += _at_least(
                bound
                if math.isinf(bound)
                else math.floor(bound) + 1
                if compare is np.greater
                else math.ceil(bound)
            )
        else:
            exact += _at_most(
                bound
                if math.isinf(bound)
                else math.ceil(bound) - 1
                if compare is np.less
                else math.floor(bound)
            )
    return exact


def _at_least(bound: float) -> _Bounds:
    if bound <= _INT64.start:
        return []
    return [(np.greater_equal, bound)] if bound < _INT64.stop else [(np.less, _INT64.start)]


def _at_most(bound: float) -> _Bounds:
    if bound >= _INT64.stop - 1:
        return []
    return [(np.less_equal, bound)] if bound >= _INT64.start else [(np.less, _INT64.start)]


def _in_range(values: NDArray[Any], bounds: _Bounds) -> NDArray[np.bool_]:
    result = np.ones(len(values), np.bool_)
    for compare, bound in bounds:
        result &= compare(values, bound)
    return result
