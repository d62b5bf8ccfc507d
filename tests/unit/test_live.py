"""What a verb asks the service is what it would have asked itself."""

from __future__ import annotations

from reindexer.running_service import filter_to_json
from search.documents import filter_from_json, parse_filter


def test_a_filter_arrives_at_the_service_as_it_was_typed() -> None:
    where = parse_filter(["lang=en|de", "year>=2000", "year<2010", "open=true", "price=1..5"])
    parts = filter_to_json(where)
    assert parts is not None
    assert tuple(item for part in parts for item in filter_from_json(part)) == where


def test_no_filter_is_none() -> None:
    assert filter_to_json(()) is None
