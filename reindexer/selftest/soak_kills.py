"""SIGKILLs at random moments of a soak, whatever else happens there."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable

from reindexer.selftest.child import Child
from reindexer.selftest.soak_service import SoakService

VERB_SHARE = 0.5  # of the kills while a verb runs hit its process, the others the service
LONGEST_WAIT_S = 3_600.0


class SoakKills:
    """A thread that kills the service, or the verb that runs just then.

    It has moments of its own, and one more within each verb that it is told to aim at: a verb is
    soon over, and chance alone would hardly ever meet it.
    """

    def __init__(self, service: SoakService, moments: Iterable[float], rng: random.Random) -> None:
        """moments: monotonic seconds."""
        self._service = service
        self._moments = sorted(moments, reverse=True)
        self._rng = rng
        self._turn = threading.Condition()
        self._running: tuple[str, Child] | None = None
        self._aimed: float | None = None
        self._hit_verb = False
        self._over = False
        self._thread = threading.Thread(target=self._strike_until_over)
        self.counts: Counter[str] = Counter()  # by who was killed while what went on

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """No kill comes after this, and the service answers. What is overdue comes first: a service
        takes its time to start."""
        with self._turn:
            self._over = True
            self._turn.notify()
        self._thread.join()

    def verb_begins(self, verb: str, child: Child, aim_within_s: float | None) -> None:
        """aim_within_s: strike at a random moment so soon, if the verb is not over by then."""
        with self._turn:
            self._running, self._hit_verb = (verb, child), False
            if aim_within_s is not None:
                self._aimed = time.monotonic() + self._rng.uniform(0.0, aim_within_s)
            self._turn.notify()

    def verb_ended(self, *, was_killed: bool) -> bool:
        """Whether it was this that killed it."""
        with self._turn:
            assert self._running is not None
            verb, _ = self._running
            self._running = self._aimed = None
            if not (self._hit_verb and was_killed):
                return False
            self.counts[verb] += 1
            return True

    def _strike_until_over(self) -> None:
        while True:
            with self._turn:
                at, is_aimed = self._next()
                if (left := at - time.monotonic()) > 0:
                    if self._over:
                        return
                    self._turn.wait(min(left, LONGEST_WAIT_S))
                    continue
                if is_aimed:
                    self._aimed = None
                else:
                    self._moments.pop()
                hits_service = self._strike()
            if hits_service:
                self._service.kill()

    def _next(self) -> tuple[float, bool]:
        moment = self._moments[-1] if self._moments else float("inf")
        if self._aimed is not None and self._aimed <= moment:
            return self._aimed, True
        return moment, False

    def _strike(self) -> bool:
        """Whether it is the service that is to be killed."""
        if self._running is None:
            self.counts["service"] += 1
            return True
        verb, child = self._running
        if self._rng.random() < VERB_SHARE:
            self._hit_verb = True
            child.kill()
            return False
        self.counts[f"service during {verb}"] += 1
        return True
