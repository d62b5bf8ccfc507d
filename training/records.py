"""Records of a file: JSON Lines, CSV and Parquet as one stream of field name to value."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

import orjson

from training.errors import PairsInvalid
from training.pairs import RejectedRow
from training.parquet_rows import damage, rows_of
from training.unicode_text import is_unicode

MAX_LINE_BYTES = 64_000_000
_DELIMITERS = ",\t;|"
_PARQUET_ROWS = 1_000  # of one read

Record: TypeAlias = Mapping[str, object]
Records: TypeAlias = Iterator[tuple[str, Record] | RejectedRow]  # place and record

_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError)


def jsonl_records(path: Path) -> Records:
    """The objects of a JSON Lines file, which may be compressed with gzip, bzip2 or xz.

    Raises PairsInvalid when the file cannot be opened, or holds one JSON array.
    """
    for number, line in _lines(path):
        where = f"{path.name}:{number}"
        if isinstance(line, str):
            yield RejectedRow(where=where, reason=line)
            continue
        if not line.strip():
            continue
        if number == 1 and line.strip() == b"[":
            raise PairsInvalid(
                f"{path.name} holds one JSON array, expected one object a line; convert it first: "
                f"jq -c '.[]' {path.name} > {path.stem}.jsonl"
            )
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            yield RejectedRow(where=where, reason=_json_problem(line, error))
            continue
        if isinstance(record, dict):
            yield where, record
        else:
            yield RejectedRow(where=where, reason="not a JSON object")


def csv_records(path: Path) -> Records:
    """The rows of a CSV or TSV file with a header; every value is text.

    The delimiter is the one of comma, tab, semicolon and bar that gives the header the most fields.
    Raises PairsInvalid when the file cannot be opened, is empty, or names a column twice.
    """
    csv.field_size_limit(MAX_LINE_BYTES)
    header, delimiter = _csv_header(path)
    reader = csv.reader(_texts(path), delimiter=delimiter, strict=True)
    first_line = 1
    while True:
        where = f"{path.name}:{first_line}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RejectedRow(
                where=where, reason=f"{error}; double the quotes inside a quoted field"
            )
            first_line = reader.line_num + 1
            continue
        is_header = first_line == 1
        first_line = reader.line_num + 1
        if is_header or not values:
            continue
        if len(values) != len(header):
            reason = (
                f"{len(values)} fields, the header has {len(header)}; a field that contains the "
                "delimiter or a line end needs quotes"
            )
            yield RejectedRow(where=where, reason=reason)
        elif not all(map(is_unicode, values)):
            yield RejectedRow(where=where, reason="not UTF-8; save the file as UTF-8")
        else:
            yield where, dict(zip(header, values, strict=True))


def parquet_records(path: Path) -> Records:
    """The rows of a Parquet file, read a batch at a time. Raises PairsInvalid when it is none."""
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in rows_of(batch):
                    number += 1
                    where = f"{path.name}:{number}"
                    if isinstance(row, str):
                        yield RejectedRow(where=where, reason=row)
                    else:
                        yield where, row
    except damage() as error:
        if number == 0:
            raise PairsInvalid(f"{path} cannot be read as Parquet: {error}") from error
        yield RejectedRow(where=f"{path.name}:{number + 1}", reason=f"the file breaks off: {error}")


def _csv_header(path: Path) -> tuple[list[str], str]:
    best: tuple[list[str], str] = ([], ",")
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader(_texts(path), delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise PairsInvalid(f"the first line of {path.name} cannot be read: {error}") from error
        if len(names) > len(best[0]):
            best = ([name.strip() for name in names], delimiter)
    if not best[0]:
        raise PairsInvalid(f"{path.name} is empty, expected a first line with the column names")
    for name in best[0]:
        if best[0].count(name) > 1:
            raise PairsInvalid(f"the header of {path.name} names {name!r} twice; rename one")
    return best


def _texts(path: Path) -> Iterator[str]:
    """Lines as text; bytes that are not UTF-8 become lone surrogates and spoil their row only."""
    for _number, line in _lines(path):
        if isinstance(line, str):
            raise csv.Error(line)
        yield line.decode("utf-8", "surrogateescape")


def _lines(path: Path) -> Iterator[tuple[int, bytes | str]]:
    """Line numbers from 1 and lines; a reason as str where a line cannot be had."""
    number = 0
    with _open(path) as stream:
        try:
            while line := stream.readline(MAX_LINE_BYTES + 1):
                number += 1
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if len(line) <= MAX_LINE_BYTES:
                    yield number, line
                    continue
                while line and not line.endswith(b"\n"):
                    line = stream.readline(1 << 20)
                yield number, f"the line has more than {MAX_LINE_BYTES:,} bytes"
        except _BROKEN as error:
            yield number + 1, f"the file breaks off here: {error}; get a whole copy of it"


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise PairsInvalid(f"{path} cannot be opened: {error.strerror}") from error
    with file:
        magic = file.peek(6)
        stream: Any = file
        if magic.startswith(b"\x1f\x8b"):
            stream = gzip.GzipFile(fileobj=file)
        elif magic.startswith(b"BZh"):
            stream = bz2.BZ2File(file)
        elif magic.startswith(b"\xfd7zXZ\x00"):
            stream = lzma.LZMAFile(file)  # noqa: SIM115 (reads from the file that is closed here)
        elif magic.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise PairsInvalid(
                f"{path.name} is UTF-16, expected UTF-8; convert it first: "
                f"iconv -f UTF-16 -t UTF-8 {path.name} > utf8-{path.name}"
            )
        yield stream


def _json_problem(line: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as problem:
        return (
            f"not UTF-8: byte 0x{line[problem.start]:02x} at byte {problem.start + 1} of the line; "
            "save the file as UTF-8"
        )
    return f"broken JSON at character {error.pos + 1}: {error.msg.partition(': line ')[0]}"
