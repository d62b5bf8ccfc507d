"""The processes that answer queries, as each describes itself to the others."""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from search import tables
from search.database import Database
from search.processes import process_may_live
from search.query_times import QueryLoad

SEARCHER_LEASE_S = 5.0  # a serving process that was not seen for so long no longer counts

_SERVING = (
    sa.select(tables.searchers)
    .where(tables.searchers.c.seen_at > sa.bindparam("since", type_=sa.Float))
    .order_by(tables.searchers.c.name)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServingProcess:
    """A process that answers queries, as it described itself in its last heartbeat."""

    name: str
    address: str
    generation: str | None  # answers come from here
    prepared: str | None  # loaded, warmed and caught up: can switch to it at once
    problem: str | None  # why it cannot prepare
    seen_at: float  # Unix seconds
    request: int | None = None  # token of the cut-over that prepared and problem speak of
    load: QueryLoad | None = None  # of its last seconds; None when nobody asked


class ServingProcesses:
    """A row for each, renewed by its heartbeats."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._select = database.prepare(_SERVING)

    def heartbeat(
        self,
        name: str,
        *,
        address: str,
        generation: str | None,
        prepared: str | None,
        problem: str | None,
        request: int | None = None,
        load: QueryLoad | None = None,
    ) -> None:
        now = time.time()
        values = {
            "address": address,
            "generation": generation,
            "prepared": prepared,
            "problem": problem,
            "request": request,
            "seen_at": now,
            "queries_per_s": load.queries_per_s if load is not None else None,
            "p50_ms": load.p50_ms if load is not None else None,
            "p99_ms": load.p99_ms if load is not None else None,
        }
        with self._database.write() as connection:
            connection.execute(
                self._database.upsert(tables.searchers)
                .values(name=name, started_at=now, **values)
                .on_conflict_do_update(index_elements=["name"], set_=values)
            )

    def leave(self, name: str) -> None:
        """A serving process says that it stops."""
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.searchers).where(tables.searchers.c.name == name))

    def seen(self) -> list[ServingProcess]:
        """Processes seen within their lease; those that died on this host are left out at once."""
        return [
            ServingProcess(
                name=row.name,
                address=row.address,
                generation=row.generation,
                prepared=row.prepared,
                problem=row.problem,
                request=row.request,
                seen_at=row.seen_at,
                load=None
                if row.p99_ms is None
                else QueryLoad(
                    queries_per_s=row.queries_per_s, p50_ms=row.p50_ms, p99_ms=row.p99_ms
                ),
            )
            for row in self._select.rows(since=time.time() - SEARCHER_LEASE_S)
            if process_may_live(row.name)
        ]
