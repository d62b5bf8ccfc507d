"""The one seam to SQL: tables, engine, transactions, migrations. SQLite (WAL) or PostgreSQL."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from search.errors import DatabaseError, DatabaseTooNew, DatabaseUnavailable

SCHEMA_REVISION = "0002"
LOCK_WAIT_S = 60.0
POOL_SIZE = 5  # connections of one process to PostgreSQL that stay open
BURST_SIZE = 10  # and as many more while they are needed
STATEMENT_TIMEOUT_S = 300.0  # on PostgreSQL
IDLE_TIMEOUT_S = 60.0  # in an open transaction: whoever stands still there holds everybody up
WRITE_CACHE_KIB = 65_536  # SQLite's own cache; a transaction that outgrows it is written twice
READ_CACHE_KIB = 4_096
_MIGRATION_LOCK = 727_413_001  # PostgreSQL advisory lock; any number that nobody else uses

metadata = sa.MetaData()

# The last seq that was handed out. Every writer updates this one row inside its transaction, so
# writers commit in the order of their seqs and no reader sees n+1 before n.
corpus_head = sa.Table(
    "corpus_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("doc_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),  # "" for a tombstone
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),  # canonical JSON object
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Float),  # Unix seconds; null for rows of the first schema
    sa.Index("documents_seq", "seq", "deleted", unique=True),
    sa.Index("documents_source", "source", "doc_id"),
)

# How far a source has been read, so that one that stopped half-way goes on there.
positions = sa.Table(
    "positions",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("location", sa.Text, primary_key=True),  # file, table, ...; without credentials
    sa.Column("version", sa.Text, nullable=False),  # of what lies there, and of how it is read
    sa.Column("position", sa.Text, nullable=False),  # JSON object
    sa.Column("finished", sa.Boolean, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),  # rows, up to the position
    sa.Column("updated_at", sa.Float, nullable=False),  # Unix seconds
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # docs@7
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),  # JSON
    sa.Column("collection", sa.Text, nullable=False),  # physical name in the dense store
    sa.Column("watermark", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),  # Unix seconds, UTC
    sa.Column("state_at", sa.Float, nullable=False),
    sa.Column("verified", sa.Text),  # JSON of the last verification
)
# At most one live and one standby generation, whatever the code does.
sa.Index(
    "generations_one_live",
    generations.c.state,
    unique=True,
    sqlite_where=generations.c.state == "live",
    postgresql_where=generations.c.state == "live",
)
sa.Index(
    "generations_one_standby",
    generations.c.state,
    unique=True,
    sqlite_where=generations.c.state == "standby",
    postgresql_where=generations.c.state == "standby",
)

searchers = sa.Table(
    "searchers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # host:pid:nonce
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("generation", sa.Text),  # answering from
    sa.Column("prepared", sa.Text),  # loaded, warmed and caught up, ready to switch to
    sa.Column("problem", sa.Text),  # why it cannot prepare
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    # Of the queries it answered in the last seconds; null when there were none.
    sa.Column("queries_per_s", sa.Float),
    sa.Column("p50_ms", sa.Float),
    sa.Column("p99_ms", sa.Float),
    sa.Column("request", sa.BigInteger),  # token of the cut-over that prepared and problem speak of
)

# The switch that is under way, if one is: one row at most.
cutover = sa.Table(
    "cutover",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("expected_live", sa.Text),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("generation", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False),  # running paused failed cancelled done
    sa.Column("reason", sa.Text),
    sa.Column("wanted", sa.Text),  # pause | cancel, asked for by somebody
    sa.Column("start_head", sa.BigInteger, nullable=False),  # corpus head when it was recorded
    sa.Column("docs_done", sa.BigInteger, nullable=False),
    sa.Column("docs_total", sa.BigInteger, nullable=False),
    sa.Column("passages", sa.BigInteger, nullable=False),
    sa.Column("encoded", sa.BigInteger, nullable=False),
    sa.Column("reused", sa.BigInteger, nullable=False),
    sa.Column("docs_per_s", sa.Float, nullable=False),
    sa.Column("busy_s", sa.Float, nullable=False),  # time spent working, over all its runs
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("stages", sa.Text),  # JSON: seconds spent per stage, over all its runs
    sa.Column("pace", sa.Float),  # share [0..1] of full speed that the governor leaves it
    sa.Column("pace_reason", sa.Text),
    sa.Column("tokens", sa.BigInteger),  # encoded, over all its runs
    sa.Column("batches", sa.BigInteger),  # that they were encoded in
    sa.Column("actors", sa.Integer),  # wanted by somebody while it runs; null: as the settings say
)

# Ranges of seq of one build that are encoded side by side; gone once all of them are done.
chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("build_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("after_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("until_seq", sa.BigInteger, nullable=False),
    sa.Column("done_at", sa.Float),  # null: not done
    sa.Index("chunks_left", "build_id", "done_at", "after_seq"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),  # host:pid:start time of the process
    sa.Column("token", sa.BigInteger, nullable=False),  # grows with every change of hands
    sa.Column("expires_at", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("generation", sa.Text),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON
)

# Work that was asked for and that a worker does: one row a request.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),  # JSON object
    sa.Column("state", sa.Text, nullable=False),  # queued running done failed cancelled
    sa.Column("who", sa.Text, nullable=False),  # asked for it
    sa.Column("holder", sa.Text),  # the process that does it
    sa.Column("token", sa.BigInteger),  # of that process's lease
    sa.Column("child", sa.Text),  # the process that it started for the work
    sa.Column("log", sa.Text),  # file with what that process says
    sa.Column("attempts", sa.Integer, nullable=False),  # since it last got ahead
    sa.Column("not_before", sa.Float),  # Unix seconds; when it is tried again
    sa.Column("reason", sa.Text),  # why it failed, or waits
    sa.Column("result", sa.Text),  # JSON object
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Index("jobs_state", "state", "id"),
)

# What is done again and again, and when it was last asked for.
schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # of the job
    sa.Column("arguments", sa.Text, nullable=False),  # JSON object
    sa.Column("trigger", sa.Text, nullable=False),  # "every 300s" or five cron fields
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("last_at", sa.Float),
    sa.Column("created_at", sa.Float, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the public part of the key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),  # SHA-256 of the secret part
    sa.Column("scopes", sa.Text, nullable=False),  # JSON list
    sa.Column("rate_limit", sa.Text),  # "600/minute"; null for the default
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)

query_log = sa.Table(
    "query_log",
    metadata,
    sa.Column("query_id", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("generation", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("query", sa.Text),  # null when the settings drop it
    sa.Column("query_hash", sa.Text, nullable=False),
    sa.Column("hits", sa.Text, nullable=False),  # JSON list of doc_ids, best first
    sa.Column("took_ms", sa.Float, nullable=False),
    sa.Column("who", sa.Text),  # hashed, or null when the settings drop it
    sa.Index("query_log_at", "at"),
)

# Clicks, thumbs and judgments of what a query brought.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("query_id", sa.Text, nullable=False),
    sa.Column("doc_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # click | judgment
    sa.Column("value", sa.Float, nullable=False),  # 1 for a click; the grade of a judgment
    sa.Column("position", sa.Integer),  # rank it was shown at, from 1
    sa.Column("who", sa.Text),
    sa.Index("feedback_query", "query_id"),
    sa.Index("feedback_at", "at"),
)

# Which of two generations a person found better for a query.
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("one", sa.Text, nullable=False),  # generation
    sa.Column("other", sa.Text, nullable=False),  # generation
    sa.Column("better", sa.Text),  # the generation that was better; null for neither
    sa.Column("who", sa.Text, nullable=False),
)


class Database:
    """An engine with our rules: one write lock at a time on SQLite, our errors, our migrations."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = POOL_SIZE,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
    ) -> None:
        """pool_size: connections that this process keeps. statement_timeout_s: the longest that
        one statement may take; 0 for no limit. Both are for PostgreSQL."""
        self.url = url
        self._is_sqlite = url.startswith("sqlite")
        self.engine = _engine(url, pool_size, statement_timeout_s)

    @property
    def is_sqlite(self) -> bool:
        return self._is_sqlite

    @contextlib.contextmanager
    def read(self, *, slow: bool = False) -> Iterator[sa.Connection]:
        """A consistent snapshot to read from. Keep it short, or say that it is slow: no time-out
        ends it then."""
        with _mapped_errors(self.url), self.engine.connect() as connection:
            if not self._is_sqlite:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                if slow:
                    self._lift_timeouts(connection)
                yield connection

    @contextlib.contextmanager
    def write(self, *, slow: bool = False) -> Iterator[sa.Connection]:
        """A transaction that may write; commits when the block ends without an error. slow: no
        time-out ends it."""
        with _mapped_errors(self.url), self.engine.connect() as connection:
            if self._is_sqlite:
                connection = connection.execution_options(reindexer_immediate=True)
            with connection.begin():
                if slow:
                    self._lift_timeouts(connection)
                yield connection

    def _lift_timeouts(self, connection: sa.Connection) -> None:
        """Until the transaction ends."""
        if not self._is_sqlite:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    def upsert(self, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
        """INSERT for this dialect, with on_conflict_do_update."""
        return sqlite.insert(table) if self._is_sqlite else postgresql.insert(table)

    def prepare(self, select: sa.Select[Any]) -> PreparedSelect:
        """One SELECT for what a user waits for."""
        return PreparedSelect(self, select)

    def one_of(self, column: sa.ColumnElement[str], parameter: str) -> sa.ColumnElement[bool]:
        """Condition of a PreparedSelect: the column is one of the texts in a parameter that is a
        list. One statement serves lists of any length."""
        if self._is_sqlite:
            items = sa.func.json_each(sa.bindparam(parameter)).table_valued("value")
            return column.in_(sa.select(items.c.value))
        return column == sa.any_(sa.bindparam(parameter, type_=postgresql.ARRAY(sa.Text)))

    def copy_in(
        self,
        connection: sa.Connection,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
    ) -> None:
        """Rows into a table of PostgreSQL, by COPY: the quickest way in for more than a few."""
        names = ", ".join(f'"{column}"' for column in columns)
        sql = f'COPY "{table}" ({names}) FROM STDIN'
        driver: Any = connection.connection.driver_connection
        try:
            with driver.cursor() as cursor, cursor.copy(sql) as copy:
                for row in rows:
                    copy.write_row(row)
        except self._driver_error as error:
            raise self._wrapped(sql, None, error) from error

    def migrate(self, *, revision: str = "head") -> None:
        """Bring the schema to this release. Quick when it already is; safe to call at every start
        and from several processes at once. revision: an older one, for rows that are of it."""
        with self.read() as connection:
            if _is_current(connection, self.url):
                return
        from alembic import command
        from alembic.config import Config

        config = Config()
        migrations = str(Path(__file__).parent / "migrations")
        config.set_main_option("script_location", migrations.replace("%", "%%"))
        with self.write(slow=True) as connection:
            if not self._is_sqlite:
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            if not _is_current(connection, self.url):  # another process may have been quicker
                config.attributes["connection"] = connection
                command.upgrade(config, revision)

    def revision(self) -> str | None:
        """The schema revision in the database; None for an empty one."""
        with self.read() as connection:
            return _revision(connection)

    def close(self) -> None:
        self.engine.dispose()

    @property
    def _driver_error(self) -> type[Exception]:
        return self.engine.dialect.loaded_dbapi.Error

    def _wrapped(self, sql: str, values: Any, error: Exception) -> Exception:
        """An error that came past SQLAlchemy, as SQLAlchemy would have raised it."""
        return sa.exc.DBAPIError.instance(
            sql, values, error, self._driver_error, dialect=self.engine.dialect
        )


class PreparedSelect:
    """One SELECT, rendered once and handed to the driver as it is: a third of the time it takes
    through `Database.read`. One statement is a consistent snapshot by itself."""

    def __init__(self, database: Database, select: sa.Select[Any]) -> None:
        self._database = database
        self.sql = str(select.compile(dialect=database.engine.dialect))

    def values(self, **parameters: object) -> dict[str, object]:
        """The parameters as the driver takes them."""
        if not self._database.is_sqlite:
            return parameters
        return {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for name, value in parameters.items()
        }

    def rows(self, **parameters: object) -> list[tuple[Any, ...]]:
        """Tuples of what the driver gives: on SQLite, 0 and 1 for booleans."""
        values = self.values(**parameters)
        with _mapped_errors(self._database.url):
            try:
                with contextlib.closing(self._database.engine.raw_connection()) as connection:
                    cursor = connection.cursor()
                    cursor.execute(self.sql, values)
                    return list(cursor.fetchall())
            except self._database._driver_error as error:
                raise self._database._wrapped(self.sql, values, error) from error


def open_database(
    url: str,
    *,
    pool_size: int = POOL_SIZE,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
) -> Database:
    """Connect and migrate. Raises DatabaseUnavailable or DatabaseTooNew."""
    database = Database(url, pool_size=pool_size, statement_timeout_s=statement_timeout_s)
    try:
        database.migrate()
    except BaseException:
        database.close()
        raise
    return database


def sqlite_url(path: Path) -> str:
    """The URL of a database file; any character may be in the path."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    value = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return str(value) if value is not None else None


def _is_current(connection: sa.Connection, url: str) -> bool:
    """Raises DatabaseTooNew on a revision that this release does not know."""
    revision = _revision(connection)
    if revision is not None and revision > SCHEMA_REVISION:
        raise DatabaseTooNew(
            f"database {_shown(url)} has schema {revision}, this release knows {SCHEMA_REVISION}; "
            "upgrade reindexer, or restore the backup made before the newer release ran"
        )
    return revision == SCHEMA_REVISION


def _engine(url: str, pool_size: int, statement_timeout_s: float) -> sa.Engine:
    if url.startswith("sqlite"):
        return _sqlite_engine(url)
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise DatabaseError(
            f"the database URL starts with {scheme[:20]!r}; expected sqlite:///path/to/file.db or "
            "postgresql://user:password@host/name"
        )
    try:
        engine = sa.create_engine(
            f"postgresql+psycopg://{rest}",
            isolation_level="READ COMMITTED",  # a writer that waited sees what it waited for
            pool_size=pool_size,
            max_overflow=BURST_SIZE,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 10},
        )
    except ImportError as error:
        raise DatabaseError(
            "PostgreSQL needs the psycopg driver, which is not installed; "
            "run: pip install 'reindexer[postgres]'"
        ) from error
    except (sa.exc.ArgumentError, ValueError):  # its message may hold the password
        raise DatabaseError(
            "the database URL cannot be read; expected postgresql://user:password@host:port/name, "
            "with special characters of the password percent-encoded"
        ) from None

    @sa.event.listens_for(engine, "connect")
    def _set_timeouts(connection: Any, _record: Any) -> None:
        for name, seconds in (
            ("statement_timeout", statement_timeout_s),
            ("idle_in_transaction_session_timeout", IDLE_TIMEOUT_S),
        ):
            connection.execute(f"SET {name} = {round(1_000 * seconds)}")
        connection.commit()

    return engine


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, connect_args={"timeout": LOCK_WAIT_S}, paramstyle="named")

    @sa.event.listens_for(engine, "connect")
    def _set_pragmas(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we send BEGIN ourselves, below
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",  # an acknowledged write survives a power cut
            "foreign_keys = ON",
            "temp_store = FILE",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        immediate = connection.get_execution_options().get("reindexer_immediate")
        # Reading through a corpus must not fill the memory with it: the system caches the file.
        kib = WRITE_CACHE_KIB if immediate else READ_CACHE_KIB
        connection.exec_driver_sql(f"PRAGMA cache_size = -{kib}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _shown(url: str) -> str:
    """The URL without its password and its options, which may hold one too."""
    return sa.engine.make_url(url).set(query={}).render_as_string(hide_password=True)


_ADVICE = {
    "statement timeout": "set database.statement_timeout_s higher, or see what keeps it waiting",
    "idle-in-transaction": "this process stood still in the middle of a transaction; try again",
    "locked": f"another process kept it locked for {LOCK_WAIT_S:.0f} s; try again",
    "busy": f"another process kept it locked for {LOCK_WAIT_S:.0f} s; try again",
    "unable to open": "check that the folder exists and that you may write to it",
    "readonly": "check that you may write to the file and to its folder",
    "malformed": "the file is damaged; restore a backup",
    "not a database": "the file is something else; name another one",
    "disk": "free some disk space and try again; nothing was stored half",
    "full": "free some disk space and try again; nothing was stored half",
}


@contextlib.contextmanager
def _mapped_errors(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = " ".join(str(error.orig).split())
        if _is_of_another_schema(error, cause):
            raise DatabaseError(other_schema(_shown(url), cause)) from error
        advice = next((text for word, text in _ADVICE.items() if word in cause), None)
        if isinstance(error, sa.exc.OperationalError) or "idle-in-transaction" in cause:
            advice = advice or "check that it is running, that the URL is right, and your rights"
            raise DatabaseUnavailable(f"database {_shown(url)}: {cause}; {advice}") from error
        message = f"database {_shown(url)}: {cause}"
        raise DatabaseError(f"{message}; {advice}" if advice else message) from error
    except sa.exc.TimeoutError as error:
        raise DatabaseUnavailable(
            f"database {_shown(url)}: all connections of this process stayed in use; "
            "ask for less at once, or try again"
        ) from error


_SQLITE_SCHEMA_ERRORS = ("no such table", "no such column", "has no column named")
_POSTGRESQL_SCHEMA_ERRORS = ("42P01", "42703")  # undefined_table, undefined_column


def _is_of_another_schema(error: sa.exc.DBAPIError, cause: str) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return state in _POSTGRESQL_SCHEMA_ERRORS or any(
        said in cause for said in _SQLITE_SCHEMA_ERRORS
    )


def other_schema(where: str, cause: str) -> str:
    """What to say of a database whose tables are not those that this release has made."""
    return (
        f"database {where}: {cause}; expected the tables of schema {SCHEMA_REVISION}, which this "
        "release makes when it opens a database. Another release uses this one too, or it was "
        "emptied meanwhile: stop every process that uses it and run `reindexer doctor`; what is "
        "gone comes back with `reindexer restore PLACE`"
    )
