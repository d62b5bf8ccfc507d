"""One id for each request: in its answer, in the log, and in whatever it causes."""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar

from starlette.types import Scope

HEADER = "X-Request-Id"
_HEADER = HEADER.lower().encode()
_USABLE = re.compile(rb"[A-Za-z0-9._~:/+=@-]{1,128}")  # nothing that could forge a line of a log

# Of the request under way; "" outside of one. Work that `Threads` takes off the event loop has it.
REQUEST_ID: ContextVar[str] = ContextVar("reindexer_request_id", default="")


def new_id() -> str:
    """16 characters that were never given before: 96 random bits."""
    return secrets.token_urlsafe(12)


def request_id(scope: Scope) -> str:
    """The id that the caller sent, if it is one that can be used; else a new one."""
    for name, value in scope["headers"]:
        if name == _HEADER:
            return value.decode("ascii") if _USABLE.fullmatch(value) else new_id()
    return new_id()
