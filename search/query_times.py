"""How long the queries of the last seconds took, for whoever has to keep out of their way."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WINDOW_S = 3.0  # short, so that a build notices at once that it is in the way, and that it is not
MAX_QUERIES = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class QueryLoad:
    """What a process answered in the last seconds."""

    queries_per_s: float
    p50_ms: float
    p99_ms: float


class QueryTimes:
    """A sliding window over the queries of one process. Safe to use from several threads."""

    def __init__(self, *, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic):
        self._window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._queries: deque[tuple[float, float]] = deque(maxlen=MAX_QUERIES)  # (when, ms)

    def record(self, took_ms: float) -> None:
        """A query was answered just now. Takes less than a microsecond."""
        with self._lock:
            self._queries.append((self._clock(), took_ms))

    def load(self) -> QueryLoad | None:
        """None when nobody asked in the last seconds."""
        since = self._clock() - self._window_s
        with self._lock:
            queries = list(self._queries)
        recent = [(at, ms) for at, ms in queries if at >= since]
        if not recent:
            return None
        # More than it can hold came within less than the window: count over what it holds.
        is_full = len(recent) == MAX_QUERIES
        span_s = max(1e-3, self._clock() - recent[0][0]) if is_full else self._window_s
        took_ms = sorted(ms for _, ms in recent)
        return QueryLoad(
            queries_per_s=len(recent) / span_s,
            p50_ms=_percentile(took_ms, 50),
            p99_ms=_percentile(took_ms, 99),
        )


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that so many percent do not exceed (nearest rank)."""
    rank = -(-len(ascending) * percent // 100)
    return ascending[max(0, rank - 1)]
