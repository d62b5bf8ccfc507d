"""What a verb asks the service is what it would have asked itself."""

from __future__ import annotations

from typing import Any

import pytest

from reindexer.running_service import asked_in_parts, filter_to_json
from search.documents import filter_from_json, parse_filter


def test_a_filter_arrives_at_the_service_as_it_was_typed() -> None:
    where = parse_filter(["lang=en|de", "year>=2000", "year<2010", "open=true", "price=1..5"])
    parts = filter_to_json(where)
    assert parts is not None
    assert tuple(item for part in parts for item in filter_from_json(part)) == where


def test_no_filter_is_none() -> None:
    assert filter_to_json(()) is None


@pytest.mark.parametrize("n_queries", [0, 1, 3, 7])
def test_many_queries_are_asked_in_parts_and_answered_as_one(n_queries: int) -> None:
    queries = [f"q{number}" for number in range(n_queries)]
    asked: list[list[str]] = []
    heard: list[int] = []

    def ask(part: list[str]) -> dict[str, Any]:
        asked.append(part)
        return {"generation": "docs@1", "one": part, "other": [text.upper() for text in part]}

    answer = asked_in_parts(queries, ask, size=3, lists=("one", "other"), on_progress=heard.append)

    assert answer["one"] == queries
    assert answer["other"] == [text.upper() for text in queries]
    assert all(0 < len(part) <= 3 for part in asked)
    assert heard == [n for n in (3, 6) if n < n_queries] + ([n_queries] if n_queries else [])
