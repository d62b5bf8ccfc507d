"""The rows of a backup as this release has them, and the transaction that puts them in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import sqlalchemy as sa

from reindexer.backup_folder import Backup, StoredFile
from reindexer.data_directory import DataDirectory
from reindexer.errors import BackupDamaged
from reindexer.restore_plan import RestorePlan
from search import tables
from search.database import SCHEMA_REVISION, Database, sqlite_url
from search.stored_rows import CorpusDigest, rows_from_bytes
from search.table_rows import (
    Row,
    continue_numbers,
    empty_tables,
    read_parts,
    table_names,
    write_rows,
)

RowsOf = Callable[[str], tuple[Sequence[str], Iterator[Sequence[Row]]]]


class FetchedObjects:
    """Objects that were fetched and checked, by their contents."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file: StoredFile) -> Path:
        return self.folder / file.sha256

    def read(self, file: StoredFile) -> bytes:
        return self.path(file).read_bytes()


@contextlib.contextmanager
def rows_of_backup(backup: Backup, fetched: FetchedObjects) -> Iterator[RowsOf]:
    """The rows of a table as this release has them. Those of an older schema go through a database
    of that schema, which is then migrated."""

    def stored(name: str) -> tuple[Sequence[str], Iterator[Sequence[Row]]]:
        table = backup.tables[name]
        return table.columns, (rows_from_bytes(fetched.read(file)) for file in table.files)

    if backup.schema_revision == SCHEMA_REVISION:
        yield stored
        return
    database = Database(sqlite_url(fetched.folder / "older.db"))
    try:
        database.migrate(revision=backup.schema_revision)
        with database.write(slow=True) as connection:
            for name in backup.tables:
                connection.execute(sa.text(f'DELETE FROM "{name}"'))
                columns, parts = stored(name)
                for rows in parts:
                    write_rows(connection, name, columns, rows)
        database.migrate()
        with database.read() as connection:
            yield lambda name: _read(connection, name)
    finally:
        database.close()


def _read(connection: sa.Connection, name: str) -> tuple[Sequence[str], Iterator[Sequence[Row]]]:
    columns = [str(column.name) for column in tables.metadata.tables[name].columns]
    return columns, (rows for _, _, rows in read_parts(connection, name))


def replace_rows(data: DataDirectory, backup: Backup, rows_of: RowsOf, plan: RestorePlan) -> None:
    """All tables in one transaction: the moment in which the restore has happened."""
    digest = CorpusDigest()
    with data.database.write(slow=True) as connection:
        empty_tables(connection)
        for name in table_names():
            columns, parts = rows_of(name)
            for rows in parts:
                write_rows(connection, name, columns, plan.changed(name, columns, rows))
        for _, columns, rows in read_parts(connection, "documents"):
            digest.add(columns, rows)
        if digest.value != backup.corpus_digest:
            raise BackupDamaged(
                f"the corpus has the digest {digest.value[:12]}… after the restore, expected "
                f"{backup.corpus_digest[:12]}…; nothing was changed. Restore another backup"
            )
        continue_numbers(connection)
