"""A build gives way to queries, and stops soon when it is told to.

Serving processes write the latency of their last queries into the catalog with each heartbeat. The
build reads that once a second, and its pace (`reindexer.pace`) follows. Its actors, wherever they
are, read that pace from the journal.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from reindexer.pace import HEARTBEAT_S
from search.errors import SearchError
from search.processes import children_of, is_on_this_machine
from search.serving_processes import ServingProcess

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often the build asks whether it is to stop
SLICE_S = 0.1  # of a rest; a change of mind is noticed after one
LOWEST_PRIORITY = 19


class BuildStopped(Exception):
    """Somebody asked this build to pause or to be cancelled."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class BuildPace(Protocol):
    """The share of the time that a build works: `reindexer.pace.Pace`, or `GivenPace` in one of its
    actors."""

    @property
    def share(self) -> float:
        """0 while nothing is to begin."""
        ...

    @property
    def reason(self) -> str | None: ...

    def follow(
        self, serving: Sequence[ServingProcess], now: float, *, encodes: bool, is_busy: bool
    ) -> None: ...


class Governor:
    """Lets the batches of a build through: as many, and as often, as queries allow."""

    def __init__(
        self,
        *,
        wanted: Callable[[], str | None],
        serving: Callable[[], Sequence[ServingProcess]],
        pace: BuildPace | None,
        workers: int = 1,
        on_change: Callable[[float, str | None], None] = lambda _share, _reason: None,
        on_yield: Callable[[float], None] = lambda _seconds: None,
        on_neighbours: Callable[[], None] = lambda: None,
    ) -> None:
        """wanted: whether somebody asked for `pause` or `cancel`. pace: None keeps full speed.
        workers: batches that are encoded side by side. on_change hears of another pace, on_yield
        of the time that was given to queries; on_neighbours is called once somebody serves on this
        machine."""
        self._wanted = wanted
        self._serving = serving
        self._pace = pace
        self.workers = workers
        self.encodes = False  # whether the build does now, here or in its actors
        self.batches = 0  # let through so far
        self._on_change = on_change
        self._on_yield = on_yield
        self._on_neighbours = on_neighbours
        self._stop: str | None = None  # what is wanted
        self._leaves_core = False
        self._has_neighbours = False
        self._running = 0  # at work, or resting after it
        self._working = 0
        self._room = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="governor", daemon=True)
        self._shown: tuple[float, str | None] = (1.0, None)

    def __enter__(self) -> Governor:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def ask_to_stop(self, *_signal: object) -> None:
        """Stop before the next batch, as if somebody had asked for a pause."""
        self._stop = "pause"

    def check(self) -> None:
        """Raises BuildStopped when the build is to stop."""
        if self._stop is not None:
            raise BuildStopped(self._stop)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Around each batch that is encoded, in the thread that does it. Raises BuildStopped."""
        asked = time.perf_counter()
        with self._room:
            while self._running >= self._limit():
                self.check()
                self._room.wait(SLICE_S)
            self._running += 1
            self.batches += 1
            self.encodes = True
        try:
            self.check()
            began = time.perf_counter()
            with self._at_work():
                yield
            ended = time.perf_counter()
            self._rest(ended, ended - began)
            self._on_yield((time.perf_counter() - ended + began - asked) / self.workers)
        finally:
            with self._room:
                self._running -= 1
                self._room.notify()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with self._room:
            self._working += 1
        try:
            yield
        finally:
            with self._room:
                self._working -= 1

    def _limit(self) -> int:
        """How many batches may be under way."""
        if self._pace is not None and self._pace.share == 0:
            return 0
        return max(1, self.workers - 1) if self._leaves_core else self.workers

    def _rest(self, since: float, worked_s: float) -> None:
        """Until the batch was the pace's share of the time; the pace may change meanwhile."""
        while self._pace is not None:
            share = self._pace.share
            rest_s = worked_s * (1 / share - 1) if share else math.inf
            left_s = since + rest_s - time.perf_counter()
            if left_s <= 0:
                return
            self.check()
            time.sleep(min(left_s, SLICE_S))

    # -- looking on --------------------------------------------------------------------------------

    def _look_on(self) -> None:
        looked_at = -HEARTBEAT_S
        while not self._ended.is_set():
            try:
                self._stop = self._wanted() or self._stop
                now = time.monotonic()
                if self._pace is not None and now - looked_at >= HEARTBEAT_S:
                    looked_at = now
                    self._adapt(self._pace, now)
            except SearchError as error:  # the replay finds out by itself
                log.info("the governor cannot read the catalog: %s", error)
            self._ended.wait(LOOK_S)

    def _adapt(self, pace: BuildPace, now: float) -> None:
        serving = self._serving()
        neighbours = [process for process in serving if is_on_this_machine(process.name)]
        if neighbours and not self._has_neighbours:
            self._has_neighbours = True
            self._on_neighbours()
        self._leaves_core = any(process.load is not None for process in neighbours)
        pace.follow(serving, now, encodes=self.encodes, is_busy=self._working > 0)
        shown = (round(pace.share, 2), pace.reason)
        if shown != self._shown:
            self._shown = shown
            self._on_change(*shown)


def lower_priority() -> None:
    """Leave the cores to others whenever they want them: every thread of this process and of those
    it has started, and with them those that are yet to be started. For processes that were made to
    build: it stays like that.

    On Linux as work for idle cores, which gives way at once: whoever has a low priority alone keeps
    a core for milliseconds when another wants it.
    """
    if sys.platform != "linux":
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
        return
    for thread in _threads(os.getpid()):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or the system forbids it
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))


def _threads(pid: int) -> Iterator[int]:
    """Of a process, then of all that it has started; each has a priority of its own on Linux."""
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield int(thread.name)
    for child in children_of(pid):
        yield from _threads(child)
