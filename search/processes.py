"""Names for processes that can be told apart later, and whether the named process still lives."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from pathlib import Path

# A process that has work to do and does nothing for so long hangs: one that waits for a slow disk
# or a server uses the processor now and then.
STILL_S = 120.0
_PR_SET_PDEATHSIG = 1


def process_name(pid: int | None = None) -> str:
    """host:pid:start, unique to this process, or another of this host, even when the pid is used
    again."""
    pid = os.getpid() if pid is None else pid
    return f"{_host()}:{pid}:{_start_of(pid)}"


def process_may_live(name: str) -> bool:
    """False only when the named process ran on this host and certainly is gone."""
    host, _, rest = name.partition(":")
    pid_text, _, start = rest.partition(":")
    if host != _host() or not pid_text.isdigit():
        return True
    try:
        os.kill(int(pid_text), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return _start_of(int(pid_text)) == start.partition(":")[0]


def describe_process(name: str) -> str:
    """The name for people."""
    host, _, rest = name.partition(":")
    pid = rest.partition(":")[0]
    return f"process {pid} on {host.partition('/')[0]}" if pid else "another process"


def short_process(name: str) -> str:
    """host:pid, for a line that has no room for more."""
    host, _, rest = name.partition(":")
    return f"{host.partition('/')[0]}:{rest.partition(':')[0]}"


def is_on_this_machine(name: str) -> bool:
    """Whether the named process shares this host (and container) with this one."""
    return name.partition(":")[0] == _host()


def _host() -> str:
    """Host name, and the pid namespace where there is one: containers may share a host name."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name.strip("pid:[]")
    except OSError:
        return socket.gethostname()
    return f"{socket.gethostname()}/{namespace}"


class Stillness:
    """For how long a process has done nothing at all: not used the processor."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used = _ticks_of(pid)
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Between looks; 0 where the system does not tell."""
        used = _ticks_of(self._pid)
        if used is None or used != self._used:
            self._used, self._since = used, time.monotonic()
        return time.monotonic() - self._since if used is not None else 0.0


def _ticks_of(pid: int) -> int | None:
    """Clock ticks that a process has used the processor for."""
    fields = _stat_of(pid)
    return int(fields[11]) + int(fields[12]) if fields else None


def _start_of(pid: int) -> str:
    """Start time of a process in clock ticks; "0" where the system does not tell."""
    fields = _stat_of(pid)
    if not fields:
        return "0"
    return "dead" if fields[0] in ("Z", "X") else fields[19]


def _stat_of(pid: int) -> list[str]:
    """What the system tells of a process behind its name; nothing where it does not."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that are there; none where the system does not
    tell."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # this one has
                found += map(int, (thread / "children").read_text("ascii").split())
    return found


def descendants_of(pid: int) -> list[int]:
    """Its children, theirs, and so on."""
    return [who for child in children_of(pid) for who in (child, *descendants_of(child))]


def run_module(module: str, *arguments: str) -> list[str]:
    """The command line for a module of ours. -P: a folder `search` where the user stands is not."""
    return [sys.executable, "-P", "-m", module, *arguments]


def die_with_parent(parent: int) -> None:
    """Ask the system to kill this process when its parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
