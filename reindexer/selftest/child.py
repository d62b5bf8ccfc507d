"""Verbs in processes of their own, which can be killed, and the diary that such a process keeps."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from reindexer.settings import Settings
from search.processes import die_with_parent
from training.kill_points import KillPoint, Listener, kill_here, listen

Sabotage = Callable[[], None]  # breaks something on purpose, inside the child

# A process is forked from one that has imported everything and started no thread: 20 ms.
_processes = multiprocessing.get_context("forkserver")
_PRELOADED = ["reindexer.selftest.verbs", "search.lexical", "alembic.command"]

# The first of these is the first write that lasts.
_WRITES = ("corpus.commit", "upsert.acknowledged", "stale.removed", "lexical.saved", "model.named")


@dataclass(frozen=True, kw_only=True, slots=True)
class KillAt:
    """When a child kills itself: at a named point, the nth time."""

    point: str
    nth: int

    def __str__(self) -> str:
        return self.point if self.nth == 1 else f"{self.point}:{self.nth}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Diary:
    """What a child came to, killed or not."""

    reached: Counter[str]  # kill points, how often
    encoded: int  # passages given to a model
    first_write_s: float | None  # from the start of the process; None: it wrote nothing


class Child:
    """One verb in a process of its own."""

    def __init__(
        self,
        settings: Settings,
        verb: str,
        argument: str,
        *,
        diary: Path,
        kill_at: KillAt | None = None,
        sabotage: Sabotage | None = None,
    ) -> None:
        diary.unlink(missing_ok=True)
        self._diary = diary
        self._began = time.monotonic()
        self._process: BaseProcess = _processes.Process(
            target=_live, args=(settings, verb, argument, str(diary), kill_at, sabotage)
        )
        self._process.start()

    def wait(self) -> int:
        """The exit code; -9 when it was killed."""
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        assert code is not None
        return code

    def kill_after(self, seconds: float) -> int:
        """Kill it unless it has ended by then; the exit code."""
        self._process.join(seconds)
        self._process.kill()
        return self.wait()

    def read_diary(self) -> Diary:
        lines = self._diary.read_text("ascii").splitlines() if self._diary.exists() else []
        entries = [line.split(" ") for line in lines]
        writes = [float(entry[0]) for entry in entries if entry[1] in _WRITES]
        return Diary(
            reached=Counter(entry[1] for entry in entries if entry[1] != "encoded"),
            encoded=sum(int(entry[2]) for entry in entries if entry[1] == "encoded"),
            first_write_s=min(writes) - self._began if writes else None,
        )


def prepare_children(own: Settings | None = None) -> None:
    """Before the first child; later it changes nothing. own: as in `sandbox`."""
    store = "dense_qdrant" if own is not None and own.store_kind == "qdrant" else "dense_edge"
    _processes.set_forkserver_preload([*_PRELOADED, f"search.{store}"])


def was_killed(code: int) -> bool:
    return code == -signal.SIGKILL


def _live(
    settings: Settings,
    verb: str,
    argument: str,
    diary: str,
    kill_at: KillAt | None,
    sabotage: Sabotage | None,
) -> None:
    """The whole life of a child."""
    from reindexer.selftest.verbs import VERBS
    from reindexer.selftest.word_directory import WordDirectory

    die_with_parent(os.getppid())
    # O_APPEND and no buffer: a line that was written is there, whatever dies when.
    handle = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(text: str) -> None:
        os.write(handle, f"{time.monotonic():.6f} {text}\n".encode("ascii"))

    if sabotage is not None:
        sabotage()
    listen(_listener(write, kill_at))
    with WordDirectory(settings, on_encoded=lambda n: write(f"encoded {n}")) as data:
        VERBS[verb](data, argument)


def _listener(write: Callable[[str], None], kill_at: KillAt | None) -> Listener:
    times: Counter[str] = Counter()

    def listener(point: KillPoint) -> None:
        write(point)
        times[point] += 1
        if kill_at is not None and (point, times[point]) == (kill_at.point, kill_at.nth):
            kill_here()

    return listener


class Service:
    """`serve` in a process of its own, at any free port of this machine."""

    def __init__(self, settings: Settings, sabotage: Sabotage | None = None) -> None:
        self._process: BaseProcess = _processes.Process(target=_serve, args=(settings, sabotage))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def end(self, number: signal.Signals) -> int:
        """The exit code."""
        os.kill(self.pid, number)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode


def _serve(settings: Settings, sabotage: Sabotage | None) -> None:
    from reindexer.selftest.word_directory import WordDirectory
    from reindexer.service import ReindexerService

    die_with_parent(os.getppid())
    if sabotage is not None:
        sabotage()
    # As `serve` does: once it has drained, the server raises the signal again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with WordDirectory(settings) as data:
        ReindexerService(data, host="127.0.0.1", port=0).run(on_ready=lambda _url: None)
