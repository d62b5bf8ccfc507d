"""The selftest's own corner of a store and a database: apart from everything else, then gone."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from reindexer.selftest import verbs
from reindexer.selftest.digest import differences, take_digest
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.texts import documents
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search.database import Database
from tests.qdrant_server import QdrantServer

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]


def test_a_sandbox_leaves_an_installation_as_it_was(
    empty_database_url: str, tmp_path: Path
) -> None:
    with QdrantServer() as server:
        own = Settings(
            data_dir=tmp_path / "data",
            database_url=empty_database_url,
            store_kind="qdrant",
            store_url=server.url,
            store_grpc="off",
            store_prefix="ours-",
            language="none",
            device="cpu",
        )
        with WordDirectory(own) as data:
            data.corpus.put(list(documents(range(20))))
            verbs.go_live(data, verbs.build(data, "word@1"))
            before = take_digest(data)

            with sandbox(own) as settings, WordDirectory(settings) as inner:
                assert inner.corpus.count() == 0
                inner.corpus.put(list(documents(range(100, 130))))
                verbs.go_live(inner, verbs.build(inner, "word@2"))
                assert inner.store.alias() == "docs-1"
                assert [name for name in data.store.names() if "selftest" in name]

            assert differences(take_digest(data), before) == []
            assert data.store.names() == ["docs-1"]
            assert data.store.alias() == "docs-1"
    assert _schemas(empty_database_url) <= {"public", "main"}
    assert [path.name for path in tmp_path.rglob(".selftest-*")] == []


def _schemas(url: str) -> set[str]:
    database = Database(url)
    names = {
        name
        for name in sa.inspect(database.engine).get_schema_names()
        if not name.startswith(("pg_", "information"))
    }
    database.close()
    return names
