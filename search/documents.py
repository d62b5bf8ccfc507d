"""What is stored and retrieved: documents, their changes, passages and filters."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from search.errors import InvalidDocument, InvalidQuery
from training.unicode_text import is_unicode

Scalar = str | int | float | bool
Value = Scalar | tuple[Scalar, ...]

DEFAULT_SOURCE = "default"
MAX_DOC_ID_BYTES = 512
MAX_TEXT_BYTES = 10_000_000  # title and text together, as UTF-8
MAX_METADATA_BYTES = 100_000  # the metadata object as JSON

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
# The content hash is taken over this encoder's output, so its options never change.
_encode_metadata = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
).encode
_PASSAGE_NAMESPACE = uuid.UUID("0f6b8f0e-3c0f-5e0b-9a54-5a1d7c0e5f11")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidDocument(f"{what} is {_kind(value)}, expected text")
    if "\x00" in value:
        raise InvalidDocument(f"{what} contains a NUL character; remove it")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidDocument(
                f"{what} is not valid Unicode (half a surrogate pair at character {error.start}); "
                "re-encode the source as UTF-8"
            ) from None
    return value


def _n_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8"))


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "a boolean", dict: "an object", list: "a list"}.get(
        type(value), f"of type {type(value).__name__}"
    )


def _scalar(key: str, value: object) -> Scalar:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        if value.isascii() and "\x00" not in value:  # spares most values the message
            return value
        return _text(value, f"metadata field {key!r}")
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise InvalidDocument(f"metadata field {key!r} is {value}, outside 64-bit integers")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidDocument(f"metadata field {key!r} is {value}, expected a finite number")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    raise InvalidDocument(
        f"metadata field {key!r} holds {_kind(value)}; expected text, number, boolean, "
        "or a list of these"
    )


def canonical_metadata(metadata: Mapping[str, object] | None) -> Mapping[str, Value]:
    """The metadata as it is stored and filtered on: sorted keys, null fields left out, numbers in
    one form (2.0 is 2), lists as tuples. Raises InvalidDocument on anything nested deeper."""
    if not metadata:
        return {}
    result: dict[str, Value] = {}
    for key in metadata:
        if not isinstance(key, str) or not key:
            raise InvalidDocument(f"metadata key {key!r} is not usable as a name")
        _text(key, "a metadata key")
    for key in sorted(metadata):
        value = metadata[key]
        if value is None:
            continue
        if isinstance(value, list | tuple):
            result[key] = tuple(_scalar(key, item) for item in value if item is not None)
        else:
            result[key] = _scalar(key, value)
    return result


def metadata_json(metadata: Mapping[str, Value]) -> str:
    """Compact JSON of canonical metadata; equal metadata give equal text."""
    return _encode_metadata(dict(metadata)) if metadata else "{}"


def metadata_from_json(text: str) -> Mapping[str, Value]:
    """Canonical metadata back from what `metadata_json` wrote."""
    if text == "{}":
        return {}
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in orjson.loads(text).items()
    }


def validate_doc_id(value: object) -> str:
    """A usable doc_id: text or integer, not empty, at most 512 bytes, no control characters."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and _is_blank(value)):
        raise InvalidDocument("no id: expected a non-empty _id, id or doc_id")
    doc_id = _text(value, "the id")
    if _n_bytes(doc_id) > MAX_DOC_ID_BYTES:
        raise InvalidDocument(
            f"the id has {_n_bytes(doc_id)} bytes, at most {MAX_DOC_ID_BYTES} are allowed"
        )
    if _CONTROL_CHARACTER.search(doc_id):
        raise InvalidDocument(f"the id {doc_id!r} contains a control character")
    return doc_id


