"""Schema and connections: what the SQL seam promises on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from search import tables
from search.corpus import Corpus
from search.database import SCHEMA_REVISION, Database, open_database, sqlite_url
from search.documents import Document
from search.errors import DatabaseError, DatabaseTooNew, DatabaseUnavailable


def test_the_migrations_make_the_tables_that_the_code_uses(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


def test_the_migrations_make_every_index_and_constraint(database: Database) -> None:
    """Autogenerate looks past the conditions of partial indexes; this does not."""
    migrated = _schema(database)
    with database.write() as connection:
        tables.metadata.drop_all(connection)
        tables.metadata.create_all(connection)

    assert _schema(database) == migrated
    assert "generations_one_live" in str(migrated)


def _schema(database: Database) -> dict[str, object]:
    inspector = sa.inspect(database.engine)
    return {
        table: {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "indexes": {
                index["name"]: (
                    index["column_names"],
                    bool(index["unique"]),
                    {key: str(value) for key, value in index["dialect_options"].items()},
                )
                for index in inspector.get_indexes(table)
            },
            "unique": sorted(
                str(unique["column_names"]) for unique in inspector.get_unique_constraints(table)
            ),
        }
        for table in sorted(tables.metadata.tables)
    }


def test_opening_again_changes_nothing(database: Database) -> None:
    Corpus(database).put([Document.of(doc_id="a", text="text")])
    database.migrate()

    assert database.revision() == SCHEMA_REVISION
    assert Corpus(database).count() == 1


def test_processes_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    script = (
        "import sys\n"
        "from search.corpus import Corpus\n"
        "from search.database import open_database\n"
        "from search.documents import Document\n"
        "corpus = Corpus(open_database(sys.argv[1]))\n"
        "corpus.put([Document.of(doc_id=sys.argv[2], text='text')])\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_database_url, f"d{i}"],
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(4)
    ]
    errors = [process.communicate(timeout=60)[1] for process in processes]

    assert [process.returncode for process in processes] == [0] * 4, errors
    database = Database(empty_database_url)
    assert database.revision() == SCHEMA_REVISION
    assert Corpus(database).head() == 4
    database.close()


def test_a_database_of_a_newer_release_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(DatabaseTooNew, match=f"schema 9999.*knows {SCHEMA_REVISION}.*upgrade"):
        open_database(database.url)


def test_two_live_generations_cannot_be_stored(database: Database) -> None:
    def insert(name: str, state: str) -> None:
        with database.write() as connection:
            connection.execute(
                sa.insert(tables.generations).values(
                    name=name,
                    state=state,
                    recipe="{}",
                    collection=name,
                    watermark=0,
                    created_at=0.0,
                    state_at=0.0,
                )
            )

    for name, state in (("docs@1", "retired"), ("docs@2", "retired"), ("docs@3", "live")):
        insert(name, state)
    with pytest.raises(DatabaseError):
        insert("docs@4", "live")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@127.0.0.1:1/name?application_name=x",
        "postgresql://me@127.0.0.1:1/name?password=s3cret",
        "postgres://me:s3cret@127.0.0.1:1/name",
        "postgresql://me:s3cret@127.0.0.1:notaport/name",
        "postgresql:/me:s3cret@127.0.0.1/name",
        "mysql://me:s3cret@127.0.0.1/name",
        "s3cret",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    with pytest.raises(DatabaseError) as caught:
        open_database(url)

    message = str(caught.value)
    assert "s3cret" not in message.replace("starts with 's3cret'", "")
    assert "postgres" in message


def test_a_server_that_is_not_there_is_said_so() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1.*refused.*check that it is"):
        open_database("postgresql://me@127.0.0.1:1/name")


@pytest.mark.parametrize(
    "change", ["DROP TABLE votes", "ALTER TABLE votes RENAME COLUMN better TO best"]
)
def test_tables_of_another_release_are_said_to_be_that(database: Database, change: str) -> None:
    with database.write() as connection:
        connection.execute(sa.text(change))

    with pytest.raises(DatabaseError) as caught, database.read() as connection:
        connection.execute(sa.select(tables.votes)).all()

    assert type(caught.value) is DatabaseError  # trying again would not help
    message = str(caught.value)
    assert "votes" in message
    assert f"expected the tables of schema {SCHEMA_REVISION}" in message
    assert "run `reindexer doctor`" in message


def test_a_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match=r"unable to open.*check that the folder exists"):
        open_database(sqlite_url(tmp_path / "missing" / "reindexer.db"))


def test_a_file_that_is_no_database_is_said_so(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("these are notes, not a database " * 100)

    with pytest.raises(DatabaseError, match=r"notes\.db.*not a database.*something else"):
        open_database(sqlite_url(path))


@pytest.mark.parametrize("name", ["what?", "50% done", "a#b", "ü ñ", "a'b\"c"])
def test_any_path_can_hold_the_database(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    path = tmp_path / name / "reindexer.db"

    database = open_database(sqlite_url(path))
    Corpus(database).put([Document.of(doc_id="a", text="text")])
    database.close()

    assert path.stat().st_size > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_a_lock_that_is_kept_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.database.LOCK_WAIT_S", 0.1)
    database = open_database(sqlite_url(tmp_path / "reindexer.db"))
    other = open_database(database.url)

    with database.write(), pytest.raises(DatabaseUnavailable, match="another process kept it"):
        Corpus(other).put([Document.of(doc_id="a", text="text")])
    assert Corpus(other).put([Document.of(doc_id="a", text="text")]).added == 1
    database.close()
    other.close()
