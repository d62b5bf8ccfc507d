"""Documents that arrive as lines of JSON, put into the corpus some hundred at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from search.corpus import Corpus
from search.documents import Document
from search.errors import InvalidDocument

LINES = 500  # of one transaction
LINES_BYTES = 4_000_000  # of one transaction, if these come first
MAX_REJECTED = 1_000  # told one by one; the others are counted

_FIELDS = frozenset({"doc_id", "text", "title", "metadata"})


class LineSplitter:
    """Makes lines of the pieces in which a stream arrives."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._number = 0
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._is_too_long = False  # the line under way; its end is still to come

    def feed(self, piece: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Number from 1 and content of every line that has come to its end; None for the content of
        one that is too long, of which no more is kept."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._keep(end)
            yield self._line()
        self._keep(rest)

    def end(self) -> Iterator[tuple[int, bytes | None]]:
        """The last line, if it did not end with a newline."""
        if self._rest_bytes or self._is_too_long:
            yield self._line()

    def _keep(self, part: bytes) -> None:
        self._rest_bytes += len(part)
        if self._rest_bytes > self._max_line_bytes:
            self._is_too_long = True
            self._rest = []
        elif part:
            self._rest.append(part)

    def _line(self) -> tuple[int, bytes | None]:
        self._number += 1
        content = None if self._is_too_long else b"".join(self._rest)
        self._rest, self._rest_bytes, self._is_too_long = [], 0, False
        return self._number, content


@dataclass(kw_only=True, slots=True)
class Storing:
    """One stream of lines on its way into the corpus. Used by one thread at a time."""

    corpus: Corpus
    source: str
    max_line_bytes: int
    lines: int = 0  # that held something
    added: int = 0
    changed: int = 0
    unchanged: int = 0
    head_seq: int = 0
    n_rejected: int = 0
    rejected: list[dict[str, Any]] = field(default_factory=list)

    def put(self, lines: Sequence[tuple[int, bytes | None]]) -> None:
        """Store these lines, in one transaction, but for those that cannot be stored."""
        documents: list[Document] = []
        line_of: dict[str, int] = {}
        for number, content in lines:
            if content is not None and not content.strip():
                continue
            self.lines += 1
            try:
                document = self._document(content)
            except InvalidDocument as error:
                self._reject(number, str(error))
            else:
                documents.append(document)
                line_of[document.doc_id] = number
        result = self.corpus.put(documents)
        for doc_id, owner in result.refused.items():
            self._reject(
                line_of[doc_id], f"{doc_id!r} belongs to source {owner!r}, not {self.source!r}"
            )
        self.added += result.added
        self.changed += result.changed
        self.unchanged += result.unchanged
        self.head_seq = result.head_seq

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": self.lines,
            "added": self.added,
            "changed": self.changed,
            "unchanged": self.unchanged,
            "n_rejected": self.n_rejected,
            "rejected": self.rejected,
            "seq": self.head_seq,
        }

    def _reject(self, number: int, reason: str) -> None:
        self.n_rejected += 1
        if len(self.rejected) < MAX_REJECTED:
            self.rejected.append({"line": number, "reason": reason})

    def _document(self, content: bytes | None) -> Document:
        if content is None:
            raise InvalidDocument(f"the line is longer than {self.max_line_bytes:,} bytes")
        try:
            value = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            raise InvalidDocument(f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise InvalidDocument("expected an object with doc_id and text")
        unknown = sorted(value.keys() - _FIELDS)
        if unknown:
            raise InvalidDocument(
                f"unknown field {unknown[0]!r}; expected doc_id, text, title and metadata"
            )
        metadata = value.get("metadata")
        if metadata is not None and not isinstance(metadata, dict):
            raise InvalidDocument("metadata is not an object")
        return Document.of(
            doc_id=value.get("doc_id"),
            text=value.get("text", ""),
            title=value.get("title", ""),
            metadata=metadata,
            source=self.source,
        )