@lru_cache(maxsize=256)
def validate_source(name: str) -> str:
    """A usable source name: text, not empty, at most 512 bytes, no control characters."""
    if not name or _n_bytes(name) > MAX_DOC_ID_BYTES or _CONTROL_CHARACTER.search(name):
        raise InvalidDocument(
            f"the source name {name[:80]!r} is not usable: expected 1 to {MAX_DOC_ID_BYTES} bytes "
            "without control characters"
        )
    return _text(name, "the source name")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One document of record. `Document.of` validates; the constructor trusts its caller."""

    doc_id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Value] = field(default_factory=dict)
    source: str = DEFAULT_SOURCE

    @classmethod
    def of(
        cls,
        *,
        doc_id: object,
        text: object,
        title: object = "",
        metadata: Mapping[str, object] | None = None,
        source: str = DEFAULT_SOURCE,
    ) -> Document:
        """A validated document. Raises InvalidDocument with the reason."""
        valid_id = validate_doc_id(doc_id)
        valid_text = _text(text, "the text")
        valid_title = "" if title is None else _text(title, "the title")
        if _is_blank(valid_text) and _is_blank(valid_title):
            raise InvalidDocument("the text and the title are empty")
        n_bytes = _n_bytes(valid_text) + _n_bytes(valid_title)
        if n_bytes > MAX_TEXT_BYTES:
            raise InvalidDocument(
                f"the text has {n_bytes:,} bytes, at most {MAX_TEXT_BYTES:,} are allowed; "
                "split the document"
            )
        canonical = canonical_metadata(metadata)
        if canonical and len(orjson.dumps(canonical)) > MAX_METADATA_BYTES:
            raise InvalidDocument(
                f"the metadata is larger than {MAX_METADATA_BYTES:,} bytes as JSON"
            )
        return cls(
            doc_id=valid_id,
            text=valid_text,
            title=valid_title,
            metadata=canonical,
            source=validate_source(source),
        )

    @property
    def content_hash(self) -> str:
        """32 hex digits over title, text and metadata: equal documents have equal hashes."""
        return content_hash(self.title, self.text, metadata_json(self.metadata))

    @property
    def full_text(self) -> str:
        """Title and text as one string: what the lexical index reads."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def content_hash(title: str, text: str, metadata_text: str) -> str:
    """`Document.content_hash` for a caller that has the metadata as JSON already."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (title, text, metadata_text):
        encoded = part.encode("utf-8")
        digest.update(b"%d:" % len(encoded))  # so that text cannot pass for the end of a title
        digest.update(encoded)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The latest state of one document in the corpus log; `document` is None for a tombstone."""

    seq: int
    doc_id: str
    content_hash: str  # "" for a tombstone
    document: Document | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """The piece of a document that is encoded."""

    doc_id: str
    number: int  # 0-based
    count: int  # passages of this document
    start: int  # first character in Document.text
    end: int  # one past the last character in Document.text
    text: str  # what the encoder reads (title included), without the model's prompt

    @property
    def text_hash(self) -> str:
        """16 hex digits: an unchanged passage keeps its vector when its document is edited."""
        return hashlib.blake2b(self.text.encode("utf-8"), digest_size=8).hexdigest()


