"""The end of a serving process: no new work, and what is under way comes to its end."""

from __future__ import annotations


class Drain:
    """Whether this process is on its way out. May be begun in any thread, and in a signal handler;
    an answer that would never end looks here now and then, and ends."""

    def __init__(self) -> None:
        self._begun = False

    @property
    def begun(self) -> bool:
        return self._begun

    def begin(self) -> None:
        """From now on this process says that it is not ready."""
        self._begun = True
