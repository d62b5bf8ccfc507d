"""How far the live generation has come, and who waits for it to come further."""

from __future__ import annotations

import threading

from search.generations import Catalog
from search.serving import SearcherManager


class Visibility:
    """The last seq that both legs of this process's live generation have applied. Whoever replays,
    or looks what others replay, refreshes it; many may wait. Safe to use from several threads."""

    def __init__(self, manager: SearcherManager, catalog: Catalog) -> None:
        self._manager = manager
        self._catalog = catalog
        self._changed = threading.Condition()
        self._n_waiting = 0
        self._generation: str | None = None
        self._seq = 0

    def refresh(self) -> None:
        """Look again, if somebody waits. Raises DatabaseUnavailable."""
        if not self._n_waiting:
            return
        current = self._manager.current
        if current is None:
            return
        seq = min(current.lexical.watermark, self._catalog.watermark(current.name))
        with self._changed:
            self._generation, self._seq = current.name, seq
            self._changed.notify_all()

    def wait(self, seq: int, timeout_s: float) -> bool:
        """True once everything up to seq is visible; False when it is not after timeout_s."""
        with self._changed:
            self._n_waiting += 1
            try:
                return self._changed.wait_for(lambda: self._has(seq), timeout_s)
            finally:
                self._n_waiting -= 1

    def _has(self, seq: int) -> bool:
        current = self._manager.current
        return current is not None and current.name == self._generation and self._seq >= seq
