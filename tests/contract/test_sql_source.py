"""A PostgreSQL table as a source: types and times that SQLite does not have."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from reindexer.sources import Rejected, Row, open_source
from reindexer.sources.positions import PartedSource


@pytest.fixture
def notes(postgresql_server_url: str) -> Iterator[sa.Engine]:
    url = sa.make_url(postgresql_server_url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "CREATE TABLE notes (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, text text, "
                "at timestamptz)"
            )
        )
    yield engine
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE notes"))
    engine.dispose()


def texts(rows: Iterator[Row | Rejected]) -> list[str]:
    return [row.document.text if isinstance(row, Row) else row.reason for row in rows]


def test_what_came_to_light_late_is_asked_for_again(
    notes: sa.Engine, postgresql_server_url: str
) -> None:
    """Rows that were stamped in the five minutes before the newest one are read again."""
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    with notes.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO notes (text, at) VALUES (:text, :at)"),
            [{"text": str(i), "at": noon + datetime.timedelta(minutes=i)} for i in (0, 50, 58, 60)],
        )
    source = open_source(postgresql_server_url, table="public.notes", updated_at="at")
    assert isinstance(source, PartedSource)
    (part,) = source.parts()

    assert texts(part.rows(None)) == ["0", "50", "58", "60"]
    ended = json.loads(json.dumps(part.position))
    assert texts(part.rows(ended)) == ["58", "60"]
    assert texts(part.rows({"keys": ended["keys"]})) == [], "a pass that stopped at the last row"
    assert part.location.endswith("#public.notes")
