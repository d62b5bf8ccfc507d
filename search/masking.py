"""API keys do not get into logs, whoever writes them."""

from __future__ import annotations

import logging
import re
import traceback
from typing import Any

_KEY = re.compile(r"rk_([A-Za-z0-9]+)_[A-Za-z0-9]+")


def mask_keys(text: str) -> str:
    """The text without secrets of API keys. A key's id stays: it says which one to revoke."""
    return _KEY.sub(r"rk_\1_****", text) if "rk_" in text else text


def mask_keys_in_logs() -> None:
    """From now on, in this process: every logger, handler and library. A filter on a handler would
    miss handlers that are added later, and one on a logger the loggers below it."""
    if not isinstance(logging.getLogRecordFactory(), _MaskedRecords):
        logging.setLogRecordFactory(_MaskedRecords())


class _MaskedRecords:
    def __init__(self) -> None:
        self._make = logging.getLogRecordFactory()

    def __call__(self, *args: Any, **more: Any) -> logging.LogRecord:
        record = self._make(*args, **more)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # logging would print the arguments that do not fit
            message = f"{record.msg} {record.args!r}"
            record.msg, record.args = mask_keys(message), ()
        if "rk_" in message:
            record.msg, record.args = mask_keys(message), ()
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if "rk_" in trace:
                record.exc_text, record.exc_info = mask_keys(trace), None
        return record
