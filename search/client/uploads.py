"""Any number of documents in lots: as much memory as one lot, and each lot can be sent again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import orjson

from search.client.values import Document, StoredLines

LOT_LINES = 1_000
LOT_BYTES = 4_000_000
REJECTED_TOLD = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Lot:
    """Documents that go out in one request."""

    lines: bytes  # NDJSON
    n_lines: int
    first_line: int  # number of its first document in the whole upload, from 1
    is_last: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What the service has acknowledged so far."""

    lines: int
    n_bytes: int
    n_rejected: int


def cut_lots(documents: Iterable[Document]) -> Iterator[Lot]:
    """Lots of up to LOT_LINES documents and about LOT_BYTES; none of nothing."""
    parts: list[bytes] = []
    n_bytes, first_line = 0, 1
    for document in documents:
        line = orjson.dumps(document.to_json())
        if parts and (len(parts) >= LOT_LINES or n_bytes + len(line) > LOT_BYTES):
            yield _lot(parts, first_line, is_last=False)
            first_line += len(parts)
            parts, n_bytes = [], 0
        parts.append(line)
        n_bytes += len(line) + 1
    if parts:
        yield _lot(parts, first_line, is_last=True)


def _lot(parts: list[bytes], first_line: int, *, is_last: bool) -> Lot:
    lines = b"\n".join([*parts, b""])
    return Lot(lines=lines, n_lines=len(parts), first_line=first_line, is_last=is_last)


def add(before: StoredLines, lot: Lot, stored: StoredLines) -> StoredLines:
    """Both together, with the lines numbered over the whole upload."""
    rejected = [replace(one, line=one.line + lot.first_line - 1) for one in stored.rejected]
    return StoredLines(
        added=before.added + stored.added,
        changed=before.changed + stored.changed,
        unchanged=before.unchanged + stored.unchanged,
        lines=before.lines + stored.lines,
        n_rejected=before.n_rejected + stored.n_rejected,
        rejected=(*before.rejected, *rejected)[:REJECTED_TOLD],
        seq=stored.seq,
        visible=stored.visible,
    )


def progress(stored: StoredLines, n_bytes: int) -> Progress:
    return Progress(lines=stored.lines, n_bytes=n_bytes, n_rejected=stored.n_rejected)
