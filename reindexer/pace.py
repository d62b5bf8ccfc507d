"""The pace of a build: the share of the time that queries leave it.

Where queries take longer than they should, the build is held for a few seconds, which tells how
long they take without it. What counts from then on is what the build adds: queries that are slow
anyway, on a small machine or with a slow encoder, do not starve it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from search.processes import short_process
from search.query_times import WINDOW_S
from search.serving_processes import ServingProcess

DECREASE = 0.5  # times the pace when queries are too slow
INCREASE = 0.05  # added a second while they are well within what is allowed
HEARTBEAT_S = 1.0
PATIENCE_S = HEARTBEAT_S + WINDOW_S  # until figures show what the last decrease has changed
HOLD_S = PATIENCE_S + HEARTBEAT_S  # until they are of queries alone; actors hear a little later
IDLE_KEPT_S = 60.0  # how long what was measured then counts, and the least between two holds
WELL_WITHIN = 0.8  # of the target
ALLOWED_OVER_IDLE = 1.3  # times what queries take without the build, if that is beyond the target
WELL_OVER_IDLE = 1.15  # likewise, what counts as well within


class Pace:
    """Additive increase, multiplicative decrease, and a look at what queries take by themselves."""

    def __init__(self, *, target_ms: float, lowest: float) -> None:
        """target_ms: of the 99th percentile. lowest: share that the build always has."""
        self.reason: str | None = None  # why it is below 1, or is not
        self._share = 1.0
        self._target_ms = target_ms
        self._lowest = lowest
        self._at: float | None = None
        self._wait_until = 0.0
        self._held_since: float | None = None
        self._held_at: float | None = None  # when the last hold began
        self._missed: dict[str, float] = {}  # p99 of the processes that were too slow before it
        self._idle_ms: dict[str, float] = {}  # p99 by process, while the build was held
        self._idle_at = 0.0

    @property
    def share(self) -> float:
        """0 while the build is held."""
        return 0.0 if self._held_since is not None else self._share

    def follow(
        self,
        serving: Sequence[ServingProcess],
        now: float,
        *,
        encodes: bool = True,
        is_busy: bool = False,
    ) -> None:
        """Adapt to what the serving processes measured. now: seconds of any clock. encodes: whether
        holding the build takes its work away now. is_busy: it has not come to rest yet."""
        passed_s = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        p99_ms = {item.name: item.load.p99_ms for item in serving if item.load is not None}
        if self._held_since is not None:
            if is_busy or passed_s > PATIENCE_S:  # or this process itself was held up
                self._held_since = now
            if now - self._held_since < HOLD_S:
                return
            self._held_since = None
            self._idle_ms, self._idle_at = p99_ms, now
            p99_ms = {**p99_ms, **self._missed}
        elif now - self._idle_at > IDLE_KEPT_S:
            self._idle_ms = {}
        self._decide(p99_ms, now, min(passed_s, PATIENCE_S), encodes)

    def _decide(self, p99_ms: dict[str, float], now: float, passed_s: float, encodes: bool) -> None:
        slowest = max(p99_ms, key=lambda name: p99_ms[name] / self._allowed_ms(name), default=None)
        if slowest is None:  # nobody to give way to: back to full speed twice as fast
            self._quicken(2 * INCREASE * passed_s)
            self.reason = None if self._share >= 1 else self.reason
            return
        found_ms = p99_ms[slowest]
        where = short_process(slowest)
        if found_ms > self._allowed_ms(slowest):
            if encodes and self._may_hold(now):
                self._held_since = self._held_at = now
                self._missed = {
                    name: ms for name, ms in p99_ms.items() if ms > self._allowed_ms(name)
                }
                self.reason = f"looking what p99 {found_ms:.0f} ms on {where} is without the build"
                return
            if now >= self._wait_until:
                self._share = max(self._lowest, self._share * DECREASE)
                self._wait_until = now + PATIENCE_S
        elif found_ms <= self._well_within_ms(slowest):
            self._quicken(INCREASE * passed_s)
        self.reason = self._reason(slowest, found_ms)

    def _quicken(self, more: float) -> None:
        self._share = min(1.0, self._share + more)

    def _may_hold(self, now: float) -> bool:
        return self._held_at is None or now - self._held_at > IDLE_KEPT_S

    def _reason(self, slowest: str, found_ms: float) -> str | None:
        """What stands above the target, or why the pace is still low."""
        if found_ms <= self._target_ms:
            return self.reason if self._share < 1 else None
        where = short_process(slowest)
        idle_ms = self._idle_ms.get(slowest, 0.0)
        if idle_ms <= self._target_ms:
            return f"p99 {found_ms:.0f} ms > {self._target_ms:g} ms on {where}"
        return (
            f"p99 {found_ms:.0f} ms on {where}, {idle_ms:.0f} ms without the build "
            f"(target {self._target_ms:g} ms)"
        )

    def _allowed_ms(self, name: str) -> float:
        return max(self._target_ms, ALLOWED_OVER_IDLE * self._idle_ms.get(name, 0.0))

    def _well_within_ms(self, name: str) -> float:
        idle_ms = self._idle_ms.get(name, 0.0)
        return max(WELL_WITHIN * self._target_ms, WELL_OVER_IDLE * idle_ms)


class GivenPace:
    """The pace that an actor of a build is given: the one that the build has written down."""

    reason = None

    def __init__(self, read: Callable[[], float | None]) -> None:
        """read: the share of the time, from the journal; None for all of it."""
        self.share = 1.0
        self._read = read

    def follow(
        self,
        serving: Sequence[ServingProcess],
        now: float,
        *,
        encodes: bool = True,
        is_busy: bool = False,
    ) -> None:
        """Read it again; what serving processes measure, the build has looked at."""
        del serving, now, encodes, is_busy
        given = self._read()
        self.share = 1.0 if given is None else given
