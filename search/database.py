"""The one seam to SQL: engine, transactions, migrations. SQLite (WAL) or PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import namedtuple
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
_LEAST_FREE_BYTES = 65_536  # with less free, SQLite may be unable to open a database
_MIGRATION_LOCK = 727_413_001  # PostgreSQL advisory lock; any number that nobody else uses


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

    @property
    def file(self) -> Path | None:
        """Of SQLite; None for a server."""
        name = self.engine.url.database if self._is_sqlite else None
        return Path(name) if name else None

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

    def prepare(self, select: sa.SelectBase) -> PreparedSelect:
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

    def __init__(self, database: Database, select: sa.SelectBase) -> None:
        self._database = database
        self._row: Any = namedtuple("Row", select.selected_columns.keys())  # type: ignore[misc]
        compiled = select.compile(dialect=database.engine.dialect)
        self._constants = compiled.params  # of the statement itself; None for its parameters
        self.sql = str(compiled)

    def values(self, **parameters: object) -> dict[str, object]:
        """The parameters as the driver takes them."""
        values = {**self._constants, **parameters}
        if not self._database.is_sqlite:
            return values
        return {
            name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
            for name, value in values.items()
        }

    def rows(self, **parameters: object) -> list[Any]:
        """Named tuples of what the driver gives: on SQLite, 0 and 1 for booleans."""
        values = self.values(**parameters)
        with _mapped_errors(self._database.url):
            try:
                with contextlib.closing(self._database.engine.raw_connection()) as connection:
                    cursor = connection.cursor()
                    cursor.execute(self.sql, values)
                    return list(map(self._row._make, cursor.fetchall()))
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
    "malformed": "the file is damaged; run `reindexer doctor`, or restore a backup",
    "not a database": "the file is something else; name another one, or run `reindexer doctor`",
    "full": "free some disk space (`reindexer prune`) and try again; nothing was stored half",
    "disk I/O error": "the disk or its file system fails; the log of the system says how (`dmesg`)",
    "disk": "free some disk space and try again; nothing was stored half",  # of PostgreSQL's server
}


def _has_full_disk(url: str) -> bool:
    """Whether the file of SQLite, or of its shared memory, cannot grow."""
    file = sa.engine.make_url(url).database
    try:
        return shutil.disk_usage(Path(file or ".").parent).free < _LEAST_FREE_BYTES
    except OSError:
        return False


@contextlib.contextmanager
def _mapped_errors(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = " ".join(str(error.orig).split())
        if "disk I/O error" in cause and _has_full_disk(url):
            cause = "disk I/O error, because the disk is full"
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
