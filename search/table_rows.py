"""The rows of every table, out of one database and into another, whichever engine they are on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from search import tables

LEFT_OUT = frozenset({"searchers", "cutover"})  # of processes that run now
DOCUMENTS_A_PART = 2_048  # seqs
ROWS_A_PART = 10_000
S_A_PART = 3_600  # of rows that say when they were written
_ROWS_AT_ONCE = 1_000

Row = Sequence[Any]
Rows = tuple[str, list[str], list[Row]]  # name of the part, columns, rows


def table_names() -> list[str]:
    """Every table whose rows are worth keeping."""
    return [
        str(table.name) for table in tables.metadata.sorted_tables if table.name not in LEFT_OUT
    ]


def read_parts(connection: sa.Connection, name: str) -> Iterator[Rows]:
    """A table in parts that stay the same as long as none of their rows changes: documents by
    their seq, events and the like by the hour. A table without rows is one part without rows."""
    table = tables.metadata.tables[name]
    order, part_of = _parts(table)
    columns = [str(column.name) for column in table.columns]
    statement = sa.select(table).order_by(order, *table.primary_key.columns)
    options = {"stream_results": True, "yield_per": _ROWS_AT_ONCE}
    part, rows = 0, list[Row]()
    for at, row in enumerate(connection.execute(statement, execution_options=options)):
        if rows and part_of(row, at) != part:
            yield f"{name}/{part:012d}", columns, rows
            rows = []
        part = part_of(row, at)
        rows.append(tuple(row))
    yield f"{name}/{part:012d}", columns, rows


def _parts(table: sa.Table) -> tuple[sa.Column[Any], Callable[[Any, int], int]]:
    if table is tables.documents:
        return table.c.seq, lambda row, _at: int(row.seq) // DOCUMENTS_A_PART
    if "at" in table.c:
        return table.c.at, lambda row, _at: int(row.at) // S_A_PART
    return next(iter(table.primary_key.columns)), lambda _row, at: at // ROWS_A_PART


def empty_tables(connection: sa.Connection) -> None:
    """Delete every row of every table."""
    for table in reversed(tables.metadata.sorted_tables):
        connection.execute(sa.delete(table))


def write_rows(
    connection: sa.Connection, name: str, columns: Sequence[str], rows: Iterable[Row]
) -> None:
    """Insert rows as `read_parts` gave them, also those of an older schema."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(f'"{column}"' for column in columns)
        driver: Any = connection.connection.driver_connection
        with (
            driver.cursor() as cursor,
            cursor.copy(f'COPY "{name}" ({names}) FROM STDIN') as copy,
        ):
            for row in rows:
                copy.write_row(row)
        return
    table = sa.table(name, *(sa.column(column) for column in columns))
    values = [dict(zip(columns, row, strict=True)) for row in rows]
    if values:
        connection.execute(sa.insert(table), values)


def continue_numbers(connection: sa.Connection) -> None:
    """Let PostgreSQL go on numbering after the highest number that is there; SQLite does so by
    itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables.metadata.sorted_tables:
        column = table.autoincrement_column
        if column is None or column.autoincrement is False:
            continue
        connection.execute(
            sa.text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', '{column.name}'), "
                f"(SELECT coalesce(max({column.name}), 0) + 1 FROM {table.name}), false)"
            )
        )
