"""How fast the builds of an installation were, from looks at how far they were."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

from search.pages.plots import Point

KEPT_S = 1_800.0  # half an hour is what the plot shows
MIN_GAP_S = 1.0  # between two points: checkpoints come in steps
MAX_BUILDS = 20
_SMOOTHED = 3  # gaps that one rate is taken over


class ThroughputLog:
    """Points (when, documents done) of builds that run. Safe to use from several threads."""

    def __init__(self) -> None:
        self._points: OrderedDict[int, list[Point]] = OrderedDict()
        self._lock = threading.Lock()

    def see(self, builds: Iterable[Mapping[str, Any]], *, now: float | None = None) -> None:
        """Builds as in the status. now: seconds of a steady clock."""
        now = time.monotonic() if now is None else now
        with self._lock:
            for build in builds:
                if build["state"] != "running":
                    continue
                points = self._points.setdefault(build["build_id"], [])
                done = float(build["docs_done"])
                if points and (now - points[-1][0] < MIN_GAP_S or done < points[-1][1]):
                    continue
                points.append((now, done))
                while points[0][0] < now - KEPT_S:
                    points.pop(0)
            while len(self._points) > MAX_BUILDS:
                self._points.popitem(last=False)

    def rates(self, build_id: int) -> list[Point]:
        """(seconds before the last look, 0 or less; documents a second). [] until it was looked at
        twice."""
        with self._lock:
            points = list(self._points.get(build_id, ()))
        if len(points) < 2:
            return []
        last = points[-1][0]
        found: list[Point] = []
        for number in range(1, len(points)):
            at, done = points[number]
            before_at, before_done = points[max(0, number - _SMOOTHED)]
            found.append((at - last, (done - before_done) / (at - before_at)))
        return [(points[0][0] - last, found[0][1]), *found]
