"""A build gives way to queries, and stops soon when it is told to.

Serving processes write the latency of their last queries into the catalog with each heartbeat. The
build reads that once a second and works a smaller share of the time while 99 of 100 queries take
longer than they should: it halves its pace when they do, and adds a little when they do not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from search.errors import SearchError
from search.generations import ServingProcess
from search.processes import is_on_this_machine, short_process
from search.query_times import WINDOW_S

log = logging.getLogger(__name__)

LOOK_S = 0.5  # how often the build asks whether it is to stop
SLICE_S = 0.1  # of a rest; a change of mind is noticed after one
DECREASE = 0.5  # times the pace when queries are too slow
INCREASE = 0.05  # added a second while they are well within their target
WELL_WITHIN = 0.8  # of the target
HEARTBEAT_S = 1.0
PATIENCE_S = HEARTBEAT_S + WINDOW_S  # until figures show what the last decrease has changed
LOWEST_PRIORITY = 19


class BuildStopped(Exception):
    """Somebody asked this build to pause or to be cancelled."""

    def __init__(self, wanted: str) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class Pace:
    """The share of the time that a build works: additive increase, multiplicative decrease."""

    def __init__(self, *, target_ms: float, lowest: float) -> None:
        self.share = 1.0
        self.reason: str | None = None  # why it is below 1
        self._target_ms = target_ms
        self._lowest = lowest
        self._at: float | None = None
        self._wait_until = 0.0

    def follow(self, serving: Sequence[ServingProcess], now: float) -> None:
        """Adapt to what the serving processes measured. now: seconds of any clock."""
        passed_s = 0.0 if self._at is None else min(max(0.0, now - self._at), PATIENCE_S)
        self._at = now
        slowest = max(
            (process for process in serving if process.load is not None),
            key=lambda process: process.load.p99_ms if process.load is not None else 0.0,
            default=None,
        )
        p99_ms = slowest.load.p99_ms if slowest is not None and slowest.load is not None else 0.0
        if slowest is not None and p99_ms > self._target_ms:
            if now >= self._wait_until:
                self.share = max(self._lowest, self.share * DECREASE)
                self._wait_until = now + PATIENCE_S
            self.reason = (
                f"p99 {p99_ms:.0f} ms > {self._target_ms:g} ms on {short_process(slowest.name)}"
            )
        elif p99_ms <= WELL_WITHIN * self._target_ms:
            # Without queries there is nobody to give way to: back to full speed twice as fast.
            step = INCREASE if slowest is not None else 2 * INCREASE
            self.share = min(1.0, self.share + step * passed_s)
        if self.share >= 1.0:
            self.reason = None


class Governor:
    """Lets the batches of a build through: as many, and as often, as queries allow."""

    def __init__(
        self,
        *,
        wanted: Callable[[], str | None],
        serving: Callable[[], Sequence[ServingProcess]],
        pace: Pace | None,
        workers: int = 1,
        on_change: Callable[[float, str | None], None] = lambda _share, _reason: None,
        on_yield: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """wanted: whether somebody asked for `pause` or `cancel`. pace: None keeps full speed.
        workers: batches that are encoded side by side. on_change hears of another pace, on_yield
        of the time that was given to queries."""
        self._wanted = wanted
        self._serving = serving
        self._pace = pace
        self.workers = workers
        self._on_change = on_change
        self._on_yield = on_yield
        self.batches = 0  # let through so far
        self._stop: str | None = None  # what is wanted
        self._leaves_core = False
        self._is_polite = False
        self._running = 0
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
        try:
            self.check()
            began = time.perf_counter()
            yield
            ended = time.perf_counter()
            self._rest(ended, ended - began)
            self._on_yield((time.perf_counter() - ended + began - asked) / self.workers)
        finally:
            with self._room:
                self._running -= 1
                self._room.notify()

    def _limit(self) -> int:
        return max(1, self.workers - 1) if self._leaves_core else self.workers

    def _rest(self, since: float, worked_s: float) -> None:
        """Until the batch was the pace's share of the time; the pace may change meanwhile."""
        while self._pace is not None:
            left_s = since + worked_s * (1 / self._pace.share - 1) - time.perf_counter()
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

    def _adapt(self, pace: Pace, now: float) -> None:
        serving = self._serving()
        neighbours = [process for process in serving if is_on_this_machine(process.name)]
        if neighbours and not self._is_polite:
            self._is_polite = True
            lower_priority()
        self._leaves_core = any(process.load is not None for process in neighbours)
        pace.follow(serving, now)
        shown = (round(pace.share, 2), pace.reason)
        if shown != self._shown:
            self._shown = shown
            self._on_change(*shown)


def lower_priority() -> None:
    """Leave the cores to others whenever they want them: every thread that there is, and with it
    those that it will start. A build that was told so stays like that to its end."""
    threads = [0]
    if sys.platform == "linux":  # where a thread has a priority of its own
        threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended meanwhile, or the system forbids it
            os.setpriority(os.PRIO_PROCESS, thread, LOWEST_PRIORITY)
