"""Parquet: one document a row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from reindexer.errors import SourceInvalid
from reindexer.sources.files import SourceFile
from reindexer.sources.positions import Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import FileSource
from training.parquet_rows import damage, rows_of

_BATCH_BYTES = 16 << 20
_MAX_BATCH_ROWS = 2_000


class ParquetSource(FileSource):
    """Documents from a Parquet file, read a batch of rows at a time and a row group after the
    other: behind a URL, no more than one row group is in memory.

    Raises SourceInvalid when the file cannot be read or has no id or text column.
    """

    format = "parquet"

    def __init__(self, file: SourceFile, reader: RecordReader) -> None:
        super().__init__(file, reader)
        self._n_read = 0
        with self._open() as parquet:
            self._n_rows = int(parquet.metadata.num_rows)
            reader.check_fields(self._label, parquet.schema_arrow.names)

    @property
    def share_read(self) -> float | None:
        return self._n_read / self._n_rows if self._n_rows else None

    @property
    def position(self) -> Position:
        return {"row": self._n_read}

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        self._n_read = after["row"] if after else 0
        with self._open() as parquet:
            batches = _batches(parquet, self._n_read)
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except damage() as error:
                    yield Rejected(
                        where=f"{self._label}:{self._n_read + 1}",
                        reason=f"the file breaks off here: {error}; get a whole copy of it and "
                        "ingest again",
                    )
                    return
                for record in _records(batch):
                    self._n_read += 1
                    where = f"{self._label}:{self._n_read}"
                    if isinstance(record, dict):
                        yield self._reader.read(where, record)
                    else:
                        yield Rejected(where=where, reason=record)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        import pyarrow.parquet

        with self._file.open() as file:
            try:
                # Behind a URL, one request for the columns of a row group, not one for each.
                metadata = pyarrow.parquet.read_metadata(file)
                file.seek(0)
                parquet = pyarrow.parquet.ParquetFile(
                    file,
                    metadata=metadata,
                    pre_buffer=self._file.is_remote,
                    read_dictionary=_texts(metadata.schema.to_arrow_schema()),
                )
            except damage() as error:
                raise SourceInvalid(f"{self._label} cannot be read as Parquet: {error}") from error
            with parquet:
                yield parquet


def _batches(parquet: Any, n_passed: int) -> Iterator[Any]:
    """Record batches from a row on; the row groups before it are not read."""
    size = _batch_rows(parquet.metadata)
    for group in range(parquet.metadata.num_row_groups):
        n_rows = parquet.metadata.row_group(group).num_rows
        if n_passed >= n_rows:
            n_passed -= n_rows
            continue
        for batch in parquet.iter_batches(batch_size=size, row_groups=[group]):
            if n_passed >= batch.num_rows:
                n_passed -= batch.num_rows
                continue
            yield batch.slice(n_passed)
            n_passed = 0


def _batch_rows(metadata: Any) -> int:
    n_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    row_bytes = max(1, n_bytes // max(1, metadata.num_rows))
    return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes)))


def _texts(schema: Any) -> list[str]:
    """Columns of text. A value that a file repeats a million times takes a few bytes there, and has
    to stay one value here."""
    import pyarrow as pa

    return [field.name for field in schema if pa.types.is_string(field.type)]


def _records(batch: Any) -> Iterator[dict[str, object] | str]:
    """Each row as a record, or the reason why it cannot be one."""
    batch = _microseconds(batch)
    size = max(1, min(batch.num_rows, _BATCH_BYTES // max(1, _longest_row(batch))))
    for start in range(0, batch.num_rows, size):
        yield from rows_of(batch.slice(start, size))


def _longest_row(batch: Any) -> int:
    """Bytes of text that one row can have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return sum(
        pc.max(pc.binary_length(column.dictionary)).as_py() or 0
        for column in batch.columns
        if pa.types.is_dictionary(column.type) and len(column.dictionary)
    )


def _microseconds(batch: Any) -> Any:
    """Timestamps as Python can hold them: nanoseconds are cut off."""
    import pyarrow as pa

    for i, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            cut = batch.column(i).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(i, column.name, cut)
    return batch
