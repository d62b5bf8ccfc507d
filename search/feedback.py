"""What people thought of the answers: clicks and judgments by query, votes between generations."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from search.answer import Answer
from search.database import Database
from search.documents import validate_doc_id
from search.errors import (
    DatabaseUnavailable,
    FeedbackOff,
    GenerationNotFound,
    InvalidDocument,
    InvalidFeedback,
    QueryNotFound,
)
from search.feedback_reports import votes_summary
from search.query_log import WRITE_EVERY_S, LogRules, QueryLog
from search.tables import feedback, generations, query_log, votes

Kind = Literal["click", "judgment"]
_SHOWN_IDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """One click on a hit, or one judgment of it. Raises InvalidFeedback."""

    query_id: str
    doc_id: str
    kind: Kind = "click"
    position: int | None = None  # from 1; where the answer had it unless given
    value: float = 1.0  # of a judgment: its grade, 0 for not relevant; of a click 1

    def __post_init__(self) -> None:
        try:
            validate_doc_id(self.doc_id)
        except InvalidDocument as error:
            raise InvalidFeedback(str(error)) from error
        if self.kind == "click" and self.value != 1:
            raise InvalidFeedback(f"a click has the value 1, found {self.value:g}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What became of feedback that was sent."""

    stored: int
    not_sampled: int  # for queries that the log left out on purpose

    def to_json(self) -> dict[str, int]:
        return {"stored": self.stored, "not_sampled": self.not_sampled}


class FeedbackLog:
    """The query log, and what people did with the answers. Safe to use from several threads."""

    def __init__(self, database: Database, rules: LogRules | None = None) -> None:
        self.rules = rules or LogRules()
        self.queries = QueryLog(database, self.rules)
        self._database = database

    def record(self, answer: Answer, *, query_id: str, who: str) -> None:
        """Log a query that was answered. Takes microseconds and never fails."""
        self.queries.record(answer, query_id=query_id, who=who)

    def add(self, items: Sequence[Feedback], *, who: str) -> Stored:
        """Store all, or none. What belongs to a query that was not sampled is left out.

        Raises FeedbackOff, and QueryNotFound for a query that was never answered or is no longer
        kept. A query that another process answered in this moment is waited for.
        """
        if not self.rules.enabled:
            raise FeedbackOff(
                "the query log is off, so there is nothing a click could belong to; turn it on "
                "with the setting feedback.enabled = true"
            )
        sampled = [item for item in items if self.rules.is_sampled(item.query_id)]
        shown = self._shown({item.query_id for item in sampled})
        at, kept_who = time.time(), self.rules.who_of(who)
        rows = [
            {
                "at": at,
                "query_id": item.query_id,
                "doc_id": item.doc_id,
                "kind": item.kind,
                "value": item.value,
                "position": _position(item, shown[item.query_id]),
                "who": kept_who,
            }
            for item in sampled
        ]
        if rows:
            with self._database.write() as connection:
                connection.execute(feedback.insert(), rows)
        return Stored(stored=len(rows), not_sampled=len(items) - len(rows))

    def vote(self, query: str, one: str, other: str, *, better: str | None, who: str) -> None:
        """Which of two generations answered a query better; None for neither. Stored whether or
        not queries are logged: somebody sent it on purpose. Raises InvalidFeedback and
        GenerationNotFound."""
        if one == other or better not in (one, other, None):
            raise InvalidFeedback(
                f"expected two generations, and the better of them or null; found {one!r}, "
                f"{other!r} and {better!r}"
            )
        with self._database.write() as connection:
            names = sa.select(generations.c.name).where(generations.c.name.in_([one, other]))
            unknown = {one, other} - set(connection.execute(names).scalars())
            if unknown:
                raise GenerationNotFound(
                    f"there is no generation {min(unknown)!r}; see `reindexer generations`"
                )
            connection.execute(
                votes.insert().values(
                    at=time.time(),
                    query=self.rules.text_of(query) or self.rules.hash_of(query),
                    one=one,
                    other=other,
                    better=better,
                    who=self.rules.who_of(who) or "",
                )
            )

    def votes(self) -> list[dict[str, Any]]:
        """How people voted, for every pair of generations; see votes_summary."""
        return votes_summary(self._database)

    def flush(self) -> None:
        """Write what waits to be written."""
        self.queries.flush()

    def close(self) -> None:
        """Write what waits, and end."""
        self.queries.close()

    def _shown(self, query_ids: Collection[str]) -> dict[str, list[str]]:
        """The doc_ids that each query showed."""
        found = self._logged(query_ids)
        if len(found) < len(query_ids):
            self.queries.flush()
            found = self._logged(query_ids)
        if len(found) < len(query_ids):
            time.sleep(2 * WRITE_EVERY_S)  # another process has written what it answered by then
            found = self._logged(query_ids)
        missing = sorted(set(query_ids) - set(found))
        if missing and self.queries.problem is not None:
            raise DatabaseUnavailable(
                "nothing was stored, since the query log cannot be written now: "
                f"{self.queries.problem}"
            )
        if missing:
            more = f" and {len(missing) - _SHOWN_IDS} more" if len(missing) > _SHOWN_IDS else ""
            raise QueryNotFound(
                f"no query {', '.join(missing[:_SHOWN_IDS])}{more} is in the query log; it was "
                "never answered, or it is older than feedback.retention_days; nothing was stored"
            )
        return found

    def _logged(self, query_ids: Collection[str]) -> dict[str, list[str]]:
        select = sa.select(query_log.c.query_id, query_log.c.hits)
        with self._database.read() as connection:
            rows: Any = connection.execute(
                select.where(query_log.c.query_id.in_(sorted(query_ids)))
            )
            return {row.query_id: json.loads(row.hits) for row in rows}


def _position(item: Feedback, shown: Sequence[str]) -> int | None:
    if item.position is not None:
        return item.position
    return shown.index(item.doc_id) + 1 if item.doc_id in shown else None
