"""Clicks become pairs by what people wanted, not by where it stood or who kept clicking."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from training.clicks import ClickLog, ClickRules
from training.errors import PairsInvalid
from training.pair_sources import format_of
from training.pairs import Pair, PairRow, RejectedRow

BEGIN_S = 1_700_000_000.0


def _texts(doc_ids: Sequence[str]) -> dict[str, str]:
    return {doc_id: f"Text of {doc_id}." for doc_id in doc_ids if not doc_id.startswith("gone")}


def _event(
    doc_id: str, position: int, clicked: bool, user: str | None = "ann", **more: Any
) -> dict[str, Any]:
    event = {"query": "brie", "doc_id": doc_id, "position": position, "clicked": clicked, **more}
    return {**event, "user": user} if user is not None else event


def _page(clicked: str, user: str | None, order: str = "abcd", **more: Any) -> list[dict[str, Any]]:
    return [
        _event(doc_id, position, doc_id in clicked, user, **more)
        for position, doc_id in enumerate(order, 1)
    ]


def _read(
    tmp_path: Path, events: Sequence[Mapping[str, Any]], **rules: Any
) -> tuple[list[Pair], ClickLog]:
    path = tmp_path / "clicks.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    log = ClickLog(path, _texts, ClickRules(**rules))
    return [row.pair for row in log if isinstance(row, PairRow)], log


def test_a_document_that_two_people_chose_is_a_pair_and_what_they_passed_over_its_negative(
    tmp_path: Path,
) -> None:
    pairs, log = _read(
        tmp_path,
        [*_page("b", "ann", time=BEGIN_S), *_page("b", "bob", time="2023-11-14T22:14:20Z")],
    )
    assert pairs == [
        Pair(
            anchor="brie",
            positive="Text of b.",
            negatives=("Text of a.",),
            doc_id="b",
            time_s=BEGIN_S + 60,
        )
    ]
    assert (log.facts.events, log.facts.pages, log.facts.queries) == (8, 2, 1)


def test_one_click_is_not_enough_and_neither_are_two_on_one_page(tmp_path: Path) -> None:
    pairs, log = _read(tmp_path, [*_page("b", "ann"), _event("b", 2, True), _event("b", 2, True)])
    assert pairs == []
    assert log.facts.too_few_clicks == 1
    kept, _ = _read(tmp_path, _page("b", "ann"), min_clicks=1)
    assert [pair.doc_id for pair in kept] == ["b"]


def test_a_click_that_comes_after_the_page_was_logged_belongs_to_it(tmp_path: Path) -> None:
    events = []
    for user in ("ann", "bob"):
        events += _page("", user, time=BEGIN_S)
        events.append(_event("c", 3, True, user, time=BEGIN_S + 20))
    pairs, log = _read(tmp_path, events)
    assert [(pair.doc_id, pair.time_s) for pair in pairs] == [("c", BEGIN_S + 20)]
    assert log.facts.pages == 2


def test_an_hour_later_it_is_another_page(tmp_path: Path) -> None:
    events = [_event("c", 3, True, time=BEGIN_S + hours * 3_600) for hours in range(2)]
    pairs, log = _read(tmp_path, [*events, *_page("", "bob", time=BEGIN_S)])
    assert [pair.doc_id for pair in pairs] == ["c"]
    assert log.facts.pages == 3


def test_strangers_without_an_id_are_told_apart_by_what_they_are_shown_again(
    tmp_path: Path,
) -> None:
    pairs, log = _read(tmp_path, [*_page("b", None), *_page("b", None), *_page("", None)])
    assert [pair.doc_id for pair in pairs] == ["b"]
    assert log.facts.pages == 3


def test_a_visitor_who_clicks_everything_is_a_bot(tmp_path: Path) -> None:
    crawler = [event for _ in range(20) for event in _page("abcd", "crawler")]
    people = [event for user in range(30) for event in _page("b", f"person {user}")]
    pairs, log = _read(tmp_path, [*crawler, *people])
    assert [pair.doc_id for pair in pairs] == ["b"]
    assert (log.facts.bots, log.facts.bot_events) == (1, 80)


def test_a_visitor_who_clicks_faster_than_people_can_is_a_bot(tmp_path: Path) -> None:
    crawler = [
        _event("a", 1, True, "crawler", time=BEGIN_S + at, query=f"query {at}") for at in range(250)
    ]
    people = [event for user in range(2) for event in _page("b", f"person {user}")]
    pairs, log = _read(tmp_path, [*crawler, *people])
    assert [pair.doc_id for pair in pairs] == ["b"]
    assert log.facts.bots == 1


def test_a_log_of_clicks_alone_makes_no_bots_and_says_what_is_missing(tmp_path: Path) -> None:
    events = [
        _event("b", 2, True, f"person {user}", query=f"query {at}")
        for user in range(3)
        for at in range(60)
    ]
    pairs, log = _read(tmp_path, events)
    assert len(pairs) == 60
    assert log.facts.bots == 0
    assert "log what was shown too" in log.facts.notes[0]


def test_documents_that_are_gone_are_counted_and_left_out(tmp_path: Path) -> None:
    events = [_event("gone", 1, True, user) for user in ("ann", "bob")]
    pairs, log = _read(tmp_path, [*events, *_page("b", "ann"), *_page("b", "bob")])
    assert [pair.doc_id for pair in pairs] == ["b"]
    assert log.facts.gone == 1


def test_a_line_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    events: list[dict[str, Any]] = [
        {**_event("a", 1, True), "query": " "},
        {**_event("a", 1, True), "doc_id": None},
        {**_event("a", 1, True), "clicked": "yes"},
        _event("a", 0, True),
    ]
    _, log = _read(tmp_path, events)
    reasons = [(row.where, row.reason) for row in log if isinstance(row, RejectedRow)]
    assert reasons == [
        ("clicks.jsonl:1", "the query is empty"),
        ("clicks.jsonl:2", "there is no doc_id"),
        ("clicks.jsonl:3", "clicked is 'yes', expected true or false"),
        ("clicks.jsonl:4", "the position is 0, expected 1 for the first document"),
    ]


def test_a_click_log_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(_event("a", 1, False)) + "\n")
    assert format_of(path) == "clicks"


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(PairsInvalid, match="min_clicks 0"):
        ClickRules(min_clicks=0)


def test_where_nothing_ever_moved_a_position_counts_as_its_share(tmp_path: Path) -> None:
    _, log = _read(tmp_path, [event for user in range(9) for event in _page("b", f"{user}")])
    assert log.facts.examination == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3, 4: 1 / 4})


def test_what_people_want_is_told_from_where_it_stood(tmp_path: Path) -> None:
    """A simulated search that mostly ranks well: what is looked at falls with the position, what is
    clicked when looked at depends on the document alone. Both are found again."""
    draw = random.Random(1)
    looked_at = {position: position**-0.7 for position in range(1, 9)}
    events: list[dict[str, Any]] = []
    wanted: dict[str, float] = {}
    clicks: dict[str, int] = {}
    for query in range(40):
        documents = [f"{query}-{at}" for at in range(8)]
        wanted |= {name: draw.choice([0.7, 0.15, 0.05]) for name in documents}
        start = {name: draw.random() - wanted[name] / 2 for name in documents}
        for person in range(80):
            order = sorted(documents, key=lambda name: start[name] + draw.gauss(0, 0.25))
            for position, name in enumerate(order, 1):
                clicked = draw.random() < looked_at[position] * wanted[name]
                clicks[name] = clicks.get(name, 0) + clicked
                events.append(_event(name, position, clicked, f"{person}", query=f"query {query}"))
    pairs, log = _read(tmp_path, events)
    for position, share in looked_at.items():
        assert log.facts.examination[position] == pytest.approx(share, abs=0.08)
    chosen = [wanted[pair.doc_id or ""] for pair in pairs if pair.anchor]
    best = {name for name, value in wanted.items() if value == 0.7}
    found = {pair.doc_id for pair in pairs} & best
    assert len(found) >= 0.95 * len(best)
    # Queries without any wanted document give their best one, so look where there is one.
    queries = {name.split("-")[0] for name in best}
    wrong = [
        pair for pair in pairs if pair.anchor.split()[1] in queries and pair.doc_id not in best
    ]
    assert len(wrong) <= 0.03 * len(chosen)
    # Clicks alone would have called many a document wanted that merely stood high.
    least = min(clicks[name] for name in best)
    misled = [
        name
        for name, n in clicks.items()
        if n >= least and name not in best and name.split("-")[0] in queries
    ]
    assert len(misled) > 3 * len(wrong)
