"""Databases for the contract tests of the SQL seam: SQLite, and a real PostgreSQL."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.database import Database, open_database, sqlite_url
from tests.postgresql_server import postgresql_server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgresql_server_url() -> Iterator[str]:
    """A PostgreSQL server of its own for the whole run; skips where there is no build of it."""
    with postgresql_server() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_database(postgresql_server_url: str) -> Iterator[str]:
    """The name of one on that server with the schema of this release, to make copies of."""
    with _postgresql_database(postgresql_server_url) as url:
        open_database(url).close()
        yield str(sa.make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "reindexer.db")
        return
    with _postgresql_database(request.getfixturevalue("postgresql_server_url")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A fresh database with the schema of this release."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            url = sqlite_url(tmp_path / "reindexer.db")
        else:
            server_url = request.getfixturevalue("postgresql_server_url")
            template = request.getfixturevalue("migrated_database")
            url = stack.enter_context(_postgresql_database(server_url, template))
        yield stack.enter_context(contextlib.closing(open_database(url)))


@contextlib.contextmanager
def _postgresql_database(server_url: str, template: str = "template1") -> Iterator[str]:
    server = sa.create_engine(
        sa.make_url(server_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    name = f"reindexer_test_{next(_numbers)}"
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()
