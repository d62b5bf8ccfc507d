"""Verbs in processes of their own, which can be killed, and the diary that such a process keeps."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from reindexer.errors import ReindexerError
from reindexer.settings import Settings
from search.errors import SearchError
from search.processes import die_with_parent
from training.errors import TrainingError
from training.kill_points import KillPoint, Listener, kill_here, listen

Sabotage = Callable[[], None]  # breaks something on purpose, inside the child

# A process is forked from one that has imported everything and started no thread: 20 ms.
_processes = multiprocessing.get_context("forkserver")
# An exit code can be read once, and a start reads those of all who have ended: threads take turns.
_turn = threading.Lock()
_PRELOADED = ["reindexer.selftest.verbs", "search.lexical", "alembic.command"]

# The first of these is the first write that lasts.
_WRITES = ("corpus.commit", "upsert.acknowledged", "stale.removed", "lexical.saved", "model.named")
_ENCODED, _FAILED = "encoded", "failed"  # entries of a diary that are no kill points


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
    failure: str | None  # why it gave up, where it did with an error of ours


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
        with _turn:
            self._process.start()

    def wait(self) -> int:
        """The exit code; -9 when it was killed."""
        code = _ended(self._process)
        self._process.close()
        return code

    def kill(self) -> None:
        """Now, from any thread, unless it has ended."""
        with contextlib.suppress(ValueError):  # it has been waited for
            self._process.kill()

    def kill_after(self, seconds: float) -> int:
        """Kill it unless it has ended by then; the exit code."""
        wait([self._process.sentinel], seconds)
        self._process.kill()
        return self.wait()

    def read_diary(self) -> Diary:
        lines = self._diary.read_text("ascii").splitlines() if self._diary.exists() else []
        entries = [line.split(" ", 2) for line in lines]
        failures = [entry[2] for entry in entries if entry[1] == _FAILED]
        writes = [float(entry[0]) for entry in entries if entry[1] in _WRITES]
        return Diary(
            reached=Counter(entry[1] for entry in entries if len(entry) == 2),
            encoded=sum(int(entry[2]) for entry in entries if entry[1] == _ENCODED),
            first_write_s=min(writes) - self._began if writes else None,
            failure=failures[0] if failures else None,
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
        line = f"{time.monotonic():.6f} {text}".replace("\n", " ")
        os.write(handle, f"{line}\n".encode("ascii", "backslashreplace"))

    if sabotage is not None:
        sabotage()
    listen(_listener(write, kill_at))
    try:
        with WordDirectory(settings, on_encoded=lambda n: write(f"{_ENCODED} {n}")) as data:
            VERBS[verb](data, argument)
    except (SearchError, TrainingError, ReindexerError) as error:
        write(f"{_FAILED} {type(error).__name__}: {error}")
        sys.exit(1)


def _ended(process: BaseProcess) -> int:
    """Wait for its end; the exit code."""
    wait([process.sentinel])
    with _turn:
        process.join()
        code = process.exitcode
    assert code is not None
    return code


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
        with _turn:
            self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def is_alive(self) -> bool:
        with _turn:
            return self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        _ended(self._process)

    def end(self, number: signal.Signals) -> int:
        """The exit code."""
        os.kill(self.pid, number)
        return _ended(self._process)


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
