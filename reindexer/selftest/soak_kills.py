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
AIM_SHARE = 0.8  # of the time that a verb takes; one that is hit later may be over by then
DEAD_S = 1.0  # later comes a kill for which nobody was alive
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
        self._aims: Counter[str] = Counter()  # by verb
        self._restart = threading.Thread(target=lambda: None)
        self._restart.start()
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

    def verb_begins(self, verb: str, child: Child, takes_s: float | None) -> None:
        """takes_s: aim at it, and this is about how long it takes. Its own process and the service
        are hit by turns."""
        with self._turn:
            self._running, self._hit_verb = (verb, child), False
            if takes_s is not None:
                self._aimed = time.monotonic() + self._rng.uniform(0.0, AIM_SHARE * takes_s)
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
                    if self._over and left > DEAD_S:  # none is overdue
                        break
                    self._turn.wait(min(left, LONGEST_WAIT_S))
                    continue
                if is_aimed:
                    self._aimed = None
                else:
                    self._moments.pop()
                self._strike(is_aimed=is_aimed)
        self._restart.join()

    def _next(self) -> tuple[float, bool]:
        moment = self._moments[-1] if self._moments else float("inf")
        if self._aimed is not None and self._aimed <= moment:
            return self._aimed, True
        return moment, False

    def _strike(self, *, is_aimed: bool) -> None:
        is_dead = self._restart.is_alive()
        if self._running is None:
            if is_dead:
                self._moments.append(time.monotonic() + DEAD_S)
            else:
                self._kill_service("service")
            return
        verb, child = self._running
        if is_aimed:
            hits_verb = self._aims[verb] % 2 == 0
            self._aims[verb] += 1
        else:
            hits_verb = self._rng.random() < VERB_SHARE
        if hits_verb or is_dead:
            self._hit_verb = True
            child.kill()
        else:
            self._kill_service(f"service during {verb}")

    def _kill_service(self, who: str) -> None:
        """Without waiting until it is there again: the verb may be struck meanwhile."""
        self.counts[who] += 1
        self._restart = threading.Thread(target=self._service.kill)
        self._restart.start()