def point_id(doc_id: str, number: int) -> uuid.UUID:
    """UUIDv5 of the passage: writing the same passage twice writes the same point."""
    return uuid.uuid5(_PASSAGE_NAMESPACE, f"{number}:{doc_id}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """One condition on a metadata field. Either `any_of` or a range is set.

    A list field satisfies the condition when one of its items does. Numbers compare by value
    (2 and 2.0 are equal), a boolean is never equal to a number, text is compared exactly.
    """

    field: str
    any_of: tuple[Scalar, ...] = ()
    gt: float | None = None
    gte: float | None = None
    lt: float | None = None
    lte: float | None = None

    @property
    def is_range(self) -> bool:
        return not self.any_of

    def matches(self, metadata: Mapping[str, Value]) -> bool:
        """The meaning of the condition, which every engine must reproduce."""
        value = metadata.get(self.field)
        if value is None:
            return False
        items = value if isinstance(value, tuple) else (value,)
        return any(self._matches_item(item) for item in items)

    def _matches_item(self, item: Scalar) -> bool:
        if self.any_of:
            return any(
                item == wanted and isinstance(item, bool) == isinstance(wanted, bool)
                for wanted in self.any_of
            )
        if isinstance(item, bool | str):
            return False
        return (
            (self.gt is None or item > self.gt)
            and (self.gte is None or item >= self.gte)
            and (self.lt is None or item < self.lt)
            and (self.lte is None or item <= self.lte)
        )


Filter = tuple[Condition, ...]  # all conditions must hold; () matches everything
MAX_CONDITIONS = 32
MAX_ANY_OF = 256


def parse_condition(text: str) -> Condition:
    """`field=value`, `field=a|b` (any of), `field>=3`, `field>3`, `field<=3`, `field<3`,
    `field=1..5` (both ends included). `year=2020` matches the number and the text.

    Raises InvalidQuery when the text is none of these.
    """
    for sign, name in ((">=", "gte"), ("<=", "lte"), (">", "gt"), ("<", "lt")):
        key, found, bound = text.partition(sign)
        if found and "=" not in key:
            return _range(text, key.strip(), **{name: bound.strip()})
    key, found, value = text.partition("=")
    if not found or not key.strip():
        raise InvalidQuery(
            f"filter {text!r} is not understood; write field=value, field=a|b, field>=3 "
            "or field=1..5"
        )
    low, dots, high = value.partition("..")
    if dots and _number(low) is not None and _number(high) is not None:
        return _range(text, key.strip(), gte=low, lte=high)
    any_of: list[Scalar] = []
    for item in value.split("|"):
        any_of.append(item)
        number = _stored_number(item)
        if number is not None:
            any_of.append(number)
        elif item.lower() in ("true", "false"):
            any_of.append(item.lower() == "true")
    return Condition(field=key.strip(), any_of=tuple(any_of))


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _stored_number(text: str) -> int | float | None:
    """The number in the form metadata keep it in; None for text and for integers that metadata
    cannot hold (a long ISBN is text there)."""
    try:
        integer = int(text)
    except ValueError:
        number = _number(text)
        if number is not None and number.is_integer() and abs(number) < 2**53:
            return int(number)
        return number
    return integer if -(2**63) <= integer < 2**63 else None


def _range(text: str, key: str, **bounds: str) -> Condition:
    numbers: dict[str, Any] = {}
    for name, bound in bounds.items():
        number = _number(bound)
        if number is None:
            raise InvalidQuery(f"filter {text!r}: {bound!r} is not a number")
        numbers[name] = number
    if not key:
        raise InvalidQuery(f"filter {text!r} names no field")
    return Condition(field=key, **numbers)


def parse_filter(texts: Iterable[str]) -> Filter:
    """Conditions that must all hold. Raises InvalidQuery on the first that is not understood."""
    return validate_filter(tuple(parse_condition(text) for text in texts))


def filter_from_json(value: object) -> Filter:
    """A filter from JSON: {"field": value | [any, of] | {"gte": 1, "lt": 5}}."""
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InvalidQuery(f"filter is {_kind(value)}, expected an object of field: value")
    conditions: list[Condition] = []
    for key, wanted in value.items():
        if isinstance(wanted, Mapping):
            unknown = set(wanted) - {"gt", "gte", "lt", "lte"}
            if unknown or not wanted:
                raise InvalidQuery(f"filter on {key!r}: expected gt, gte, lt or lte")
            bounds: dict[str, Any] = {}
            for name, bound in wanted.items():
                bounds[name] = _bound(key, name, bound)
            conditions.append(Condition(field=key, **bounds))
        else:
            items = wanted if isinstance(wanted, list | tuple) else [wanted]
            if not items or not all(isinstance(item, str | int | float | bool) for item in items):
                raise InvalidQuery(f"filter on {key!r}: expected text, numbers or booleans")
            conditions.append(Condition(field=key, any_of=tuple(items)))
    return validate_filter(tuple(conditions))


def _bound(key: str, name: str, bound: object) -> float:
    if isinstance(bound, int | float) and not isinstance(bound, bool):
        with contextlib.suppress(OverflowError):
            number = float(bound)
            if math.isfinite(number):
                return number
    raise InvalidQuery(f"filter on {key!r}: {name} is {bound!r}, expected a finite number")


def validate_filter(where: Filter) -> Filter:
    """The filter itself, or InvalidQuery when it is larger than an engine should be asked for."""
    if len(where) > MAX_CONDITIONS:
        raise InvalidQuery(f"{len(where)} filter conditions, at most {MAX_CONDITIONS} are allowed")
    for condition in where:
        if not condition.field or "\x00" in condition.field or not is_unicode(condition.field):
            raise InvalidQuery("a filter condition names no usable field")
        if len(condition.any_of) > MAX_ANY_OF:
            raise InvalidQuery(
                f"filter on {condition.field!r} lists {len(condition.any_of)} values, "
                f"at most {MAX_ANY_OF} are allowed"
            )
        for value in condition.any_of:
            if isinstance(value, str) and not is_unicode(value):
                raise InvalidQuery(
                    f"filter on {condition.field!r}: {value!r} is not valid Unicode; send UTF-8"
                )
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                raise InvalidQuery(
                    f"filter on {condition.field!r}: {value} is not a 64-bit integer"
                )
            if isinstance(value, float) and not math.isfinite(value):
                raise InvalidQuery(f"filter on {condition.field!r}: {value} is not finite")
    return where
