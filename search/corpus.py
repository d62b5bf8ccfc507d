"""The documents of record: one row a document, and a log of every change to them.

A row keeps only the latest state of its document under the `seq` of its last change, so the table
is a change log that compacts itself; a deleted document stays as a tombstone row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from search import tables
from search.database import Database
from search.documents import Change, Document, content_hash, metadata_from_json, metadata_json
from search.errors import WrongState
from training.kill_points import reached

_IDS_PER_QUERY = 500
_COPY_FROM_ROWS = 50  # on PostgreSQL; below, the statements around a COPY cost more than it saves
_TOMBSTONE: Mapping[str, object] = {
    "deleted": True,
    "source": "",  # nobody's: any source may put the document again
    "content_hash": "",
    "title": "",
    "metadata": "{}",
    "text": "",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class PutResult:
    """What `Corpus.put` did with each of its documents."""

    added: int  # new, or a tombstone before
    changed: int
    unchanged: int
    head_seq: int  # the corpus head right after the transaction
    refused: Mapping[str, str] = field(default_factory=dict)  # doc_id -> the source that owns it


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteResult:
    """What `Corpus.delete` did."""

    deleted: int
    head_seq: int  # the corpus head right after the transaction


@dataclass(frozen=True, slots=True)
class Identity:
    """Which state of a document the corpus has, without its text."""

    doc_id: str
    seq: int
    content_hash: str  # "" for a tombstone
    deleted: bool
    metadata: str  # as `metadata_json` writes it


class Corpus:
    """Documents of record in one database. Safe to use from several threads and processes.

    Every method raises DatabaseUnavailable or DatabaseError when the database fails.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._put_sql = _put_sql(database)
        self._head = database.prepare(_HEAD)
        self._live_documents = database.prepare(
            sa.select(*_ROW).where(
                database.one_of(tables.documents.c.doc_id, "doc_ids"),
                sa.not_(tables.documents.c.deleted),
            )
        )

    def put(self, documents: Sequence[Document], *, or_none: bool = False) -> PutResult:
        """Insert or replace documents in one transaction.

        A document whose content is already stored takes no seq. A document that is stored under
        another source is refused and left as it is; with or_none that refuses all of them, and
        WrongState is raised. Of two with the same doc_id the last counts.
        """
        wanted = {document.doc_id: document for document in documents}
        refused: dict[str, str] = {}
        new: list[dict[str, object]] = []
        edited: list[dict[str, object]] = []
        with self._database.write() as connection:
            head = _lock_head(connection)
            stored = _stored(connection, list(wanted))
            for doc_id, document in wanted.items():
                row = _row(document)
                old = stored.get(doc_id)
                if old is None or old.deleted:
                    new.append(row)
                elif old.source != document.source:
                    refused[doc_id] = old.source
                elif old.content_hash != row["content_hash"]:
                    edited.append(row)
            if refused and or_none:
                raise WrongState(_refusal(refused, wanted))
            rows = new + edited
            now = time.time()
            for seq, row in enumerate(rows, head + 1):
                row["seq"], row["changed_at"] = seq, now
            if rows:
                self._write(connection, rows, stored)
                head = _advance_head(connection, head + len(rows))
            reached("corpus.write")
        reached("corpus.commit")
        return PutResult(
            added=len(new),
            changed=len(edited),
            unchanged=len(wanted) - len(rows) - len(refused),
            head_seq=head,
            refused=refused,
        )

    def _write(
        self, connection: sa.Connection, rows: list[dict[str, object]], stored: Mapping[str, Any]
    ) -> None:
        """Insert or replace. The head is locked, so what was not stored is still not stored."""
        if self._database.is_sqlite or len(rows) < _COPY_FROM_ROWS:
            connection.exec_driver_sql(self._put_sql, rows)
            return
        fresh = [row for row in rows if row["doc_id"] not in stored]
        replaced = [row for row in rows if row["doc_id"] in stored]
        if fresh:
            self._copy(connection, tables.documents.name, fresh)
        if replaced:
            connection.execute(_MAKE_INCOMING)
            self._copy(connection, _INCOMING.name, replaced)
            connection.execute(_MERGE_INCOMING)

    def _copy(
        self, connection: sa.Connection, table: str, rows: Sequence[Mapping[str, object]]
    ) -> None:
        self._database.copy_in(
            connection, table, _WRITTEN, ([row[name] for name in _WRITTEN] for row in rows)
        )

    def delete(
        self, doc_ids: Sequence[str], *, source: str | None = None, until: int | None = None
    ) -> DeleteResult:
        """Turn documents into tombstones, in one transaction. Unknown and deleted ids take no seq.

        source: leave documents of other sources alone. until: leave documents alone that were
        written after this seq.
        """
        with self._database.write() as connection:
            head = _lock_head(connection)
            stored = _stored(connection, list(dict.fromkeys(doc_ids)))
            gone = [
                doc_id
                for doc_id, row in stored.items()
                if not row.deleted
                and (source is None or row.source == source)
                and (until is None or row.seq <= until)
            ]
            if gone:
                connection.execute(
                    sa.update(tables.documents)
                    .where(tables.documents.c.doc_id == sa.bindparam("gone"))
                    .values(seq=sa.bindparam("next_seq"), changed_at=time.time(), **_TOMBSTONE),
                    [
                        {"gone": doc_id, "next_seq": seq}
                        for seq, doc_id in enumerate(gone, head + 1)
                    ],
                )
                head = _advance_head(connection, head + len(gone))
            reached("corpus.write")
        reached("corpus.commit")
        return DeleteResult(deleted=len(gone), head_seq=head)

    def get(self, doc_id: str) -> Document | None:
        """The document, or None when it is unknown or deleted."""
        change = self.get_many([doc_id]).get(doc_id)
        return change.document if change else None

    def get_many(self, doc_ids: Sequence[str]) -> dict[str, Change]:
        """The live ones of these documents by doc_id; unknown and deleted ids are left out."""
        found = map(_change, self._live_documents.rows(doc_ids=list(doc_ids)))
        return {change.doc_id: change for change in found}

    def changes(self, after: int, limit: int, until: int | None = None) -> list[Change]:
        """The next changes in seq order: at most `limit`, with after < seq <= until. Fewer than
        `limit` means that there are no more right now."""
        statement = _CHANGES if until is None else _CHANGES.where(tables.documents.c.seq <= until)
        with self._database.read() as connection:
            rows = connection.execute(statement, {"after": after, "limit": limit})
            return list(map(_change, rows.all()))

    def head(self) -> int:
        """The seq of the last change; 0 for an empty corpus."""
        (row,) = self._head.rows()
        return int(row.seq)

    def count(self, until: int | None = None) -> int:
        """Live documents whose last change is at or before a seq; all of them without one."""
        statement = _COUNT if until is None else _COUNT.where(tables.documents.c.seq <= until)
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def lag(self, after: int) -> int:
        """Changes after a seq that are still to be applied by somebody who is there."""
        with self._database.read() as connection:
            return connection.execute(_LAG, {"after": after}).scalar_one()

    def identities(self, until: int | None = None, batch: int = 5_000) -> Iterator[Identity]:
        """Every row, tombstones too, in seq order, read `batch` rows at a time.

        Each batch is a snapshot of its own: a document that changes meanwhile shows up again at
        its new seq, or not at all when that is past `until`.
        """
        statement = (
            _IDENTITIES if until is None else _IDENTITIES.where(tables.documents.c.seq <= until)
        )
        after = 0
        while True:
            with self._database.read() as connection:
                rows = connection.execute(statement, {"after": after, "limit": batch}).all()
            for row in rows:
                yield Identity(*row)
            if len(rows) < batch:
                return
            after = rows[-1].seq

    def sources(self) -> list[tuple[str, int]]:
        """Each source with its number of live documents, by name."""
        with self._database.read() as connection:
            return [(name, count) for name, count in connection.execute(_SOURCES)]

    def doc_ids(self, source: str, batch: int = 5_000) -> Iterator[str]:
        """The live documents of a source, in the database's own order of ids, read `batch` at a
        time."""
        after = ""
        while True:
            with self._database.read() as connection:
                ids = connection.scalars(
                    _DOC_IDS, {"source": source, "after": after, "limit": batch}
                ).all()
            yield from ids
            if len(ids) < batch:
                return
            after = ids[-1]


