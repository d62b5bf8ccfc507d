"""The query log: what was asked and what was shown for it, written off the request path."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal

from search.answer import Answer
from search.database import Database
from search.errors import DatabaseError, DatabaseUnavailable
from search.tables import query_log

log = logging.getLogger(__name__)

WRITE_EVERY_S = 0.25  # at the most so much of the log is lost by a kill
MAX_WAITING = 10_000
MAX_HITS = 100  # documents of an answer that are remembered
_BATCH = 500
_HASH_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class LogRules:
    """What is kept of a query. Off unless somebody says otherwise: queries are personal data."""

    enabled: bool = False
    sample: float = 1.0  # share of the queries, 0..1
    query: Literal["text", "hash", "drop"] = "text"
    who: Literal["hash", "drop"] = "drop"
    secret: bytes = field(default=b"", repr=False)  # key of the hashes, at most 64 bytes

    def is_sampled(self, query_id: str) -> bool:
        """Whether the query is logged. The id alone decides, so every process knows it of every
        query without asking."""
        if not self.enabled:
            return False
        digest = hashlib.blake2b(query_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self.sample * 2**64

    def text_of(self, query: str) -> str | None:
        return query.replace("\0", " ") if self.query == "text" else None  # PostgreSQL has none

    def hash_of(self, query: str) -> str:
        """Equal for equal queries, whatever their case and spaces; "" when it is dropped."""
        return "" if self.query == "drop" else self._hash(" ".join(query.casefold().split()))

    def who_of(self, who: str) -> str | None:
        return self._hash(who) if self.who == "hash" else None

    def _hash(self, text: str) -> str:
        """Keyed: short texts could be guessed from a plain hash."""
        return hashlib.blake2b(text.encode(), key=self.secret, digest_size=_HASH_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class _Asked:
    at: float
    query_id: str
    who: str
    answer: Answer


class QueryLog:
    """Takes answers without waiting, and writes them in batches in a thread of its own.

    A full queue drops what comes and counts it: a log must not slow down what it is a log of.
    """

    def __init__(
        self, database: Database, rules: LogRules, *, max_waiting: int = MAX_WAITING
    ) -> None:
        self.rules = rules
        self.dropped = 0  # queries that were to be logged and were not
        self._database = database
        self._max_waiting = max_waiting
        self._waiting: deque[_Asked] = deque()
        self._writing = threading.Lock()
        self.problem: str | None = None  # why the last write failed
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="query-log", daemon=True)
        if rules.enabled:
            self._thread.start()

    @property
    def waiting(self) -> int:
        """Queries that are not written yet."""
        return len(self._waiting)

    def record(self, answer: Answer, *, query_id: str, who: str) -> None:
        """Log the query if it is one of the sample. Takes microseconds and never fails."""
        if not self.rules.is_sampled(query_id):
            return
        if len(self._waiting) >= self._max_waiting:
            self.dropped += 1
            return
        self._waiting.append(_Asked(time.time(), query_id, who, answer))

    def flush(self) -> None:
        """Write what waits; while the database does not answer, or has no room, it goes on waiting.
        What the database does not take is dropped and counted. Told once."""
        with self._writing:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
                try:
                    self._write(batch)
                    self.problem = None
                except DatabaseError as error:
                    if isinstance(error, DatabaseUnavailable):
                        self._waiting.extendleft(reversed(batch))
                    else:
                        self.dropped += len(batch)
                    if self.problem is None:
                        log.warning("queries cannot be written to the query log: %s", error)
                    self.problem = str(error)
                    return

    def close(self) -> None:
        """Write what waits, and end."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self.flush()
        if self._waiting:
            self.dropped += len(self._waiting)
            log.warning("queries that are missing in the query log: %d", len(self._waiting))

    def _write_on(self) -> None:
        while not self._closing.wait(WRITE_EVERY_S):
            self.flush()

    def _write(self, batch: list[_Asked]) -> None:
        rows = [self._row(asked) for asked in batch]
        with self._database.write() as connection:
            connection.execute(self._database.upsert(query_log).on_conflict_do_nothing(), rows)

    def _row(self, asked: _Asked) -> dict[str, Any]:
        answer, rules = asked.answer, self.rules
        return {
            "query_id": asked.query_id,
            "at": asked.at,
            "generation": answer.generation,
            "mode": answer.mode,
            "query": rules.text_of(answer.query),
            "query_hash": rules.hash_of(answer.query),
            "hits": json.dumps([hit.doc_id for hit in answer.hits[:MAX_HITS]]),
            "took_ms": answer.took_ms.total,
            "who": rules.who_of(asked.who),
        }
