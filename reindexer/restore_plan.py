"""Which rows a restored database differs in from the one that was backed up, and why.

Collections get names that are free. A generation whose vectors are not there is replayed from the
beginning. Nobody holds a lease, and tokens go on above all that were ever given out: a process of
the old installation that wakes up cannot write.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from reindexer.backup_folder import Backup, StoredCollection
from search.generations import UNFINISHED
from search.recipe import Recipe
from search.table_rows import Row

_AGAIN = "restored from a backup without its collection; it begins again"
_EMPTY_BUILD = {"docs_done": 0, "passages": 0, "encoded": 0, "reused": 0, "wanted": None}


class RestorePlan:
    """Made from the rows of `generations`; changes rows on their way into the database."""

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Row], backup: Backup, *, collections: bool
    ) -> None:
        """collections: whether vectors are restored where the backup has them."""
        self._rows = {
            str(value["name"]): value
            for value in (dict(zip(columns, row, strict=True)) for row in rows)
        }
        answering = [
            name
            for name, row in self._rows.items()
            if row["state"] in ("live", "standby")
            or (row["state"] == "ready" and collections and name in backup.collections)
        ]
        self.stored: dict[str, StoredCollection | None] = {
            name: backup.collections.get(name) if collections else None for name in answering
        }
        self._collections: dict[str, str] = {}
        self._changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "generations": self._generation,
            "builds": self._build,
            "leases": _lease,
        }

    @property
    def to_encode(self) -> list[str]:
        """Generations whose vectors replay makes."""
        return [name for name, stored in self.stored.items() if stored is None]

    def recipe(self, generation: str) -> Recipe:
        return Recipe.from_json(self._rows[generation]["recipe"])

    def name_collections(self, there: Collection[str]) -> dict[str, str]:
        """A physical name for each collection that is made, none of them taken."""
        for name in self.stored:
            wanted = f"docs-{name.rpartition('@')[2]}"
            free = wanted if wanted not in there else f"{wanted}-{secrets.token_hex(4)}"
            self._collections[name] = free
        return dict(self._collections)

    def changed(self, table: str, columns: Sequence[str], rows: Sequence[Row]) -> Sequence[Row]:
        """The rows as they go into the database."""
        change = self._changes.get(table)
        if change is None:
            return rows
        values = (change(dict(zip(columns, row, strict=True))) for row in rows)
        return [[value[column] for column in columns] for value in values]

    def _generation(self, row: dict[str, Any]) -> dict[str, Any]:
        name = row["name"]
        if name in self.stored:
            stored = self.stored[name]
            return row | {
                "collection": self._collections[name],
                "watermark": stored.watermark if stored is not None else 0,
            }
        if self._begins_again(name):
            return row | {"state": "building", "watermark": 0, "state_at": time.time()}
        return row

    def _build(self, row: dict[str, Any]) -> dict[str, Any]:
        if not self._begins_again(row["generation"]):
            return row
        return row | {"state": "failed", "reason": _AGAIN, "updated_at": time.time()} | _EMPTY_BUILD

    def _begins_again(self, generation: str) -> bool:
        """Not finished when it was backed up, or finished and left out."""
        state = self._rows[generation]["state"] if generation in self._rows else None
        return state in UNFINISHED or (state == "ready" and generation not in self.stored)


def _lease(row: dict[str, Any]) -> dict[str, Any]:
    token = max(int(row["token"]), int(time.time()))  # nobody takes a lease once a second for ever
    return row | {"holder": "", "expires_at": 0.0, "token": token}
