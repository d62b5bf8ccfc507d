"""Lines of a file that may be compressed, huge, cut off or not text at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any

from reindexer.errors import SourceInvalid
from reindexer.sources.files import SourceFile
from reindexer.sources.positions import Position
from search.documents import MAX_TEXT_BYTES

# Room for a text of the largest allowed size with every character written as \uXXXX.
MAX_LINE_BYTES = 3 * MAX_TEXT_BYTES + 2_000_000
_CHUNK_BYTES = 1 << 20
_UTF8_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"PAR1": "is a Parquet file; add --format parquet, or name it .parquet",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook; unpack it, or export it as CSV",
    b"SQLite format 3": "is an SQLite database, not a text file",
}


_Stream = io.BufferedIOBase | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile


class BrokenOff(Exception):
    """The file cannot be read any further; the message is the reason."""


class LineFile:
    """The lines of one file, gzip, bzip2, xz or zstd unpacked by content, a byte order mark taken
    off.

    Raises SourceInvalid when the file cannot be opened or does not hold UTF-8 text.
    """

    def __init__(self, source_file: SourceFile) -> None:
        self.label = source_file.label
        self._source_file = source_file
        self._file: io.BufferedReader | None = None
        self._number = 0  # lines that the present iteration has given or passed
        self._offset = 0  # bytes, unpacked
        with self._open() as stream:
            try:
                head = stream.read(4096)
            except _READ_ERRORS as error:
                raise SourceInvalid(f"{self.label} cannot be read: {_cause(error)}") from error
        self._check(head)

    @property
    def share_read(self) -> float | None:
        size = self._source_file.size
        if self._file is None or self._file.closed or not size:
            return None
        return min(1.0, self._file.tell() / size)

    @property
    def position(self) -> Position:
        """Behind the line that the present iteration gave last."""
        return {"line": self._number, "offset": self._offset}

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        return self.lines(None)

    def lines(self, after: Position | None) -> Iterator[tuple[int, bytes | None]]:
        """Line numbers from 1, and lines with their line end; None for a line that is longer than
        MAX_LINE_BYTES, which is passed over in small pieces. Raises BrokenOff in the middle of
        damaged data.

        after: a position in the same file; what is compressed has to be unpacked up to there.
        """
        number, offset = (after["line"], after["offset"]) if after else (0, 0)
        self._number, self._offset = number, offset
        with self._open() as stream:
            try:
                _pass_over(stream, offset)
                while line := stream.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    offset += len(line)
                    if number == 1:
                        line = line.removeprefix(_UTF8_BOM)
                    is_whole = len(line) <= MAX_LINE_BYTES
                    piece = line
                    while not is_whole and piece and not piece.endswith(b"\n"):
                        piece = stream.readline(_CHUNK_BYTES)
                        offset += len(piece)
                    self._number, self._offset = number, offset
                    yield number, line if is_whole else None
            except _READ_ERRORS as error:
                raise BrokenOff(
                    f"the file breaks off after line {number}: {_cause(error)}; "
                    "get a whole copy of it and ingest again"
                ) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[_Stream]:
        with self._source_file.open() as file:
            self._file = file
            magic = file.peek(6)
            if magic.startswith(b"\x1f\x8b"):
                yield gzip.GzipFile(fileobj=file)
            elif magic.startswith(b"BZh"):
                yield bz2.BZ2File(file)
            elif magic.startswith(b"\xfd7zXZ\x00"):
                yield lzma.LZMAFile(file)  # noqa: SIM115 (reads from the file that is closed here)
            elif magic.startswith(b"\x28\xb5\x2f\xfd"):
                yield io.BufferedReader(_zstd(file), _CHUNK_BYTES)
            else:
                yield file

    def _check(self, head: bytes) -> None:
        for magic, problem in _FOREIGN.items():
            if head.startswith(magic):
                raise SourceInvalid(f"{self.label} {problem}")
        if encoding := utf16_encoding(head):
            raise SourceInvalid(
                f"{self.label} is {encoding}, expected UTF-8; convert it first: "
                f"iconv -f {encoding} -t UTF-8 {self.label} > utf8-{self.label}"
            )


def _zstd(file: io.BufferedReader) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


def _pass_over(stream: _Stream, n_bytes: int) -> None:
    if isinstance(stream, io.BufferedReader) and stream.seekable():
        stream.seek(n_bytes)
        return
    while n_bytes and (passed := len(stream.read(min(n_bytes, _CHUNK_BYTES)))):
        n_bytes -= passed


_READ_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


def _cause(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "the compressed data end too early"
    return str(getattr(error, "strerror", None) or error)


def utf16_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32 when the first bytes of a file look like it."""
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    # Without a mark, mostly Latin text in UTF-16 has a NUL in every other byte.
    threshold = max(3, len(head) // 4)
    if head[1::2].count(0) > threshold:
        return "UTF-16LE"
    if head[0::2].count(0) > threshold:
        return "UTF-16BE"
    return None
