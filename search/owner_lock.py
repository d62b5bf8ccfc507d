"""Which process owns an embedded collection."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from search.errors import StoreLocked

LOCK_POLL_S = 0.02


class OwnerLock:
    """An flock that dies with its process, so a dead owner is no obstacle."""

    def __init__(self, path: Path, name: str, wait_s: float, *, owner: int) -> None:
        """owner: pid to be named to others. Raises StoreLocked when somebody else still has it
        after wait_s."""
        self._path = path
        deadline = time.monotonic() + wait_s
        while True:
            self._descriptor: int | None = os.open(
                path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                if time.monotonic() >= deadline:
                    raise StoreLocked(_locked(name, holder, wait_s)) from None
                time.sleep(LOCK_POLL_S)
                continue
            if self._is_current():
                break
            os.close(self._descriptor)  # a drop took the file away while we waited for it
        with contextlib.suppress(OSError):  # on a full disk: the lock itself needs no room
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{owner}\n".encode(), 0)

    def _is_current(self) -> bool:
        assert self._descriptor is not None
        try:
            return os.path.samestat(os.fstat(self._descriptor), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self, *, remove: bool = False) -> None:
        """May be called twice. remove: take the file away too; whoever waits for it notices."""
        if self._descriptor is None:
            return
        if remove:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = None


def _locked(name: str, holder: str, wait_s: float) -> str:
    if holder == str(os.getpid()):
        return (
            f"collection {name!r} is already open in this process (pid {holder}); close it there "
            "before it is opened again"
        )
    return (
        f"collection {name!r} is open in process {holder or 'unknown'} and stayed so for "
        f"{wait_s:g} s; an embedded collection has one owner process: go through the running "
        f"`reindexer serve`, or stop that process (`ps -p {holder or 'PID'}` shows what it is)"
    )
