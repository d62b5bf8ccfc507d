"""Rows as bytes, as they lie in a backup, and one number for the corpus that they make."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Sequence

import orjson

from search.table_rows import Row

COMPRESSION = 1  # of gzip: the disk is slower than this, and what is above it gains little


class CorpusDigest:
    """SHA-256 over which state of each document the corpus has, in the order of their seqs."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, columns: Sequence[str], rows: Sequence[Row]) -> int:
        """How many of the rows are documents that are there."""
        at = [columns.index(name) for name in ("doc_id", "seq", "content_hash", "deleted")]
        n_there = 0
        for row in rows:
            doc_id, seq, content_hash, deleted = (row[column] for column in at)
            self._sha256.update(f"{doc_id}\0{seq}\0{content_hash}\0{bool(deleted)}\n".encode())
            n_there += not deleted
        return n_there

    @property
    def value(self) -> str:
        return self._sha256.hexdigest()


def rows_to_bytes(rows: Sequence[Row]) -> bytes:
    """One JSON list a line, deflated; the same rows give the same bytes."""
    lines = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    return gzip.compress(lines, COMPRESSION, mtime=0)


def rows_from_bytes(raw: bytes) -> list[Row]:
    return [orjson.loads(line) for line in gzip.decompress(raw).splitlines()]
