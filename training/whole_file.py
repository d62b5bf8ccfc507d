"""Files that are there whole or not at all, whatever ends the process or fills the disk."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write to: on the disk when the block ends, gone where that ends with an error.
    Raises OSError, which names path."""
    try:
        with path.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except BaseException as error:
        _remove(path)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of what is at path when the block ends without an
    error. Raises OSError, which names path, and then what was there still is."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            yield file
        fresh.replace(path)
    except OSError as error:
        _remove(fresh)
        if error.filename not in (None, str(fresh)):
            raise  # of something else that the block did
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        _remove(fresh)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """As a whole_file; raises OSError likewise."""
    with whole_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def sync_folder(folder: Path) -> None:
    """Have the disk keep what was renamed into it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(fresh: Path) -> None:
    with contextlib.suppress(OSError):
        fresh.unlink()
