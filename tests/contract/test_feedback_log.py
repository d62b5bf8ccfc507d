"""The query log, clicks, judgments and votes, over SQLite and PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from search.answer import Answer, Hit, TookMs
from search.database import Database
from search.errors import (
    DatabaseError,
    DatabaseUnavailable,
    FeedbackOff,
    GenerationNotFound,
    InvalidFeedback,
    QueryNotFound,
)
from search.feedback import Feedback, FeedbackLog
from search.feedback_reports import (
    click_events,
    feedback_summary,
    prune_feedback,
    votes_of,
    votes_summary,
)
from search.generations import Catalog
from search.query_log import LogRules, QueryLog
from search.recipe import Recipe, SplitterRecipe
from search.tables import feedback, query_log, votes

RULES = {"enabled": True, "secret": b"of this installation"}

OpenLog = Callable[..., FeedbackLog]


@pytest.fixture
def open_log(database: Database) -> Iterator[OpenLog]:
    opened: list[FeedbackLog] = []

    def start(**rules: Any) -> FeedbackLog:
        opened.append(FeedbackLog(database, LogRules(**{**RULES, **rules})))
        return opened[-1]

    yield start
    for log in opened:
        log.close()


def an_answer(query: str = "river", shown: str = "abc", generation: str = "docs@1") -> Answer:
    hits = tuple(
        Hit(
            rank=rank,
            doc_id=doc_id,
            score=1.0 / rank,
            title="",
            snippet="",
            metadata={},
            lexical_rank=rank,
            dense_rank=None,
        )
        for rank, doc_id in enumerate(shown, 1)
    )
    return Answer(
        query=query,
        mode="hybrid",
        generation=generation,
        model="m@1",
        hits=hits,
        took_ms=TookMs(total=2.5),
    )


def click(query_id: str, doc_id: str, **more: Any) -> Feedback:
    return Feedback(query_id=query_id, doc_id=doc_id, **more)


def rows(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row._mapping) for row in connection.execute(sa.select(table))]


# -- what is kept ---------------------------------------------------------------------------------


def test_a_query_is_written_with_what_it_showed(database: Database, open_log: OpenLog) -> None:
    log = open_log()
    log.record(an_answer("Wide  river"), query_id="q1", who="key")
    log.flush()

    (row,) = rows(database, query_log)
    assert row.pop("at") == pytest.approx(time.time(), abs=60)
    assert len(row.pop("query_hash")) == 32
    assert row == {
        "query_id": "q1",
        "generation": "docs@1",
        "mode": "hybrid",
        "query": "Wide  river",
        "hits": '["a", "b", "c"]',
        "took_ms": 2.5,
        "who": None,
    }


@pytest.mark.parametrize(
    ("query", "who", "kept"),
    [
        ("text", "drop", (True, True, False)),
        ("hash", "hash", (False, True, True)),
        ("drop", "drop", (False, False, False)),
    ],
)
def test_personal_data_is_kept_as_the_settings_say(
    database: Database, open_log: OpenLog, query: str, who: str, kept: tuple[bool, ...]
) -> None:
    log = open_log(query=query, who=who)
    log.record(an_answer("my illness"), query_id="q1", who="somebody")
    log.flush()
    log.add([click("q1", "a")], who="somebody")

    (row,) = rows(database, query_log)
    assert (row["query"] is not None, row["query_hash"] != "", row["who"] is not None) == kept
    assert "somebody" not in str(row) + str(rows(database, feedback))
    assert ("my illness" in str(row)) == (query == "text")
    assert bool(list(click_events(database))) == (query == "text")


def test_a_hash_is_equal_for_equal_queries_and_worthless_without_the_secret() -> None:
    ours, theirs = LogRules(secret=b"ours"), LogRules(secret=b"theirs")

    assert ours.hash_of(" My  Illness") == ours.hash_of("my illness")
    assert ours.hash_of("my illness") != theirs.hash_of("my illness")
    assert "ours" not in repr(ours)


def test_nothing_is_kept_unless_somebody_says_so(database: Database) -> None:
    log = FeedbackLog(database)
    log.record(an_answer(), query_id="q1", who="key")
    log.close()

    assert rows(database, query_log) == []
    with pytest.raises(FeedbackOff, match=r"feedback\.enabled = true"):
        log.add([click("q1", "a")], who="key")


def test_the_sample_is_the_share_that_was_asked_for_and_every_process_knows_it(
    database: Database, open_log: OpenLog
) -> None:
    log, other = open_log(sample=0.3), open_log(sample=0.3)
    for n in range(1000):
        log.record(an_answer(), query_id=f"q{n}", who="key")
    log.flush()

    logged = {row["query_id"] for row in rows(database, query_log)}
    assert 230 <= len(logged) <= 370
    left_out = next(f"q{n}" for n in range(1000) if f"q{n}" not in logged)
    stored = other.add([click(left_out, "a"), click(min(logged), "a")], who="key")
    assert stored.to_json() == {"stored": 1, "not_sampled": 1}


def test_a_text_that_no_database_takes_does_not_lose_the_others(
    database: Database, open_log: OpenLog
) -> None:
    log = open_log()
    log.record(an_answer("nul \0 byte"), query_id="q1", who="key")
    log.record(an_answer("river"), query_id="q2", who="key")
    log.flush()

    assert sorted(row["query"] for row in rows(database, query_log)) == ["nul   byte", "river"]


# -- off the request path -------------------------------------------------------------------------


def test_a_full_queue_drops_and_counts(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.query_log.WRITE_EVERY_S", 3600)
    log = QueryLog(database, LogRules(enabled=True), max_waiting=10)
    began = time.perf_counter()
    for n in range(1_000):
        log.record(an_answer(), query_id=f"q{n}", who="key")
    took_s = time.perf_counter() - began

    assert (log.waiting, log.dropped) == (10, 990)
    assert took_s < 0.5  # never waits for the database
    log.close()
    assert len(rows(database, query_log)) == 10


def test_a_drain_writes_what_waits(database: Database) -> None:
    log = FeedbackLog(database, LogRules(enabled=True))
    for n in range(1_200):
        log.record(an_answer(), query_id=f"q{n}", who="key")
    log.close()

    assert len(rows(database, query_log)) == 1_200


@pytest.mark.parametrize(
    ("error", "kept"), [(DatabaseUnavailable, ["q0", "q1", "q2", "q9"]), (DatabaseError, ["q9"])]
)
def test_queries_wait_for_a_database_that_is_away_and_are_dropped_by_one_that_refuses_them(
    error: type[DatabaseError], kept: list[str], database: Database, open_log: OpenLog,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr("search.query_log.WRITE_EVERY_S", 3600)
    log = open_log()

    def fail(*_: object) -> None:
        raise error("away")

    with monkeypatch.context() as broken:
        broken.setattr(QueryLog, "_write", fail)
        for n in range(3):
            log.record(an_answer(), query_id=f"q{n}", who="key")
            log.flush()
        assert log.queries.problem == "away"
    log.record(an_answer(), query_id="q9", who="key")
    log.flush()

    assert log.queries.problem is None
    assert log.queries.dropped == 4 - len(kept)
    assert sorted(row["query_id"] for row in rows(database, query_log)) == kept
    assert caplog.text.count("queries cannot be written") == 1


def test_queries_that_wait_when_the_service_ends_are_counted_and_told(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log()

    def fail(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as broken:
        broken.setattr(QueryLog, "_write", fail)
        log.record(an_answer(), query_id="q1", who="key")
        log.close()

    assert log.queries.dropped == 1
    assert "queries that are missing in the query log: 1" in caplog.text


# -- clicks and judgments -------------------------------------------------------------------------


def test_a_click_gets_the_position_that_the_answer_had(
    database: Database, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.query_log.WRITE_EVERY_S", 3600)
    monkeypatch.setattr("search.feedback.WRITE_EVERY_S", 0.0)
    log = open_log()
    log.record(an_answer(shown="abc"), query_id="q1", who="key")  # not written yet
    items = [click("q1", "b"), click("q1", "elsewhere"), click("q1", "c", position=7)]
    log.add([*items, click("q1", "a", kind="judgment", value=2)], who="key")

    found = [(row["doc_id"], row["kind"], row["position"], row["value"])
             for row in rows(database, feedback)]  # fmt: skip
    assert found == [
        ("b", "click", 2, 1), ("elsewhere", "click", None, 1), ("c", "click", 7, 1),
        ("a", "judgment", 1, 2),
    ]  # fmt: skip


def test_feedback_on_an_unknown_query_is_refused_as_a_whole(
    database: Database, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.feedback.WRITE_EVERY_S", 0.0)
    log = open_log()
    log.record(an_answer(), query_id="q1", who="key")

    with pytest.raises(QueryNotFound, match=r"no query q2 is in the query log; .* nothing"):
        log.add([click("q1", "a"), click("q2", "a")], who="key")
    assert rows(database, feedback) == []


def test_a_query_that_another_process_answered_a_moment_ago_is_waited_for(
    open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = open_log(), open_log()
    there.close()  # its thread, so that it writes when this test says
    there.record(an_answer(), query_id="q1", who="key")
    monkeypatch.setattr("search.feedback.time.sleep", lambda _s: there.flush())

    assert here.add([click("q1", "a")], who="key").stored == 1


def test_what_makes_no_sense_is_not_stored() -> None:
    with pytest.raises(InvalidFeedback, match="a click has the value 1, found 3"):
        click("q", "a", value=3)
    with pytest.raises(InvalidFeedback, match="NUL character"):
        click("q", "a\0")


# -- votes ----------------------------------------------------------------------------------------


@pytest.fixture
def generations(database: Database) -> list[str]:
    catalog = Catalog(database)
    splitter = SplitterRecipe(max_tokens=8, overlap_tokens=2)
    recipes = [Recipe(model=f"m@{n}", fingerprint="f", dim=4, splitter=splitter) for n in range(3)]
    return [catalog.record(recipe).name for recipe in recipes]


def test_votes_are_counted_for_each_pair_of_generations(
    database: Database, generations: list[str]
) -> None:
    log = FeedbackLog(database)
    one, two, three = generations
    for first, second, better in [
        (one, two, two), (two, one, two), (one, two, one), (two, one, None), (two, three, three),
    ]:  # fmt: skip
        log.vote("river", first, second, better=better, who="local")

    assert votes_summary(database) == log.votes() == [
        {"one": one, "other": two, "votes": 4, "one_better": 1, "other_better": 2, "neither": 1},
        {"one": two, "other": three, "votes": 1, "one_better": 0, "other_better": 1, "neither": 0},
    ]  # fmt: skip
    summary = votes_summary(database)
    assert votes_of(one, summary)[0] == {"against": two, "mine": 1, "theirs": 2, "neither": 1}
    assert votes_of(two, summary)[0] == {"against": one, "mine": 2, "theirs": 1, "neither": 1}
    assert three not in [row["against"] for row in votes_of(one, summary)]
    assert {row["who"] for row in rows(database, votes)} == {""}


def test_a_vote_is_between_two_generations_that_there_are(
    database: Database, generations: list[str]
) -> None:
    log = FeedbackLog(database)
    with pytest.raises(GenerationNotFound, match=r"no generation 'docs@99'; see"):
        log.vote("river", generations[0], "docs@99", better=None, who="local")
    for other, better in ((generations[0], None), (generations[1], generations[2])):
        with pytest.raises(InvalidFeedback, match="expected two generations"):
            log.vote("river", generations[0], other, better=better, who="local")


# -- what it adds up to ---------------------------------------------------------------------------


def test_the_export_says_of_every_document_shown_whether_it_was_clicked(
    database: Database, open_log: OpenLog
) -> None:
    log = open_log()
    log.record(an_answer("river", "abc"), query_id="q1", who="key")
    log.record(an_answer("lake", "a"), query_id="q2", who="key")
    log.flush()
    log.add(
        [
            click("q1", "b"),
            click("q1", "b"),  # sent again
            click("q1", "far", position=12),
            click("q1", "nowhere"),
            click("q1", "c"),
            click("q1", "c", kind="judgment", value=0),
            click("q2", "a", kind="judgment", value=3),
        ],
        who="key",
    )

    events = list(click_events(database))

    assert [(e["query"], e["doc_id"], e["position"], e["clicked"]) for e in events] == [
        ("river", "a", 1, False),
        ("river", "b", 2, True),
        ("river", "c", 3, False),  # the judgment outranks the click
        ("river", "far", 12, True),
        ("lake", "a", 1, True),
    ]
    assert [e["session"] for e in events] == ["q1"] * 4 + ["q2"]
    assert list(click_events(database, since=time.time() + 1)) == []


def test_a_long_log_is_exported_whole_and_in_order(
    database: Database, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.feedback_reports._QUERIES_AT_ONCE", 7)
    monkeypatch.setattr("search.query_log.time.time", lambda: 1_000.0)  # all at one time
    log = open_log()
    for n in range(30):
        log.record(an_answer(f"query {n}", "ab"), query_id=f"q{n}", who="key")
    log.flush()

    events = list(click_events(database))

    assert len(events) == 60
    assert {event["query"] for event in events} == {f"query {n}" for n in range(30)}


def test_the_summary_counts_by_generation(database: Database, open_log: OpenLog) -> None:
    log = open_log()
    log.record(an_answer(shown="abcd"), query_id="q1", who="key")
    log.record(an_answer(shown=""), query_id="q2", who="key")
    log.record(an_answer(shown="ab", generation="docs@2"), query_id="q3", who="key")
    log.flush()
    log.add([click("q1", "d"), click("q1", "b"), click("q1", "b")], who="key")

    summary = feedback_summary(database)

    assert {key: summary[key] for key in ("queries", "clicks", "judgments", "votes")} == {
        "queries": 3, "clicks": 3, "judgments": 0, "votes": 0,
    }  # fmt: skip
    shown = [
        (row["generation"], row["queries"], row["no_hits"], row["clicked"], row["mrr"])
        for row in summary["generations"]
    ]
    assert shown == [("docs@1", 2, 1, 1, 0.5), ("docs@2", 1, 0, 0, None)]
    assert feedback_summary(database, since=time.time() + 1)["queries"] == 0


def test_what_is_older_than_it_may_be_is_deleted(
    database: Database, open_log: OpenLog, generations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.feedback_reports._ROWS_AT_ONCE", 4)
    log = open_log()
    for n in range(10):
        log.record(an_answer(), query_id=f"q{n}", who="key")
    log.add([click(f"q{n}", "a") for n in range(9)], who="key")
    log.vote("river", *generations[:2], better=None, who="local")
    kept_from = time.time()
    log.record(an_answer(), query_id="late", who="key")
    log.add([click("late", "a")], who="key")

    assert prune_feedback(database, kept_from) == 10 + 9 + 1

    assert [row["query_id"] for row in rows(database, query_log)] == ["late"]
    assert [row["query_id"] for row in rows(database, feedback)] == ["late"]
    assert prune_feedback(database, kept_from) == 0
