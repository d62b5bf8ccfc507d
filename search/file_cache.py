"""Files that the system has in memory before somebody waits for a page of them.

    python -m search.file_cache FILE...

reads them in a process of its own, for whoever must not open them.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from search.processes import run_module

MODULE = "search.file_cache"  # this one
READ_BYTES = 4 << 20
LOOK_S = 0.05  # between two looks whether it is done
SHARE = 0.25  # of the memory that nobody uses, for one call


def read_ahead(files: Iterable[Path], is_over: Callable[[], bool] = lambda: False) -> None:
    """Read them to their ends, where there is room for all of them: what is asked for at random is
    otherwise read from the disk page by page, 0.1 ms each. is_over: stop.

    Never for the file of a SQLite database that this process has open: closing it here would give
    up the locks that SQLite holds on it (fcntl's belong to the process), and others destroy it. See
    `read_ahead_apart`.
    """
    buffer = bytearray(READ_BYTES)
    with contextlib.suppress(OSError):  # nothing depends on it
        there = list(files)
        if sum(file.stat().st_size for file in there) > SHARE * _unused_bytes():
            return
        for file in there:
            with file.open("rb", buffering=0) as source:
                while not is_over() and source.readinto(buffer):
                    pass


def read_ahead_apart(files: Iterable[Path], stop: threading.Event) -> None:
    """`read_ahead` in another process, until it is done or told to stop. It says nothing, also when
    Ctrl-C ends it."""
    with contextlib.suppress(OSError):  # no process can be started
        process = subprocess.Popen(
            run_module(MODULE, *map(str, files)),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None:
            if stop.wait(LOOK_S):
                process.kill()
                process.wait()


def _unused_bytes() -> int:
    """Memory that the system could give; 0 where it does not tell."""
    for line in Path("/proc/meminfo").read_text("ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return 0


if __name__ == "__main__":
    read_ahead(map(Path, sys.argv[1:]))
