"""Blocking work of the API, off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """A few threads of their own for one kind of work, so that the others never wait for it.

    A hop to them and back takes less than half of what a hop to the event loop's shared threads
    takes.
    """

    def __init__(self, name: str, n_threads: int) -> None:
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` returns or raises. Cancelled before a thread is free, it is never done;
        afterwards it goes on to its end, and nobody waits for it."""
        context = contextvars.copy_context()
        future = self._pool.submit(context.run, functools.partial(work, *args, **kwargs))
        return await asyncio.wrap_future(future)
