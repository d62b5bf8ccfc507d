"""What PostgreSQL has to be for a corpus of millions: read by indexes, in short transactions, with
a limit on what may keep others waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from reindexer.settings import Settings
from reindexer.status import _status
from search import corpus as corpus_module
from search import database as database_module
from search.corpus import Corpus
from search.database import Database, open_database
from search.documents import Document
from search.errors import DatabaseUnavailable

N_DOCS = 6_000
Statement = tuple[str, Any]


@pytest.fixture(scope="module")
def database(postgresql_server_url: str) -> Iterator[Database]:
    server_url = sa.make_url(postgresql_server_url)
    server = sa.create_engine(
        server_url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT"
    )
    with server.connect() as connection:
        connection.execute(sa.text("CREATE DATABASE reindexer_size"))
    url = server_url.set(database="reindexer_size").render_as_string(hide_password=False)
    database = open_database(url, pool_size=2)
    corpus = Corpus(database)
    corpus.put([document(i) for i in range(N_DOCS)])
    corpus.delete([f"d{i}" for i in range(0, N_DOCS, 50)])
    with database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            sa.text("VACUUM ANALYZE")
        )
    yield database
    database.close()
    with server.connect() as connection:
        connection.execute(sa.text("DROP DATABASE reindexer_size WITH (FORCE)"))
    server.dispose()


def document(i: int, text: str = "text") -> Document:
    return Document(doc_id=f"d{i}", text=f"{text} {i} " * 40, source=f"s{i % 3}")


# -- indexes ---------------------------------------------------------------------------------------


def replay(corpus: Corpus) -> object:
    return [
        corpus.changes(3_000, 200),
        corpus.changes(3_000, 200, until=5_000),
        next(corpus.identities(batch=200)),
        next(corpus.identities(until=5_000, batch=200)),
    ]


def sync(corpus: Corpus) -> object:
    return corpus.head(), corpus.lag(N_DOCS - 20), corpus.changes(N_DOCS - 20, 200)


def missing(corpus: Corpus) -> object:
    return next(corpus.doc_ids("s1", batch=200)), corpus.sources()


def small_write(corpus: Corpus) -> object:
    return corpus.put([document(7, "edited")]), corpus.delete(["d8"], source="s2", until=9)


def large_write(corpus: Corpus) -> object:
    return corpus.put([document(i, "edited") for i in range(100, 160)])


@pytest.mark.parametrize("work", [replay, sync, missing, small_write, large_write])
def test_no_work_scans_the_corpus(
    database: Database, work: Callable[[Corpus], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus_module, "_COPY_FROM_ROWS", 50)
    statements = statements_of(database, lambda: work(Corpus(database)))

    read = [statement for statement in statements if "documents" in statement[0]]
    assert read
    for sql, parameters in read:
        if not sql.startswith("CREATE"):
            assert_uses_index(database, sql, parameters)


def test_hydration_does_not_scan_the_corpus(database: Database) -> None:
    live = Corpus(database)._live_documents  # what get_many runs, past the engine's events
    assert_uses_index(database, live.sql, live.values(doc_ids=[f"d{i}" for i in range(100)]))


def test_status_does_not_scan_the_corpus(database: Database) -> None:
    statements: list[str] = []

    def rows(sql: str) -> list[dict[str, Any]]:
        statements.append(sql)
        with database.read() as connection:
            return [dict(row) for row in connection.exec_driver_sql(sql).mappings()]

    _status(Settings(database_url=database.url), rows, 5)

    read = [sql for sql in statements if "documents" in sql]
    assert read
    for sql in read:
        assert_uses_index(database, sql, None)


def statements_of(database: Database, work: Callable[[], object]) -> list[Statement]:
    statements: list[Statement] = []

    def note(
        _connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, many: bool
    ) -> None:
        statements.append((sql, parameters[0] if many else parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    work()
    sa.event.remove(database.engine, "before_cursor_execute", note)
    return statements


def assert_uses_index(database: Database, sql: str, parameters: Any) -> None:
    with database.write() as connection:
        if "incoming" in sql:  # the rows that are about to replace others
            connection.execute(corpus_module._MAKE_INCOMING)
            connection.exec_driver_sql("INSERT INTO incoming SELECT * FROM documents LIMIT 60")
            # Of so few documents a scan is quicker; of millions, there is an index to be used.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        rows = connection.exec_driver_sql(f"EXPLAIN {sql}", parameters)
        plan = "\n".join(str(row[0]) for row in rows)
        connection.rollback()
    assert "Seq Scan on documents" not in plan, f"{sql}\n{plan}"


# -- transactions ----------------------------------------------------------------------------------


def test_a_reader_has_no_transaction_open_between_its_pages(database: Database) -> None:
    corpus = Corpus(database)
    other = sa.create_engine(
        sa.make_url(database.url).set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool
    )
    for reading in (corpus.identities(batch=100), corpus.doc_ids("s1", batch=100)):
        for _ in range(150):
            next(reading)
        with other.connect() as connection:
            n_open = connection.execute(
                sa.text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                    "AND state LIKE 'idle in transaction%'"
                )
            ).scalar_one()
        assert n_open == 0


def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    hurried = Database(database.url, statement_timeout_s=0.1)
    with (
        pytest.raises(DatabaseUnavailable, match=r"statement timeout.*database\.statement_timeout"),
        hurried.read() as connection,
    ):
        connection.execute(sa.text("SELECT pg_sleep(5)"))
    with hurried.read(slow=True) as connection:
        connection.execute(sa.text("SELECT pg_sleep(0.15)"))
    with hurried.read() as connection:  # the limit is back, on the same connection
        shown = connection.execute(sa.text("SHOW statement_timeout")).scalar_one()
    assert shown == "100ms"
    hurried.close()


def test_a_writer_that_stands_still_lets_the_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped in the middle of a write holds the head of the corpus."""
    monkeypatch.setattr(database_module, "IDLE_TIMEOUT_S", 0.2)
    still = Database(database.url)

    def stand_still() -> None:
        with still.write() as connection:
            connection.execute(sa.text("SELECT seq FROM corpus_head FOR UPDATE"))
            began = time.monotonic()
            Corpus(database).put([document(N_DOCS + 1)])  # waits for it
            assert 0.1 < time.monotonic() - began < 5
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable, match="stood still"):
        stand_still()
    still.close()


def test_the_pool_is_as_large_as_it_was_set(database: Database) -> None:
    assert database.engine.pool.size() == 2  # type: ignore[attr-defined]
