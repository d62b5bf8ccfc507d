"""Values as they are found in records: texts, lists of them, ids that come along, times."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator

import orjson

from training.errors import PairsInvalid
from training.judgments import JudgedDocument

_MILLISECONDS = 1e11  # as seconds this is the year 5138


def texts_in(value: object, what: str) -> Iterator[str]:
    """A text, a list of texts, or of objects with title and text as rankers' datasets have them.

    what: the role, for the message. Raises PairsInvalid for anything else.
    """
    match value:
        case None:
            raise PairsInvalid(f"the {what} is missing")
        case str():
            yield value
        case list() | tuple():
            for item in value:
                yield from texts_in(item, what)
        case {"text": str(text), "title": str(title)}:
            yield JudgedDocument("", title, text).full_text
        case {"text": str(text)}:
            yield text
        case _:
            raise PairsInvalid(f"the {what} is a {type(value).__name__}, expected text")


def document_ids(value: object) -> list[str | None] | None:
    """Ids of texts that come as objects; None where they come as text."""
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    ids = (item.get("docid", item.get("doc_id")) for item in value)
    return [str(found) if isinstance(found, str | int) else None for found in ids]


def list_in_a_cell(value: str) -> object:
    """What a CSV cell holds that begins like a JSON list; the text itself when it is none."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value


def unix_time(value: object) -> float | None:
    """Seconds since 1970 of a number (seconds or milliseconds) or of ISO 8601 text, which is UTC
    where it names no zone. Raises PairsInvalid."""
    match value:
        case None | "":
            return None
        case bool():
            pass
        case int() | float() if math.isfinite(value):
            return value / 1_000 if abs(value) >= _MILLISECONDS else float(value)
        case datetime.datetime():
            zone = value.tzinfo or datetime.UTC
            return value.replace(tzinfo=zone).timestamp()
        case str():
            try:
                return unix_time(float(value))
            except ValueError:
                pass
            try:
                return unix_time(datetime.datetime.fromisoformat(value))
            except ValueError:
                pass
    raise PairsInvalid(
        f"the time is {value!r}, expected seconds since 1970 or 2026-01-31T12:00:00Z"
    )
