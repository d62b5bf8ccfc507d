"""The service of a soak: killed at any moment, started again, and it is known when it was away."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from reindexer.selftest.asker import Asker
from reindexer.selftest.child import Sabotage, Service
from reindexer.selftest.texts import text_of
from reindexer.selftest.word_directory import WordDirectory

ANSWERS_WITHIN_S = 90.0  # after a start, however busy the machine is
POLL_S = 0.05


@dataclass(slots=True)
class _Outage:
    began: float
    ended: float = float("inf")


class SoakService:
    """`serve` in a process of its own, until the end of the soak."""

    def __init__(self, data: WordDirectory, sabotage: Sabotage | None) -> None:
        """sabotage: what goes wrong inside it, whenever it is started."""
        self._data = data
        self._sabotage = sabotage
        self._lock = threading.Lock()
        self._outages: list[_Outage] = []
        self.restarts_s: list[float] = []
        self.problems: list[str] = []
        self._service = Service(data.settings, sabotage)
        self._wait_until_it_answers()

    @property
    def pid(self) -> int:
        return self._service.pid

    def kill(self) -> None:
        """Kill it, start it again, and wait until it answers."""
        outage = _Outage(time.monotonic())
        with self._lock:
            self._outages.append(outage)
        self._service.kill()
        self._service = Service(self._data.settings, self._sabotage)
        self._wait_until_it_answers()
        outage.ended = time.monotonic()
        self.restarts_s.append(outage.ended - outage.began)

    def was_away(self, began: float, ended: float) -> bool:
        """At any moment between the two (monotonic seconds)."""
        with self._lock:
            return any(outage.began <= ended and began <= outage.ended for outage in self._outages)

    def end(self, is_done: Callable[[], bool]) -> None:
        """Once it has done what it has to, ask it to end."""
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while time.monotonic() < deadline and not is_done():
            time.sleep(POLL_S)
        if code := self._service.end(signal.SIGTERM):
            self.problems.append(f"the service ended with exit code {code}")

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while time.monotonic() < deadline:
            if not self._service.is_alive():
                self.problems.append("the service ended by itself")
                return
            asker = Asker(self._data)
            error = asker.ask(text_of(0))
            asker.close()
            if error is None:
                return
            time.sleep(POLL_S)
        self.problems.append(f"the service did not answer within {ANSWERS_WITHIN_S:.0f} s")
