"""What the embedded engine raises, as our errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from search.errors import DiskFull, SearchError, StoreError, StoreLocked, StoreUnavailable
from training.errors import MEMORY_IS_SHORT, is_disk_full

_NO_MEMORY = ("Cannot allocate memory", "Out of memory", "OutOfMemory")


@contextlib.contextmanager
def engine_errors(what: str, kind: type[StoreError], advice: str = "") -> Iterator[None]:
    """The engine raises bare Exceptions, and panics of its Rust code as a BaseException."""
    try:
        yield
    except SearchError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        text = " ".join(str(error).split())
        if "WAL" in text and "WouldBlock" in text:
            raise StoreLocked(
                f"{what}: a program that is not reindexer has it open; stop it and try again"
            ) from error
        if any(words in text for words in _NO_MEMORY):
            kind, advice = StoreUnavailable, f"{MEMORY_IS_SHORT}, and try again"
        if is_disk_full(error):
            kind, advice = DiskFull, "make room (`reindexer prune`) and try again"
        raise kind(f"{what}: {text}" + (f"; {advice}" if advice else "")) from error
