"""Parquet: one document a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reindexer.errors import SourceInvalid
from reindexer.sources.rows import RecordReader, Rejected, Row

_BATCH_BYTES = 16 << 20
_MAX_BATCH_ROWS = 2_000


class ParquetSource:
    """Documents from a Parquet file, read a batch of rows at a time.

    Raises SourceInvalid when the file cannot be read or has no id or text column.
    """

    def __init__(self, path: Path, reader: RecordReader) -> None:
        self._path = path
        self._reader = reader
        self._label = path.name
        self._n_read = 0
        with self._open() as file:
            self._n_rows = int(file.metadata.num_rows)
            reader.check_fields(self._label, file.schema_arrow.names)

    @property
    def name(self) -> str:
        return self._reader.source

    @property
    def share_read(self) -> float | None:
        return self._n_read / self._n_rows if self._n_rows else None

    def __iter__(self) -> Iterator[Row | Rejected]:
        import pyarrow as pa

        self._n_read = 0
        with self._open() as file:
            batches = file.iter_batches(batch_size=_batch_rows(file.metadata))
            while True:
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except (pa.ArrowException, OSError) as error:
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

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise SourceInvalid(f"{self._label} cannot be read as Parquet: {error}") from error


def _batch_rows(metadata: Any) -> int:
    n_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    row_bytes = max(1, n_bytes // max(1, metadata.num_rows))
    return int(max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes)))


def _records(batch: Any) -> Iterator[dict[str, object] | str]:
    """Each row as a record, or the reason why it cannot be one."""
    batch = _microseconds(batch)
    try:
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, ValueError):
        pass  # one bad value spoils the batch: read it row by row
    for i in range(batch.num_rows):
        try:
            yield batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "a text is not UTF-8; write the column as UTF-8 text"
        except ValueError as error:
            yield f"a value cannot be read: {error}"


def _microseconds(batch: Any) -> Any:
    """Timestamps as Python can hold them: nanoseconds are cut off."""
    import pyarrow as pa

    for i, column in enumerate(batch.schema):
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            cut = batch.column(i).cast(pa.timestamp("us", column.type.tz), safe=False)
            batch = batch.set_column(i, column.name, cut)
    return batch