_ROW = (
    tables.documents.c.doc_id,
    tables.documents.c.seq,
    tables.documents.c.source,
    tables.documents.c.deleted,
    tables.documents.c.content_hash,
    tables.documents.c.title,
    tables.documents.c.metadata,
    tables.documents.c.text,
)
_WRITTEN = tuple(column.name for column in tables.documents.c)
# What replaces rows on PostgreSQL, until the transaction ends.
_INCOMING = sa.table("incoming", *(sa.column(name) for name in _WRITTEN))
_MAKE_INCOMING = sa.text("CREATE TEMPORARY TABLE incoming (LIKE documents) ON COMMIT DROP")
_MERGE_INCOMING = (
    sa.update(tables.documents)
    .where(tables.documents.c.doc_id == _INCOMING.c.doc_id)
    .values({name: _INCOMING.c[name] for name in _WRITTEN if name != "doc_id"})
)
_CHANGES = (
    sa.select(*_ROW)
    .where(tables.documents.c.seq > sa.bindparam("after"))
    .order_by(tables.documents.c.seq)
    .limit(sa.bindparam("limit"))
)
_COUNT = (
    sa.select(sa.func.count())
    .select_from(tables.documents)
    .where(sa.not_(tables.documents.c.deleted))
)
_LAG = (
    sa.select(sa.func.count())
    .select_from(tables.documents)
    .where(tables.documents.c.seq > sa.bindparam("after"))
)
_IDENTITIES = (
    sa.select(
        tables.documents.c.doc_id,
        tables.documents.c.seq,
        tables.documents.c.content_hash,
        tables.documents.c.deleted,
        tables.documents.c.metadata,
    )
    .where(tables.documents.c.seq > sa.bindparam("after"))
    .order_by(tables.documents.c.seq)
    .limit(sa.bindparam("limit"))
)
# A tombstone has no source, so these two read nothing but the index on (source, doc_id).
_SOURCES = (
    sa.select(tables.documents.c.source, sa.func.count())
    .where(tables.documents.c.source > "")
    .group_by(tables.documents.c.source)
    .order_by(tables.documents.c.source)
)
_DOC_IDS = (
    sa.select(tables.documents.c.doc_id)
    .where(
        tables.documents.c.source == sa.bindparam("source"),
        tables.documents.c.doc_id > sa.bindparam("after"),
    )
    .order_by(tables.documents.c.doc_id)
    .limit(sa.bindparam("limit"))
)
_STORED = sa.select(
    tables.documents.c.doc_id,
    tables.documents.c.content_hash,
    tables.documents.c.source,
    tables.documents.c.deleted,
    tables.documents.c.seq,
).where(tables.documents.c.doc_id.in_(sa.bindparam("ids", expanding=True)))
_HEAD = sa.select(tables.corpus_head.c.seq).where(tables.corpus_head.c.id == 1)


