"""What the system has of a file in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

WAIT_S = 60.0


def share_cached(files: list[Path]) -> float:
    """Of the pages with data of these files, how many the system has in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    cached = total = 0
    for file in files:
        with file.open("r+b") as source:
            written = os.lseek(source.fileno(), 0, os.SEEK_HOLE)
            with mmap.mmap(source.fileno(), written) as mapped:
                at = ctypes.c_char.from_buffer(mapped)
                pages = (ctypes.c_ubyte * -(-written // mmap.PAGESIZE))()
                address = ctypes.c_void_p(ctypes.addressof(at))
                assert libc.mincore(address, ctypes.c_size_t(written), pages) == 0
                del at
        cached += sum(page & 1 for page in pages)
        total += len(pages)
    return cached / total


def forget(files: list[Path]) -> None:
    """Have the system take them out of its cache, which it may not do at once."""
    deadline = time.monotonic() + WAIT_S
    while share_cached(files) > 0.1:
        assert time.monotonic() < deadline, "they are still in memory"
        for file in files:
            with file.open("rb") as source:
                os.fsync(source.fileno())  # what is not written yet stays
                os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        time.sleep(0.02)
