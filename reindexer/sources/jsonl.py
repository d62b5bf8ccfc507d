"""JSON Lines: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import orjson

from reindexer.errors import SourceInvalid
from reindexer.sources.files import SourceFile
from reindexer.sources.lines import MAX_LINE_BYTES, BrokenOff, LineFile
from reindexer.sources.positions import Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import FileSource

_SAMPLED_LINES = 100
_SAMPLED_BYTES = 4_000_000


class JsonLinesSource(FileSource):
    """Documents from a JSON Lines file, which may be compressed.

    Raises SourceInvalid when the file cannot be read, or none of its first rows has an id and a
    text.
    """

    format = "jsonl"

    def __init__(self, file: SourceFile, reader: RecordReader) -> None:
        super().__init__(file, reader)
        self._is_json = ".json" in file.suffixes
        self._lines = LineFile(file)
        self._check_first_rows()

    @property
    def share_read(self) -> float | None:
        return self._lines.share_read

    @property
    def position(self) -> Position:
        return self._lines.position

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        number = after["line"] if after else 0
        try:
            for number, line in self._lines.lines(after):
                where = f"{self._label}:{number}"
                if line is None:
                    yield Rejected(
                        where=where, reason=f"the line has more than {MAX_LINE_BYTES:,} bytes"
                    )
                    continue
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    yield Rejected(where=where, reason=_json_problem(line, error))
                    continue
                if isinstance(record, dict):
                    yield self._reader.read(where, record)
                else:
                    yield Rejected(where=where, reason=f"{_kind(record)}, expected a JSON object")
        except BrokenOff as error:
            yield Rejected(where=f"{self._label}:{number + 1}", reason=str(error))

    def _is_array(self, first_line: bytes) -> bool:
        """A list on the first line of .jsonl may be one bad row; .json promises nothing else."""
        start = first_line.strip()
        return start == b"[" or (start.startswith(b"[") and self._is_json)

    def _check_first_rows(self) -> None:
        fields: set[str] = set()
        n_bytes = 0
        try:
            for number, line in islice(self._lines, _SAMPLED_LINES):
                if number == 1 and line is not None and self._is_array(line):
                    raise SourceInvalid(
                        f"{self._label} holds one JSON array, expected one object a line; convert "
                        f"it first: jq -c '.[]' {self._label} > documents.jsonl"
                    )
                n_bytes += len(line or b"")
                if line is None or n_bytes > _SAMPLED_BYTES:
                    break
                try:
                    record = orjson.loads(line)
                except orjson.JSONDecodeError:
                    continue
                if isinstance(record, dict):
                    fields.update(record)
        except BrokenOff:
            pass  # said when the rows are read
        if fields:
            self._reader.check_fields(self._label, fields)


def _kind(value: object) -> str:
    match value:
        case None:
            return "the line is null"
        case list():
            return "the line is a list"
        case str():
            return "the line is a text"
        case bool():
            return "the line is a boolean"
        case _:
            return "the line is a number"


def _json_problem(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as problem:
        return (
            f"not UTF-8: byte 0x{line[problem.start]:02x} at byte {problem.start + 1} of the line; "
            "save the file as UTF-8"
        )
    constants: list[str] = []
    try:
        json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError):
        pass
    else:
        if constants:
            return f"{constants[0]} is not JSON; write null instead"
    place = min(error.pos, len(text.rstrip("\r\n"))) + 1  # not on the line end
    return f"broken JSON at character {place}: {error.msg.partition(': line ')[0]}"
