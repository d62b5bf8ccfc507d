"""What a process that nobody watches leaves behind: logs, and traces when they are asked for."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

from reindexer import logs
from reindexer.errors import ReindexerError
from reindexer.settings import Settings
from search import traces

log = logging.getLogger(__name__)


class MetricsPortInUse(ReindexerError):
    """The port that metrics were to be answered at is taken."""


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


@contextlib.contextmanager
def metrics_served(settings: Settings, host: str, port: int | None) -> Iterator[None]:
    """Answer GET /metrics to the end of the block, unless port is None. Raises MetricsPortInUse."""
    if port is None:
        yield
        return
    from reindexer.status import read_status
    from search.telemetry import Telemetry, start_metrics_server

    try:
        server = start_metrics_server(port, Telemetry(lambda: read_status(settings)), host=host)
    except OSError as error:
        raise MetricsPortInUse(
            f"cannot answer metrics on {host}:{port}: {error.strerror}; choose another with "
            "--metrics-port, or --metrics-port 0 for any that is free"
        ) from error
    log.info("metrics at http://%s:%s/metrics", host, server.port)
    try:
        yield
    finally:
        server.close()
