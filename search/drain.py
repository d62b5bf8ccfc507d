"""The end of a serving process: no new work, and what is under way comes to its end."""

from __future__ import annotations

import asyncio


class Drain:
    """Whether this process is on its way out. Safe to use from several threads and from a signal
    handler."""

    def __init__(self) -> None:
        self._begun = False
        self._streams: dict[asyncio.Task[object], asyncio.AbstractEventLoop] = {}

    @property
    def begun(self) -> bool:
        return self._begun

    def begin(self) -> None:
        """Answer no more readiness checks with yes, and end the streams that would never end."""
        self._begun = True
        for task, loop in list(self._streams.items()):
            loop.call_soon_threadsafe(task.cancel)

    def add_stream(self, task: asyncio.Task[object]) -> None:
        """The task sends a stream without an end: it is cancelled when the drain begins."""
        self._streams[task] = task.get_loop()
        if self.begun:
            task.cancel()

    def remove_stream(self, task: asyncio.Task[object]) -> None:
        self._streams.pop(task, None)
