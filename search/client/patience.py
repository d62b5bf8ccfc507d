"""How long to wait before asking again, and until when to ask at all."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from search.client.calls import Call
from training.retries import backoff_s, retry_after_s

Outcome = httpx.Response | httpx.TransportError  # of one try

AGAIN = frozenset({429, 503})  # the service says that it may answer later


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How often a call is tried, and for how long."""

    tries: int = 5
    deadline_s: float | None = 60.0  # of one call with all its tries
    first_wait_s: float = 0.25  # before the second try; doubles from try to try
    longest_wait_s: float = 20.0
    connect_s: float = 5.0
    read_s: float = 60.0  # between two pieces of an answer

    def within(self, seconds: float | None) -> Patience:
        return replace(self, deadline_s=seconds)


@dataclass(kw_only=True, slots=True)
class Attempts:
    """One call on its way: how often it was tried, and when it must end."""

    call: Call[Any]
    patience: Patience
    n_tried: int = 0
    until: float | None = field(init=False)  # on the monotonic clock

    def __post_init__(self) -> None:
        seconds = self.patience.deadline_s if self.call.has_deadline else None
        self.until = None if seconds is None else time.monotonic() + seconds

    def begin(self) -> httpx.Timeout:
        """What one more try may take."""
        self.n_tried += 1
        patience, left_s = self.patience, max(self._left_s(), 0.001)
        if not self.call.has_deadline:
            return httpx.Timeout(None, connect=patience.connect_s)
        return httpx.Timeout(min(patience.read_s, left_s), connect=min(patience.connect_s, left_s))

    def wait_s(self, outcome: Outcome) -> float | None:
        """Seconds until the next try; None when this is what the call comes to."""
        if not self.call.may_repeat or self.n_tried >= self.patience.tries:
            return None
        asked_s = 0.0
        if isinstance(outcome, httpx.Response):
            if outcome.status_code not in AGAIN:
                return None
            asked_s = retry_after_s(outcome.headers)
        seconds = backoff_s(
            self.n_tried,
            first_s=self.patience.first_wait_s,
            longest_s=self.patience.longest_wait_s,
            asked_s=asked_s,
        )
        return seconds if seconds < self._left_s() else None

    def answered(self) -> None:
        """It works: later failures are counted from here."""
        self.n_tried = 1

    @property
    def is_over(self) -> bool:
        return self._left_s() <= 0

    def _left_s(self) -> float:
        return math.inf if self.until is None else self.until - time.monotonic()
