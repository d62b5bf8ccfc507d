"""How far each source has been read, so that one that stopped half-way goes on there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import sqlalchemy as sa

from reindexer.sources.rows import DocumentSource, Rejected, Row
from search import tables
from search.database import Database

Position = Mapping[str, Any]  # a JSON object that only the source itself understands

# What the next ingest does with something that was read to its end:
#   read_again   starts from the beginning; comparing what is stored already costs little
#   pass_over    reads it only when its version is another one: it would have to be transferred
#   go_on        asks for what has come after the position
AtEnd = Literal["read_again", "pass_over", "go_on"]


class SourcePart(Protocol):
    """One thing that is read from its beginning to its end: a file, a table, a collection."""

    @property
    def location(self) -> str:
        """Which one; without credentials."""
        ...

    @property
    def version(self) -> str | None:
        """Changes whenever what lies there does, or what is made of it. None: nobody can tell, and
        no position is kept."""
        ...

    @property
    def at_end(self) -> AtEnd: ...

    @property
    def position(self) -> Position | None:
        """Behind the last row that the present iteration gave; it may be further back, but never
        further on. None when the source cannot be entered anywhere but at its beginning."""
        ...

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        """The rows behind a position of the same version; all of them without one."""
        ...


@runtime_checkable
class PartedSource(Protocol):
    """A source that can be gone on with."""

    def parts(self) -> Iterable[SourcePart]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Mark:
    """A position in one part, as it is kept."""

    location: str
    version: str
    position: Position
    finished: bool  # read to its end
    rejected: int  # rows of it that were left out


class Positions:
    """The marks of all sources, in the database of the corpus."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, source: str) -> dict[str, Mark]:
        """The marks of one source by location."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(_TABLE).where(_TABLE.c.source == source).order_by(_TABLE.c.location)
            ).all()
        return {
            row.location: Mark(
                location=row.location,
                version=row.version,
                position=json.loads(row.position),
                finished=row.finished,
                rejected=row.rejected,
            )
            for row in rows
        }

    def keep(self, source: str, marks: Iterable[Mark], forgotten: Iterable[str] = ()) -> None:
        """Replace the marks of these locations, and drop those of others. Call it when the rows
        before them are committed: a mark that is lost costs a comparison, one that is early costs
        documents."""
        rows = [
            {
                "source": source,
                "location": mark.location,
                "version": mark.version,
                "position": json.dumps(mark.position),
                "finished": mark.finished,
                "rejected": mark.rejected,
                "updated_at": time.time(),
            }
            for mark in marks
        ]
        gone = [{"of": source, "at": location} for location in forgotten]
        if not rows and not gone:
            return
        insert = self._database.upsert(_TABLE)
        upsert = insert.on_conflict_do_update(
            index_elements=[_TABLE.c.source, _TABLE.c.location],
            set_={
                name: insert.excluded[name]
                for name in ("version", "position", "finished", "rejected", "updated_at")
            },
        )
        with self._database.write() as connection:
            if rows:
                connection.execute(upsert, rows)
            if gone:
                connection.execute(
                    sa.delete(_TABLE).where(
                        _TABLE.c.source == sa.bindparam("of"),
                        _TABLE.c.location == sa.bindparam("at"),
                    ),
                    gone,
                )


_TABLE = tables.positions


class Reading:
    """The rows of a source from where it was left, and the marks to keep as they are committed."""

    def __init__(
        self, source: DocumentSource, kept: Mapping[str, Mark], *, from_beginning: bool = False
    ) -> None:
        """from_beginning: read everything, whatever was kept."""
        self._source = source
        self._kept = kept
        self._from_beginning = from_beginning
        self._part: SourcePart | None = None  # that is being read
        self._rejected: dict[str, int] = {}  # of the parts in the present batch, by location
        self._ended: dict[str, SourcePart] = {}  # in the present batch
        self.passed_over = 0  # parts that have not changed since they were read
        self.went_on = 0  # parts that were entered at a position

    def __iter__(self) -> Iterator[Row | Rejected]:
        if not isinstance(self._source, PartedSource):
            yield from self._source
            return
        for part in self._source.parts():
            kept = self._kept.get(part.location)
            if self._from_beginning or (kept and kept.version != part.version):
                kept = None
            if kept and kept.finished and part.at_end == "pass_over":
                self.passed_over += 1
                continue
            after = kept.position if kept else None
            self.went_on += kept is not None
            self._part = part
            self._rejected[part.location] = kept.rejected if kept and not kept.finished else 0
            yield from part.rows(after)
            self._part = None
            self._ended[part.location] = part

    def marks(self, rejected: int) -> tuple[list[Mark], list[str]]:
        """To be called once a batch: the marks of what it held, and locations whose mark is to go.

        rejected: rows of the batch that were left out. Which part of the batch they belong to is
        not kept apart: parts that share a batch are small, and reading one again costs little.
        """
        marks: list[Mark] = []
        forgotten: list[str] = []
        for location in self._rejected:
            self._rejected[location] += rejected
        for location, part in self._ended.items():
            n_rejected = self._rejected.pop(location)
            # A bad row is told each time until it is repaired, so its part is read each time.
            is_done = part.at_end == "go_on" or (part.at_end == "pass_over" and not n_rejected)
            mark = _mark(part, finished=True, rejected=n_rejected) if is_done else None
            if mark:
                marks.append(mark)
            else:
                forgotten.append(location)
        self._ended.clear()
        if self._part:
            n_rejected = self._rejected[self._part.location]
            if mark := _mark(self._part, finished=False, rejected=n_rejected):
                marks.append(mark)
        return marks, forgotten


def _mark(part: SourcePart, *, finished: bool, rejected: int) -> Mark | None:
    version, position = part.version, part.position
    if version is None or position is None:
        return None
    return Mark(
        location=part.location,
        version=version,
        position=position,
        finished=finished,
        rejected=rejected,
    )
