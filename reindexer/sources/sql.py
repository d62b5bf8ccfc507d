"""A table, or a query, of any database that SQLAlchemy reaches."""

from __future__ import annotations

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from reindexer.errors import SourceInvalid, SourceStopped
from reindexer.sources.locations import digest, without_credentials
from reindexer.sources.positions import AtEnd, Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import SinglePartSource
from training.errors import HostRefused
from training.outgoing import SETTING, check_address, is_limited

PAGE_ROWS = 2_000
# Transactions are stamped when they begin and seen when they commit: what was stamped shortly
# before the newest row may have come to light after it.
OVERLAP = datetime.timedelta(minutes=5)
# Options of drivers that name no server, for when only some may be asked.
_HARMLESS = {
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "ssl_ca", "ssl_cert", "ssl_key", "charset"),
    *("connect_timeout", "application_name", "client_encoding", "options", "service_name"),
    *("driver", "encrypt", "trustservercertificate"),
}
_PLAIN_VALUE = re.compile(r"(?!.*://)[\w ./:,+-]*|-c ?\w+=[\w ,.-]*")
_DIALECTS = ("sqlite", "postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle")


def is_sql_url(ref: str) -> bool:
    scheme, separator, _ = ref.partition("://")
    return bool(separator) and scheme.partition("+")[0].lower() in _DIALECTS


class SqlSource(SinglePartSource):
    """Documents from a table or a query, a page at a time in the order of the id column, which has
    to be unique; each page is a transaction of its own.

    With an updated-at column, the order is that of the column, and the next ingest asks only for
    rows that were written since; it asks again for those of the last five minutes (of the last
    value, where the column is no time). Rows that are deleted there are found by a whole pass.

    Raises SourceInvalid when the database cannot be reached, or has no such table or column.
    """

    def __init__(
        self,
        url: str,
        reader: RecordReader,
        *,
        table: str | None = None,
        query: str | None = None,
        updated_at: str | None = None,
    ) -> None:
        """url: as SQLAlchemy has it. table: with its schema, if it needs one: sales.products."""
        super().__init__(reader)
        self._updated_at = updated_at
        self._url = _parsed(url)
        if (table is None) == (query is None):
            raise SourceInvalid(
                f"{without_credentials(url)} is a database; say what to read there, with "
                "--table TABLE or --query 'SELECT …'"
            )
        self._label = table or "query"
        self._query = query
        _check_file(self._url)
        _check_host(self._url)
        self._from: Any = _table(table) if table else sa.text(f"({_bare(query)}) q")
        self._position: dict[str, Any] | None = None
        self._engine: sa.Engine | None = None
        with self._connection() as connection:
            fields = connection.execute(self._select().limit(1)).keys()
        reader.check_fields(self._label, list(fields))
        self._id = next(name for name in reader.id_fields if name in fields)
        if updated_at is not None and updated_at not in fields:
            raise SourceInvalid(
                f"{self._label} has no column {updated_at!r}; its columns are "
                f"{', '.join(sorted(fields))}. Name the right one with --updated-at COLUMN"
            )

    @property
    def share_read(self) -> float | None:
        return None  # counting a large table takes as long as reading a good part of it

    @property
    def location(self) -> str:
        url = self._url.set(username=None, password=None, query={})
        what = f"query {digest(self._query)}" if self._query else self._label
        return f"{url.render_as_string(hide_password=True)}#{what}"

    @property
    def version(self) -> str:
        return digest(("sql", self._id, self._updated_at, *self._reader.fields))

    @property
    def at_end(self) -> AtEnd:
        return "go_on" if self._updated_at else "read_again"

    @property
    def position(self) -> Position | None:
        return self._position

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        self._position = dict(after) if after else None
        keys = [self._updated_at, self._id] if self._updated_at else [self._id]
        last = [from_json(value) for value in after["keys"]] if after else None
        is_begun = bool(after) and not (after or {}).get("ended")
        page = self._page(keys, last if is_begun else None, None if is_begun or not last else last)
        while True:
            with self._connection() as connection:
                rows = connection.execute(page).mappings().all()
            for row in rows:
                last = [row[key] for key in keys]
                where = f"{self._label}:{row[self._id]}"
                try:
                    self._position = {"keys": [to_json(value) for value in last]}
                except TypeError as error:
                    raise SourceInvalid(
                        f"{where}: {error}; order by another column, with --id-field or "
                        "--updated-at"
                    ) from None
                yield self._reader.read(where, {str(key): value for key, value in row.items()})
            if len(rows) < PAGE_ROWS:
                break
            page = self._page(keys, last, None)
        yield from self._without(keys)
        if self._position is not None:
            self._position["ended"] = True

    def _page(self, keys: list[str], last: list[Any] | None, since: list[Any] | None) -> Any:
        """The rows behind the last one, or those of the next pass."""
        columns: list[sa.ColumnClause[Any]] = [sa.column(key) for key in keys]
        wanted: list[sa.ColumnElement[bool]] = [column.is_not(None) for column in columns]
        if last is not None:
            # Spelled out: not every database has (a, b) > (c, d), or uses an index for it.
            behind: sa.ColumnElement[bool] = sa.false()
            for i in reversed(range(len(keys))):
                behind = sa.or_(columns[i] > last[i], sa.and_(columns[i] == last[i], behind))
            wanted += [columns[0] >= last[0], behind]
        elif since is not None:
            first = since[0]
            wanted.append(
                columns[0] >= (first - OVERLAP if isinstance(first, datetime.datetime) else first)
            )
        return self._select().where(*wanted).order_by(*columns).limit(PAGE_ROWS)

    def _without(self, keys: list[str]) -> Iterator[Rejected]:
        """No order finds a row that has nothing there."""
        for key in keys:
            count = (
                sa.select(sa.func.count()).select_from(self._from).where(sa.column(key).is_(None))
            )
            with self._connection() as connection:
                n_rows = connection.execute(count).scalar_one()
            if n_rows:
                yield Rejected(
                    where=self._label,
                    reason=f"{n_rows:,} rows have no {key}, and were not read; fill it in",
                )

    def _select(self) -> sa.Select[Any]:
        return sa.select(sa.literal_column("*")).select_from(self._from)

    @contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        """Errors of the driver, without what was sent."""
        is_first = self._engine is None
        try:
            if self._engine is None:
                self._engine = sa.create_engine(self._url, poolclass=sa.pool.NullPool)
            with self._engine.connect() as connection:
                yield connection
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            cause = without_credentials(" ".join(str(getattr(error, "orig", error)).split()))
            if is_first:
                raise SourceInvalid(
                    f"{self._label} cannot be read from {self._url.get_backend_name()}: {cause}"
                ) from error
            raise SourceStopped(
                f"{self._label} cannot be read any further: {cause}; what was read is stored: run "
                "the same command again, and it goes on from there"
            ) from error


