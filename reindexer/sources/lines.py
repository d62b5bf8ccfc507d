"""Lines of a file that may be compressed, huge, cut off or not text at all."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from reindexer.errors import SourceInvalid
from search.documents import MAX_TEXT_BYTES

# Room for a text of the largest allowed size with every character written as \uXXXX.
MAX_LINE_BYTES = 3 * MAX_TEXT_BYTES + 2_000_000
_CHUNK_BYTES = 1 << 20
_UTF8_BOM = b"\xef\xbb\xbf"
_FOREIGN = {
    b"PAR1": "is a Parquet file; add --format parquet, or name it .parquet",
    b"PK\x03\x04": "is a ZIP archive or an Excel workbook; unpack it, or export it as CSV",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it first: unzstd {name}",
    b"SQLite format 3": "is an SQLite database, not a text file",
}


_Stream = io.BufferedIOBase | gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile


class BrokenOff(Exception):
    """The file cannot be read any further; the message is the reason."""


class LineFile:
    """The lines of one file, gzip, bzip2 or xz unpacked by content, a byte order mark taken off.

    Raises SourceInvalid when the file cannot be opened or does not hold UTF-8 text.
    """

    def __init__(self, path: Path, label: str) -> None:
        self.path = path
        self.label = label
        self._size = 0  # bytes
        self._file: io.BufferedReader | None = None
        with self._open() as stream:
            try:
                head = stream.read(4096)
            except _READ_ERRORS as error:
                raise SourceInvalid(f"{label} cannot be read: {_cause(error)}") from error
        self._check(head)

    @property
    def share_read(self) -> float | None:
        if self._file is None or self._file.closed or not self._size:
            return None
        return min(1.0, self._file.tell() / self._size)

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Line numbers from 1, and lines with their line end; None for a line that is longer than
        MAX_LINE_BYTES, which is passed over in small pieces. Raises BrokenOff in the middle of
        damaged data."""
        number = 0
        with self._open() as stream:
            try:
                while line := stream.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if number == 1:
                        line = line.removeprefix(_UTF8_BOM)
                    if len(line) <= MAX_LINE_BYTES:
                        yield number, line
                        continue
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(_CHUNK_BYTES)
                    yield number, None
            except _READ_ERRORS as error:
                raise BrokenOff(
                    f"the file breaks off after line {number}: {_cause(error)}; "
                    "get a whole copy of it and ingest again"
                ) from error

    @contextlib.contextmanager
    def _open(self) -> Iterator[_Stream]:
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise SourceInvalid(f"{self.label} cannot be opened: {error.strerror}") from error
        with file:
            self._file = file
            self._size = os.fstat(file.fileno()).st_size
            magic = file.peek(6)
            if magic.startswith(b"\x1f\x8b"):
                yield gzip.GzipFile(fileobj=file)
            elif magic.startswith(b"BZh"):
                yield bz2.BZ2File(file)
            elif magic.startswith(b"\xfd7zXZ\x00"):
                yield lzma.LZMAFile(file)  # noqa: SIM115 (reads from the file that is closed here)
            else:
                yield file

    def _check(self, head: bytes) -> None:
        for magic, problem in _FOREIGN.items():
            if head.startswith(magic):
                raise SourceInvalid(f"{self.label} {problem.format(name=self.path.name)}")
        if encoding := utf16_encoding(head):
            raise SourceInvalid(
                f"{self.label} is {encoding}, expected UTF-8; convert it first: "
                f"iconv -f {encoding} -t UTF-8 {self.path.name} > utf8-{self.path.name}"
            )


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
