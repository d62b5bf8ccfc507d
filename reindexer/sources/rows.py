"""Rows of a source: a document each, or the reason why a row cannot become one."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from reindexer.errors import SourceInvalid
from search.documents import Document, validate_doc_id
from search.errors import InvalidDocument

ID_FIELDS = ("_id", "id", "doc_id")
TEXT_FIELDS = ("text", "contents", "content", "body")
TITLE_FIELDS = ("title",)
METADATA_FIELD = "metadata"
MAX_NESTING = 100  # objects inside each other
_SHOWN_FIELDS = 20
_PLAIN_TYPES = frozenset({str, bool})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A document and the place in the source it was read from."""

    where: str  # docs.jsonl:7
    document: Document


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A row that is left out. The rows after it are still read."""

    where: str  # docs.jsonl:7
    reason: str
    doc_id: str | None = None  # None: nobody knows which document this row was


class DocumentSource(Protocol):
    """Documents from somewhere, read in constant memory. Can be iterated more than once."""

    @property
    def name(self) -> str:
        """The source that its documents belong to in the corpus."""
        ...

    @property
    def share_read(self) -> float | None:
        """How much of it (0..1) the present iteration has read; None when it cannot be told."""
        ...

    def __iter__(self) -> Iterator[Row | Rejected]: ...


class RecordReader:
    """Makes documents of records (field name to value), the same way for every format.

    The id is the first of `_id`, `id`, `doc_id` that is not null, the text the first of `text`,
    `contents`, `content`, `body`, the title is `title`; each can be overridden with one field name.
    Every other field becomes metadata. Objects are flattened (`author.name`); the fields of an
    object called `metadata` keep their own names, and a field of the record itself wins over one of
    the same name in there. Dates become ISO text, integers past 64 bits become text. Left out are
    nulls, NaN, infinities, binary values, and lists that hold anything else than text, numbers and
    booleans: no filter could ask for them.
    """

    def __init__(
        self,
        source: str,
        *,
        id_field: str | None = None,
        text_field: str | None = None,
        title_field: str | None = None,
    ) -> None:
        self.source = source
        self.id_fields = (id_field,) if id_field else ID_FIELDS
        self.text_fields = (text_field,) if text_field else TEXT_FIELDS
        self.title_fields = (title_field,) if title_field else TITLE_FIELDS
        self.has_id_field = id_field is not None
        self._title_is_wanted = title_field is not None

    @property
    def fields(self) -> tuple[tuple[str, ...], ...]:
        """Where it looks for id, text and title."""
        return tuple(self.id_fields), tuple(self.text_fields), tuple(self.title_fields)

    def check_fields(self, label: str, found: Collection[str]) -> None:
        """Raises SourceInvalid when the fields hold no id, no text, or not the title asked for."""
        wanted = [
            ("id", self.id_fields, "--id-field"),
            ("text", self.text_fields, "--text-field"),
        ]
        if self._title_is_wanted:
            wanted.append(("title", self.title_fields, "--title-field"))
        for what, names, flag in wanted:
            if not any(name in found for name in names):
                raise SourceInvalid(
                    f"{label} has no {what}: looked for {_listed(names)}; its fields are "
                    f"{_listed(sorted(found))}. Name the right one with {flag} FIELD"
                )

    def read(self, where: str, record: Mapping[str, object]) -> Row | Rejected:
        """The row of one record. Raises nothing on bad values: they make a Rejected."""
        id_field = _first(record, self.id_fields)
        text_field = _first(record, self.text_fields)
        title_field = _first(record, self.title_fields)
        try:
            if id_field is None:
                raise InvalidDocument(f"no id: looked for {_listed(self.id_fields)}")
            if text_field is None:
                if any(name in record for name in self.text_fields):
                    raise InvalidDocument("the text is null")
                raise InvalidDocument(
                    f"no text: looked for {_listed(self.text_fields)}; the row has "
                    f"{_listed(list(record))}"
                )
            document = Document.of(
                doc_id=_id(record[id_field]),
                text=record[text_field],
                title=record[title_field] if title_field else "",
                metadata=_metadata(record, (id_field, text_field, title_field)),
                source=self.source,
            )
        except InvalidDocument as error:
            doc_id = _usable_id(_id(record[id_field])) if id_field else None
            return Rejected(where=where, reason=str(error), doc_id=doc_id)
        return Row(where=where, document=document)


def _id(value: object) -> object:
    return str(value) if isinstance(value, uuid.UUID) else value


def _usable_id(value: object) -> str | None:
    try:
        return validate_doc_id(value)
    except InvalidDocument:
        return None


def _first(record: Mapping[str, object], names: Collection[str]) -> str | None:
    for name in names:
        if record.get(name) is not None:
            return name
    return None


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN_FIELDS]) or "none"
    return (
        shown if len(names) <= _SHOWN_FIELDS else f"{shown} and {len(names) - _SHOWN_FIELDS} more"
    )


def _metadata(record: Mapping[str, object], used: tuple[str, str, str | None]) -> dict[str, object]:
    metadata: dict[str, object] = {}
    for name, value in record.items():
        if name in used or name == METADATA_FIELD:
            continue
        if type(value) in _PLAIN_TYPES:
            metadata[name] = value
        else:
            _collect(metadata, name, value)
    nested = record.get(METADATA_FIELD)
    if isinstance(nested, dict):
        for name, value in nested.items():
            if name not in metadata:
                _collect(metadata, name, value)
    elif METADATA_FIELD not in used:
        _collect(metadata, METADATA_FIELD, nested)
    return metadata


def _collect(metadata: dict[str, object], name: str, value: object) -> None:
    if isinstance(value, dict):
        if name.count(".") >= MAX_NESTING:
            raise InvalidDocument(f"the field {name[:40]}… is nested more than {MAX_NESTING} deep")
        for key, item in value.items():
            _collect(metadata, f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        items = [_scalar(item) for item in value if item is not None]
        if all(item is not None for item in items):
            metadata[name] = items
    else:
        scalar = _scalar(value)
        if scalar is not None:
            metadata[name] = scalar


def _scalar(value: object) -> str | int | float | bool | None:
    """The value as metadata keep it; None for one that they cannot keep."""
    match value:
        case bool() | str():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else str(value)
        case float():
            return value if math.isfinite(value) else None
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return _scalar(int(value) if value == value.to_integral_value() else float(value))
        case uuid.UUID():
            return str(value)
        case _:
            return None