def to_json(value: object) -> Any:
    """A key as a position keeps it. Raises TypeError for what has no order that lasts."""
    match value:
        case bool() | None:
            raise TypeError(f"{value!r} is nothing to order by")
        case int() | float() | str():
            return value
        case datetime.datetime():
            return {"datetime": value.isoformat()}
        case datetime.date():
            return {"date": value.isoformat()}
        case decimal.Decimal():
            return {"decimal": str(value)}
        case uuid.UUID():
            return {"uuid": str(value)}
    raise TypeError(f"a {type(value).__name__} is nothing to order by")


def from_json(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    ((kind, text),) = value.items()
    return _FROM_TEXT[kind](text)


_FROM_TEXT: Mapping[str, Callable[[str], Any]] = {
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "decimal": decimal.Decimal,
    "uuid": uuid.UUID,
}


def _parsed(url: str) -> sa.URL:
    scheme, separator, rest = url.partition("://")
    driver = {"postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}.get(scheme)
    try:
        return sa.make_url(f"{driver}{separator}{rest}" if driver else url)
    except (sa.exc.ArgumentError, ValueError):  # its message may hold the password
        raise SourceInvalid(
            "the database URL cannot be read; expected postgresql://user:password@host:port/name, "
            "with special characters of the password percent-encoded"
        ) from None


def _check_file(url: sa.URL) -> None:
    """SQLite would make a file that is not there."""
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        raise SourceInvalid(f"there is no file {url.database}")


def _check_host(url: sa.URL) -> None:
    """Raises HostRefused. Drivers take another server from the rest of the URL too, so that has to
    be of the few things that name none."""
    if url.get_backend_name() == "sqlite" or not is_limited():
        return
    host = url.host or "localhost"  # the driver's own choice without one
    check_address(
        f"{url.get_backend_name()}://{f'[{host}]' if ':' in host else host}"
        f"{f':{url.port}' if url.port else ''}"
    )
    odd = [name for name in url.query if name.lower() not in _HARMLESS]
    values = [host, url.database or "", *map(str, url.query.values())]
    odd += [value for value in values if not _PLAIN_VALUE.fullmatch(value)]
    if odd:
        raise HostRefused(
            f"the URL of the database says {odd[0]!r}, which could name another server than the "
            f"one that {SETTING} allows; leave it out"
        )


def _table(name: str) -> sa.TableClause:
    schema, _, table = name.rpartition(".")
    return sa.table(table, schema=schema or None)


def _bare(query: str | None) -> str:
    # A colon before a name would be a parameter.
    return (query or "").strip().rstrip(";").replace(":", "\\:")
