"""CSV and TSV: one record a row, the names of the fields in the first."""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator

from reindexer.errors import SourceInvalid
from reindexer.sources.files import SourceFile
from reindexer.sources.lines import MAX_LINE_BYTES, BrokenOff, LineFile
from reindexer.sources.positions import Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import FileSource
from training.unicode_text import is_unicode

_DELIMITERS = ",\t;|"
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,15})?")


class DelimitedSource(FileSource):
    """Documents from a CSV or TSV file with a header, which may be compressed.

    The delimiter is the one of comma, tab, semicolon and bar that gives the header the most fields.
    Metadata fields are text, except those that read as a plain number and write back the same
    (2024 and 1.5, not 007, 1.50 or 1e3). Empty metadata fields are left out.

    Raises SourceInvalid when the file cannot be read or has no usable header.
    """

    format = "csv"

    def __init__(self, file: SourceFile, reader: RecordReader) -> None:
        super().__init__(file, reader)
        self._lines = LineFile(file)
        self._position: Position = {"line": 0, "offset": 0}
        self._delimiter, self._header = self._read_header()
        reader.check_fields(self._label, [name for name in self._header if name])
        self._plain = frozenset((*reader.id_fields, *reader.text_fields, *reader.title_fields))

    @property
    def share_read(self) -> float | None:
        return self._lines.share_read

    @property
    def position(self) -> Position:
        return self._position

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        feed = _Feed(self._lines, after)
        records = self._records(feed)
        if not (after and after["line"]):
            next(records)  # the header
        while True:
            feed.begin_record()
            row: Row | Rejected | None = None
            try:
                fields = next(records)
            except StopIteration:
                return
            except (csv.Error, _TooLong) as error:
                # An open quote swallows line after line: give back all but the first of them.
                row = Rejected(where=self._where(feed), reason=_csv_problem(error, feed.n_lines))
                feed.give_back()
            except BrokenOff as error:
                yield Rejected(where=self._where(feed), reason=str(error))
                return
            else:
                if fields:
                    row = self._read(self._where(feed), fields)
            if feed.has_given_all:
                self._position = self._lines.position
            if row:
                yield row

    def _read(self, where: str, fields: list[str]) -> Row | Rejected:
        if len(fields) != len(self._header):
            return Rejected(
                where=where,
                reason=f"{len(fields)} fields, the header has {len(self._header)}; "
                "a field that contains the delimiter or a line end needs quotes",
            )
        for name, value in zip(self._header, fields, strict=True):
            if not is_unicode(value):
                return Rejected(
                    where=where, reason=f"field {name!r} is not UTF-8; save the file as UTF-8"
                )
        return self._reader.read(
            where,
            {
                name: value if name in self._plain else _typed(value)
                for name, value in zip(self._header, fields, strict=True)
                if name and (value or name in self._plain)
            },
        )

    def _read_header(self) -> tuple[str, list[str]]:
        best: tuple[str, list[str]] = (",", [])
        for delimiter in _DELIMITERS:
            try:
                header = next(self._records(_Feed(self._lines), delimiter))
            except StopIteration:
                raise SourceInvalid(
                    f"{self._label} is empty, expected a first line with the names of the fields"
                ) from None
            except (csv.Error, _TooLong, BrokenOff) as error:
                raise SourceInvalid(
                    f"the first line of {self._label} cannot be read: {_csv_problem(error, 1)}"
                ) from error
            if len(header) > len(best[1]):
                best = (delimiter, [name.strip() for name in header])
        named = [name for name in best[1] if name]
        for name in named:
            if named.count(name) > 1:
                raise SourceInvalid(
                    f"the header of {self._label} names {name!r} twice; rename one of the columns"
                )
        return best

    def _records(self, feed: _Feed, delimiter: str | None = None) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_LINE_BYTES)  # the default rejects fields past 128 KiB
        return csv.reader(feed, delimiter=delimiter or self._delimiter, strict=True)

    def _where(self, feed: _Feed) -> str:
        return f"{self._label}:{feed.first_line}"


class _TooLong(Exception):
    """A line or a record is longer than any allowed document."""


class _Feed:
    """Hands lines to the CSV parser and remembers those of the record that is being read.

    Bytes that are not UTF-8 become lone surrogates, so that they spoil their own field only.
    """

    def __init__(self, lines: LineFile, after: Position | None = None) -> None:
        self._lines = lines.lines(after)
        self._given_back: deque[tuple[int, bytes | None]] = deque()
        self._record: list[tuple[int, bytes | None]] = []
        self._n_bytes = 0
        self._last_line = after["line"] if after else 0

    @property
    def has_given_all(self) -> bool:
        """Nothing that was read from the file waits to be parsed."""
        return not self._given_back

    @property
    def n_lines(self) -> int:
        return len(self._record)

    @property
    def first_line(self) -> int:
        return self._record[0][0] if self._record else self._last_line + 1

    def begin_record(self) -> None:
        self._record.clear()
        self._n_bytes = 0

    def give_back(self) -> None:
        self._given_back.extendleft(reversed(self._record[1:]))

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        number, line = self._given_back.popleft() if self._given_back else next(self._lines)
        self._last_line = number
        self._record.append((number, line))
        self._n_bytes += len(line or b"")
        if line is None or self._n_bytes > MAX_LINE_BYTES:
            raise _TooLong(f"the row has more than {MAX_LINE_BYTES:,} bytes")
        return line.decode("utf-8", "surrogateescape")


def _typed(value: str) -> str | int | float:
    if not _NUMBER.fullmatch(value):
        return value
    number = float(value) if "." in value else int(value)
    return number if str(number) == value else value


def _csv_problem(error: Exception, n_lines: int) -> str:
    if n_lines > 1:
        return "a quote is opened here and not closed; double the quotes inside a quoted field"
    problem = str(error)
    if "expected after" in problem:
        return "text after a closing quote; double the quotes inside a quoted field"
    if "unexpected end" in problem:
        return "a quote is opened here and not closed; double the quotes inside a quoted field"
    return problem