def _refusal(refused: Mapping[str, str], wanted: Mapping[str, Document]) -> str:
    doc_id, owner = next(iter(refused.items()))
    others = f", and so do {len(refused) - 1} others" if len(refused) > 1 else ""
    return (
        f"document {doc_id!r} belongs to source {owner!r}, not {wanted[doc_id].source!r}{others}; "
        "nothing was stored: name that source, or delete the document first"
    )


def _put_sql(database: Database) -> str:
    """The statement as the driver takes it: handing it the rows directly saves a tenth of an
    ingest."""
    insert = database.upsert(tables.documents)
    statement = insert.on_conflict_do_update(
        index_elements=[tables.documents.c.doc_id],
        set_={
            column.name: insert.excluded[column.name]
            for column in (*_ROW[1:], tables.documents.c.changed_at)
        },
    )
    return str(statement.compile(dialect=database.engine.dialect))


def _lock_head(connection: sa.Connection) -> int:
    """The head, locked until this transaction ends, before anything is compared.

    The lock makes the order of commits the order of seqs, so no reader sees n+1 before n. Taken
    first, it also keeps two writers of the same doc_id from comparing with the same old row. On
    SQLite, BEGIN IMMEDIATE has done both already.
    """
    return int(connection.execute(_HEAD.with_for_update()).scalar_one())


def _advance_head(connection: sa.Connection, seq: int) -> int:
    connection.execute(
        sa.update(tables.corpus_head).where(tables.corpus_head.c.id == 1).values(seq=seq)
    )
    return seq


def _stored(connection: sa.Connection, doc_ids: Sequence[str]) -> dict[str, Any]:
    """doc_id -> its row (content_hash, source, deleted, seq); unknown ids are left out."""
    return {
        row[0]: row for ids in _slices(doc_ids) for row in connection.execute(_STORED, {"ids": ids})
    }


def _slices(doc_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(doc_ids), _IDS_PER_QUERY):
        yield doc_ids[start : start + _IDS_PER_QUERY]


def _row(document: Document) -> dict[str, object]:
    """The row of a document, but for its seq and its time."""
    metadata = metadata_json(document.metadata)
    return {
        "doc_id": document.doc_id,
        "source": document.source,
        "deleted": False,
        "content_hash": content_hash(document.title, document.text, metadata),
        "title": document.title,
        "metadata": metadata,
        "text": document.text,
    }


def _change(row: Sequence[Any]) -> Change:
    """From a row of the columns in _ROW."""
    doc_id, seq, source, deleted, stored_hash, title, metadata, text = row
    document = None
    if not deleted:
        document = Document(
            doc_id=doc_id,
            text=text,
            title=title,
            metadata=metadata_from_json(metadata),
            source=source,
        )
    return Change(seq=seq, doc_id=doc_id, content_hash=stored_hash, document=document)
