"""What the query log and the feedback add up to: a click log for training, counts, and pruning."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from search.database import Database
from search.tables import feedback, query_log, votes

_QUERIES_AT_ONCE = 500
_ROWS_AT_ONCE = 5_000  # deleted in one transaction, so that nobody waits long for it


def click_events(database: Database, *, since: float = 0.0) -> Iterator[dict[str, Any]]:
    """A line for each document shown, and for each one clicked, as `pairs build --clicks` reads
    them: query, doc_id, clicked, position, time, and a session for each answer.

    since: Unix seconds. In the order they were asked. A judgment outranks clicks: above 0 it counts
    as one, at 0 the document was passed over. Queries whose text was not kept are left out.
    """
    after = (since, "")
    while True:
        with database.read() as connection:
            key = sa.tuple_(query_log.c.at, query_log.c.query_id)
            asked = connection.execute(
                sa.select(query_log)
                .where(key > sa.tuple_(*map(sa.literal, after)), query_log.c.query.is_not(None))
                .order_by(query_log.c.at, query_log.c.query_id)
                .limit(_QUERIES_AT_ONCE)
            ).all()
            given: defaultdict[str, list[sa.Row[Any]]] = defaultdict(list)
            for row in connection.execute(
                sa.select(feedback)
                .where(feedback.c.query_id.in_([row.query_id for row in asked]))
                .order_by(feedback.c.id)
            ):
                given[row.query_id].append(row)
        for row in asked:
            yield from _events(row, given[row.query_id])
        if len(asked) < _QUERIES_AT_ONCE:
            return
        after = (asked[-1].at, asked[-1].query_id)


def _events(asked: sa.Row[Any], given: Sequence[sa.Row[Any]]) -> Iterator[dict[str, Any]]:
    positions = {doc_id: rank for rank, doc_id in enumerate(json.loads(asked.hits), 1)}
    clicked_at: dict[str, float] = {}
    judged: dict[str, float] = {}
    for row in given:
        if row.position is not None:
            positions.setdefault(row.doc_id, row.position)
        if row.kind == "click" or row.value > 0:
            clicked_at[row.doc_id] = row.at
        if row.kind == "judgment":
            judged[row.doc_id] = row.value
    for doc_id, position in positions.items():
        is_clicked = judged[doc_id] > 0 if doc_id in judged else doc_id in clicked_at
        yield {
            "query": asked.query,
            "doc_id": doc_id,
            "clicked": is_clicked,
            "position": position,
            "time": clicked_at[doc_id] if is_clicked else asked.at,
            "session": asked.query_id,
        }


def feedback_summary(database: Database, *, since: float = 0.0) -> dict[str, Any]:
    """How much there is, and how the generations did. since: Unix seconds.

    By generation: the queries, those without a hit, those with a click, and the mean reciprocal
    rank of the first click among these.
    """
    is_new = query_log.c.at >= since
    first = (
        sa.select(feedback.c.query_id, sa.func.min(feedback.c.position).label("position"))
        .where(feedback.c.kind == "click")
        .group_by(feedback.c.query_id)
        .subquery()
    )
    with database.read() as connection:
        by_generation = connection.execute(
            sa.select(
                query_log.c.generation,
                sa.func.count().label("queries"),
                sa.func.sum(sa.case((query_log.c.hits == "[]", 1), else_=0)).label("no_hits"),
                sa.func.count(first.c.query_id).label("clicked"),
                sa.func.avg(1.0 / first.c.position).label("reciprocal_rank"),
                sa.func.min(query_log.c.at).label("first_at"),
                sa.func.max(query_log.c.at).label("last_at"),
            )
            .select_from(query_log.outerjoin(first, first.c.query_id == query_log.c.query_id))
            .where(is_new)
            .group_by(query_log.c.generation)
            .order_by(sa.func.min(query_log.c.at))
        ).all()
        kinds = {
            row.kind: row.n
            for row in connection.execute(
                sa.select(feedback.c.kind, sa.func.count().label("n"))
                .where(feedback.c.at >= since)
                .group_by(feedback.c.kind)
            )
        }
        n_votes = connection.execute(
            sa.select(sa.func.count()).select_from(votes).where(votes.c.at >= since)
        ).scalar_one()
    return {
        "queries": sum(row.queries for row in by_generation),
        "clicks": kinds.get("click", 0),
        "judgments": kinds.get("judgment", 0),
        "votes": n_votes,
        "generations": [
            {
                "generation": row.generation,
                "queries": row.queries,
                "no_hits": int(row.no_hits),
                "clicked": row.clicked,
                "mrr": None if row.reciprocal_rank is None else float(row.reciprocal_rank),
                "first_at": row.first_at,
                "last_at": row.last_at,
            }
            for row in by_generation
        ],
    }


def votes_summary(database: Database) -> list[dict[str, Any]]:
    """The votes of every pair of generations, each pair once, the older generation first."""
    with database.read() as connection:
        rows = connection.execute(
            sa.select(votes.c.one, votes.c.other, votes.c.better, sa.func.count()).group_by(
                votes.c.one, votes.c.other, votes.c.better
            )
        ).all()
    counts: defaultdict[tuple[str, str], Counter[str | None]] = defaultdict(Counter)
    for one, other, better, n in rows:
        first, second = sorted((one, other), key=_number)
        counts[first, second][better] += n
    return [
        {
            "one": one,
            "other": other,
            "votes": found.total(),
            "one_better": found[one],
            "other_better": found[other],
            "neither": found[None],
        }
        for (one, other), found in sorted(counts.items(), key=lambda item: _numbers(item[0]))
    ]


def votes_of(generation: str, summary: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The votes in which a generation took part, seen from it: against whom, mine, theirs, neither.

    summary: as `votes_summary` gives it.
    """
    found = []
    for row in summary:
        if generation not in (row["one"], row["other"]):
            continue
        mine, theirs = ("one", "other") if row["one"] == generation else ("other", "one")
        found.append(
            {
                "against": row[theirs],
                "mine": row[f"{mine}_better"],
                "theirs": row[f"{theirs}_better"],
                "neither": row["neither"],
            }
        )
    return found


def prune_feedback(database: Database, before: float) -> int:
    """Delete queries, clicks, judgments and votes older than `before` (Unix seconds); how many."""
    deleted = 0
    for table, key in (
        (feedback, feedback.c.id),
        (query_log, query_log.c.query_id),
        (votes, votes.c.id),
    ):
        old = sa.select(key).where(table.c.at < before).limit(_ROWS_AT_ONCE)
        while True:
            with database.write() as connection:
                n = connection.execute(table.delete().where(key.in_(old))).rowcount
            deleted += n
            if n < _ROWS_AT_ONCE:
                break
    return deleted


def _number(generation: str) -> tuple[int, str]:
    number = generation.rpartition("@")[2]
    return (int(number) if number.isdigit() else 0, generation)


def _numbers(pair: tuple[str, str]) -> list[tuple[int, str]]:
    return [_number(name) for name in pair]
