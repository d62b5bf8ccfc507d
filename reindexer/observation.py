"""What a process that nobody watches leaves behind: logs, and traces when they are asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from reindexer import logs
from reindexer.settings import Settings
from search import traces


@contextlib.contextmanager
def observed(settings: Settings, name: str, *, verbosity: int = 0) -> Iterator[None]:
    """Log and trace as the settings say, to the end of the block. name: of the process, such as
    reindexer-serve. verbosity: how often -v was given. Raises TracesUnavailable."""
    level = "debug" if verbosity else settings.log_level
    logs.configure(settings.log_format, level, access=settings.log_access)
    if traces.are_wanted(settings.traces, os.environ):
        traces.start(name)
    try:
        yield
    finally:
        traces.stop()
