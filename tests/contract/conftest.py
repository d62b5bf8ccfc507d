"""Databases for the contract tests of the SQL seam: SQLite, and a real PostgreSQL."""

from __future__ import annotations

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


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table, once on SQLite and once on PostgreSQL."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "reindexer.db")
        return
    server_url = sa.make_url(request.getfixturevalue("postgresql_server_url"))
    name = f"reindexer_test_{next(_numbers)}"
    server = sa.create_engine(
        server_url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield server_url.set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def database(empty_database_url: str) -> Iterator[Database]:
    """A fresh database with the schema of this release."""
    database = open_database(empty_database_url)
    yield database
    database.close()
