"""Logs of the processes that nobody watches: one event a line, for people or for a machine.

Every line of JSON has time, level, logger and message; where they are known also request_id,
generation and build_id. Secrets of API keys are masked before a record exists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal

from search.masking import mask_keys, mask_keys_in_logs
from search.request_ids import REQUEST_ID

LogFormat = Literal["console", "json"]
OWN_LOGGERS = ("training", "search", "reindexer")
ACCESS_LOGGER = "search.access_log"
_LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
# What `logging` itself puts on a record; whatever else is there came with `extra`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_known: ContextVar[Mapping[str, Any]] = ContextVar("reindexer_log_fields", default=_NOTHING)


class Complaint:
    """A failure that a loop meets again and again: told when it begins and when it changes."""

    def __init__(self, logger: logging.Logger, words: str) -> None:
        """words: what cannot be done because of it."""
        self._logger, self._words = logger, words
        self._told: str | None = None

    def tell(self, error: Exception) -> None:
        if str(error) != self._told:
            self._told = str(error)
            self._logger.warning("%s: %s", self._words, error)

    def end(self) -> None:
        if self._told is not None:
            self._told = None
            self._logger.info("%s: no longer", self._words)


@contextlib.contextmanager
def known(**fields: Any) -> Iterator[None]:
    """What is logged within the block, by this thread or task, carries these fields."""
    token = _known.set({**_known.get(), **fields})
    try:
        yield
    finally:
        _known.reset(token)


def configure(
    log_format: Literal["auto", "console", "json"] = "auto",
    level: Literal["debug", "info", "warning", "error"] | int = "info",
    *,
    access: bool = False,
) -> None:
    """Log to stderr from now on, in place of whatever was configured before. auto is json unless
    stderr is a terminal. The level is that of our packages; of others, warnings are enough."""
    mask_keys_in_logs()
    if log_format == "auto":
        log_format = "console" if sys.stderr.isatty() else "json"
    handler = _StderrHandler()
    handler.setFormatter(_JsonLines() if log_format == "json" else _ConsoleLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    number = level if isinstance(level, int) else _LEVELS[level]
    root.setLevel(max(number, logging.WARNING))
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(number)
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.INFO if access else logging.CRITICAL)


def current_format() -> LogFormat:
    """How this process logs, for a child that writes to the same stderr."""
    handlers = logging.getLogger().handlers
    is_json = any(isinstance(handler.formatter, _JsonLines) for handler in handlers)
    return "json" if is_json else "console"


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(mask_keys(self.format(record)) + "\n")  # what came as `extra`, too
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


class _ConsoleLines(logging.Formatter):
    """`14:03:07 WARNING search.serving: message  generation=docs@2`"""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f"  {name}={value}" for name, value in _fields(record).items())
        text = f"{at} {record.levelname} {record.name}: {record.getMessage()}{fields}"
        trace = _trace(self, record)
        return f"{text}\n{trace}" if trace else text


class _JsonLines(logging.Formatter):
    """One JSON object a line, whatever is in the message."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        trace = _trace(self, record)
        if trace:
            event["trace"] = trace
        return json.dumps(event, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """What is known where it was logged, and what came along as `extra`."""
    fields: dict[str, Any] = {}
    if request_id := REQUEST_ID.get():
        fields["request_id"] = request_id
    fields |= _known.get()
    extra = vars(record).items()  # other libraries mark records with names that begin with _
    fields |= {name: value for name, value in extra if name not in _STANDARD and name[0] != "_"}
    return fields


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_text:
        return record.exc_text
    if record.exc_info and record.exc_info[0] is not None:
        return formatter.formatException(record.exc_info)
    return ""


def _iso(at: float) -> str:
    milliseconds = int(at * 1_000) % 1_000
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{milliseconds:03d}Z"
