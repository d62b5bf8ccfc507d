"""Chunks: the ranges of seq that a build which is fanned out is cut into, each with its own mark.

A document that is edited while the build runs moves to a seq past the last chunk, so chunks can be
done in any order; catching up is the ordinary replay from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from search import tables
from search.database import Database
from search.errors import LeaseLost
from search.generations import move_watermark


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The changes with after < seq <= until."""

    build_id: int
    after: int
    until: int


class ChunkLog:
    """Which chunks of a build are done, in the journal's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cut(self, build_id: int, after: int, until: int, size: int) -> bool:
        """Record chunks of `size` seqs over (after, until]; what is recorded already stays as it
        is. Returns whether there were none yet."""
        chunks = tables.chunks
        with self._database.write() as connection:
            if connection.execute(_any(build_id)).first() is not None:
                return False
            connection.execute(
                sa.insert(chunks),
                [
                    {"build_id": build_id, "after_seq": at, "until_seq": min(at + size, until)}
                    for at in range(after, until, size)
                ],
            )
        return True

    def left(self, build_id: int, after: int, until: int) -> list[Chunk]:
        """What of (after, until] is not done, in order; all of it in one when no chunks are
        recorded."""
        chunks = tables.chunks
        query = (
            sa.select(chunks.c.after_seq, chunks.c.until_seq)
            .where(chunks.c.build_id == build_id, chunks.c.done_at.is_(None))
            .order_by(chunks.c.after_seq)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            is_cut = bool(rows) or connection.execute(_any(build_id)).first() is not None
        if not is_cut:
            return [Chunk(build_id=build_id, after=after, until=until)]
        return [
            Chunk(build_id=build_id, after=max(after, row.after_seq), until=row.until_seq)
            for row in rows
            if row.until_seq > after
        ]

    def finish(
        self, chunk: Chunk, generation: str, *, lease: str, token: int, **progress: Any
    ) -> None:
        """Mark a chunk as done, move the watermark to where the first gap begins, and keep the
        build's counters, all in one transaction. Raises LeaseLost, WrongState."""
        chunks, now = tables.chunks, time.time()
        with self._database.write() as connection:
            connection.execute(
                sa.update(chunks)
                .where(chunks.c.build_id == chunk.build_id, chunks.c.until_seq == chunk.until)
                .values(done_at=now)
            )
            gap = connection.execute(_first_left(chunk.build_id)).scalar()
            if gap is None:
                gap = connection.execute(
                    sa.select(sa.func.max(chunks.c.until_seq)).where(
                        chunks.c.build_id == chunk.build_id
                    )
                ).scalar_one()
            before = connection.execute(
                sa.select(tables.generations.c.watermark).where(
                    tables.generations.c.name == generation
                )
            ).scalar_one()
            move_watermark(connection, generation, max(gap, before), lease=lease, token=token)
            connection.execute(
                sa.update(tables.builds)
                .where(tables.builds.c.id == chunk.build_id)
                .values(updated_at=now, **progress)
            )

    def check(self, chunk: Chunk, *, lease: str, token: int) -> None:
        """Raises LeaseLost when the build has passed on to another process, or when the chunk has
        been done by another actor: one that was taken for dead must not write any more."""
        chunks, leases = tables.chunks, tables.leases
        query = sa.select(chunks.c.until_seq).where(
            chunks.c.build_id == chunk.build_id,
            chunks.c.until_seq == chunk.until,
            chunks.c.done_at.is_(None),
            sa.exists().where(leases.c.name == lease, leases.c.token == token),
        )
        with self._database.read() as connection:
            if connection.execute(query).first() is None:
                raise LeaseLost(
                    f"seq {chunk.after:,} to {chunk.until:,} of build {chunk.build_id} is not this "
                    "actor's any more; what it encoded is given up. Look at `reindexer status`"
                )

    def forget(self, build_id: int) -> None:
        """The watermark says it all once every chunk is done."""
        with self._database.write() as connection:
            connection.execute(sa.delete(tables.chunks).where(tables.chunks.c.build_id == build_id))


def _any(build_id: int) -> sa.Select[tuple[int]]:
    return sa.select(tables.chunks.c.after_seq).where(tables.chunks.c.build_id == build_id).limit(1)


def _first_left(build_id: int) -> sa.Select[tuple[int]]:
    chunks = tables.chunks
    return (
        sa.select(chunks.c.after_seq)
        .where(chunks.c.build_id == build_id, chunks.c.done_at.is_(None))
        .order_by(chunks.c.after_seq)
        .limit(1)
    )
