"""A backup of one kind of database and store is restored into another, and back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reindexer.backup import make_backup
from reindexer.restore import restore
from tests.filled_directory import answers, state, sync
from tests.postgresql_server import postgresql_server
from tests.qdrant_server import QdrantServer
from tests.word_directory import WordDirectory


def test_a_backup_goes_from_sqlite_to_postgresql_and_back(
    origin: WordDirectory, kept: str, tmp_path: Path, postgresql_url: str
) -> None:
    expected = state(origin)
    elsewhere = str(tmp_path / "elsewhere")
    with WordDirectory(tmp_path / "on-postgresql", database_url=postgresql_url) as middle:
        restore(middle, kept)
        assert state(middle) == expected
        assert middle.build("word@5") == "docs@3", "numbers go on"
        middle.catalog.events.record("test", None, {})
        middle.catalog.move("docs@3", "retired")
        make_backup(middle, elsewhere)
    with WordDirectory(tmp_path / "back") as back:
        restore(back, elsewhere)
        assert state(back) == expected


@pytest.fixture(scope="module")
def postgresql_url() -> Iterator[str]:
    with postgresql_server() as url:
        yield url


def test_a_backup_goes_from_embedded_collections_to_a_qdrant_server_and_back(
    origin: WordDirectory, kept: str, tmp_path: Path
) -> None:
    expected, said = state(origin), answers(origin)
    elsewhere = str(tmp_path / "elsewhere")
    with (
        QdrantServer() as server,
        WordDirectory(tmp_path / "on-qdrant", store_kind="qdrant", store_url=server.url) as middle,
    ):
        restore(middle, kept)
        assert sync(middle) == 0, "vectors are restored, not encoded again"
        assert (state(middle), answers(middle)) == (expected, said)
        assert not list((middle.path / "collections").glob("*")), "they are on the server"
        middle.put("late", "a horse written on the server")
        assert sync(middle) == 2, "one document in two generations"
        written = state(middle), answers(middle)
        make_backup(middle, elsewhere)
    with WordDirectory(tmp_path / "back") as back:
        restore(back, elsewhere)
        assert sync(back) == 0
        assert (state(back), answers(back)) == written
        assert len(back.store.names()) == 2
