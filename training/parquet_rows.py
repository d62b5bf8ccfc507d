"""Rows of a Parquet file that may be damaged."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def damage() -> tuple[type[Exception], ...]:
    """What pyarrow raises on a damaged file: errors of its own, and Python's where a name is no
    UTF-8 or a dictionary lacks an entry."""
    import pyarrow as pa

    return pa.ArrowException, ValueError, IndexError, OSError


def rows_of(batch: Any) -> Iterator[dict[str, object] | str]:
    """Each row of a pyarrow.RecordBatch as a record, or the reason why it cannot be one."""
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, IndexError):
        pass  # one bad value spoils the batch: read it row by row
    for at in range(batch.num_rows):
        try:
            yield batch.slice(at, 1).to_pylist()[0]
        except UnicodeDecodeError:
            yield "a text is not UTF-8; write the column as UTF-8 text"
        except (ValueError, IndexError) as error:
            yield f"a value cannot be read: {error}"
