"""Whether the disk has room for what the embedded engine is about to write.

The engine writes through memory maps of files with holes. A map has no way to say that the disk is
full: the kernel ends the process with SIGBUS, and with it a service that was answering. So room is
looked for first (a call takes some 2 µs). What a quota of the user forbids, this does not see.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from search.errors import DiskFull

OPENING_BYTES = 30_000_000  # 21 MB measured; searching needs no more
COLLECTION_BYTES = 40_000_000  # of one with next to nothing in it; 38 MB measured
# What stays free beside a write: room to open a collection again, and for what SQLite and the
# lexical index write at the same moment.
RESERVE_BYTES = 64_000_000
# Set aside for `reindexer prune`: what frees a full disk has to write to the database first. To
# open that and prune a generation took 70 kB.
SPARE_BYTES = 1_000_000
_SPARE = "spare"


def keep_spare(folder: Path) -> None:
    """Set the room for a prune aside, unless it is, or the disk is full already."""
    spare = folder / _SPARE
    with contextlib.suppress(OSError):
        if spare.exists() or shutil.disk_usage(folder).free < RESERVE_BYTES:
            return
        spare.write_bytes(os.urandom(SPARE_BYTES))  # zeros would take no room on some disks


def give_spare(folder: Path) -> None:
    """Before a prune: give the room that was set aside back, if the disk is full."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < RESERVE_BYTES:
            (folder / _SPARE).unlink(missing_ok=True)


def check_room(
    folder: Path, what: str, more_bytes: int = 0, *, reserve_bytes: int = RESERVE_BYTES
) -> None:
    """Raises DiskFull unless so many bytes fit beside the reserve."""
    free = shutil.disk_usage(folder).free
    needed = reserve_bytes + more_bytes
    if free < needed:
        raise DiskFull(
            f"{what}: the disk of {folder} is full: {_mb(free)} free, {_mb(needed)} needed. "
            "Nothing of it was stored; make room (`reindexer prune`) and try again"
        )


def bytes_on_disk(folder: Path) -> int:
    """What the files below a folder take up; holes take nothing. Files and folders that go away
    meanwhile, as those of a working engine do, are left out."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
