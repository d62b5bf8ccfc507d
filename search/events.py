"""What was done to the generations, when and by whom."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from search import tables
from search.database import Database


class EventLog:
    """Events in the order in which they happened."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self,
        kind: str,
        generation: str | None,
        detail: Mapping[str, Any],
        *,
        who: str | None = None,
    ) -> None:
        """who: unless given, the user whose process this is."""
        with self._database.write() as connection:
            record_event(connection, kind, generation, detail, who)

    def newest(self, limit: int = 20, *, kind: str | None = None) -> Sequence[Mapping[str, Any]]:
        """The newest events first; of one kind if it is named."""
        newest = sa.select(tables.events).order_by(tables.events.c.id.desc()).limit(limit)
        if kind is not None:
            newest = newest.where(tables.events.c.kind == kind)
        with self._database.read() as connection:
            return [_event(row) for row in connection.execute(newest)]

    def after(self, event_id: int, limit: int = 100) -> Sequence[Mapping[str, Any]]:
        """What happened after an event, oldest first, each with its `id`."""
        events = tables.events
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(events).where(events.c.id > event_id).order_by(events.c.id).limit(limit)
            ).all()
        return [{"id": row.id, **_event(row)} for row in rows]

    def last_id(self) -> int:
        """0 when nothing has happened yet."""
        with self._database.read() as connection:
            return int(
                connection.execute(
                    sa.select(sa.func.coalesce(sa.func.max(tables.events.c.id), 0))
                ).scalar_one()
            )


def record_event(
    connection: sa.Connection,
    kind: str,
    generation: str | None,
    detail: Mapping[str, Any],
    who: str | None = None,
) -> None:
    """Within a transaction that writes. who: unless given, the user whose process this is."""
    connection.execute(
        sa.insert(tables.events).values(
            at=time.time(),
            kind=kind,
            generation=generation,
            who=who or local_user(),
            detail=json.dumps({key: value for key, value in detail.items() if value is not None}),
        )
    )


def local_user() -> str:
    """user@host of this process, as events name it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _event(row: Any) -> dict[str, Any]:
    return {
        "at": row.at,
        "kind": row.kind,
        "generation": row.generation,
        "who": row.who,
        **json.loads(row.detail),
    }
