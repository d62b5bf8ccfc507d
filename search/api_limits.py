"""What one process lets itself be asked: sizes, requests at once, deadlines, and the last drain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.drain import Drain
from search.errors import DeadlineExceeded, NotReady, Overloaded

if TYPE_CHECKING:
    from search.service import Service

# A probe must tell what is wrong with a busy process, a stream of events holds nothing up, and the
# way back must be open to an operator whatever the load.
UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics", "/events", "/rollback"})
STREAM_STALL_S = 60.0  # a streamed body, in or out, may take as long as it likes if it gets on


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiLimits:
    """How much one process lets itself be asked."""

    max_query_chars: int = 10_000
    max_k: int = 1_000
    max_batch: int = 1_000  # queries or documents in one request
    max_body_bytes: int = 16_000_000  # of one request; of one line, where a request is a stream
    max_concurrent: int = 64  # requests under way; one more is refused
    deadline_s: float = 30.0  # for one request


def install(app: FastAPI, service: Service) -> None:
    """Hold every request to the limits."""
    app.add_middleware(_Limits, limits=service.limits, drain=service.drain)


def limits_of(request: Request) -> RequestLimits:
    """The limits that this one request is held to."""
    found = request.scope["state"]["limits"]
    assert isinstance(found, RequestLimits)
    return found


async def unhurried(request: Request) -> None:
    """For `Depends`: work that takes as long as it takes has no deadline."""
    limits_of(request).lift_deadline()


class RequestLimits:
    """The limits of one request. Used on the event loop alone, but for `deadline`."""

    __slots__ = ("_counter", "_timeout", "deadline", "max_body_bytes")

    def __init__(self, limits: ApiLimits, counter: _Counter, timeout: asyncio.Timeout) -> None:
        self._counter = counter
        self._timeout = timeout
        self.deadline: float | None = time.monotonic() + limits.deadline_s
        self.max_body_bytes: int | None = limits.max_body_bytes

    def lift_deadline(self) -> None:
        self.deadline = None
        self._timeout.reschedule(None)

    def renew_deadline(self, seconds: float) -> None:
        """A request that gets on may go on: so many seconds from now."""
        self.deadline = time.monotonic() + seconds
        self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """The request only waits, so another one may come in meanwhile."""
        self._counter.under_way -= 1
        try:
            yield
        finally:
            self._counter.under_way += 1


class _Counter:
    """Requests under way in this process."""

    __slots__ = ("under_way",)

    def __init__(self) -> None:
        self.under_way = 0


class _Limits:
    def __init__(self, app: ASGIApp, *, limits: ApiLimits, drain: Drain) -> None:
        self._app = app
        self._limits = limits
        self._drain = drain
        self._counter = _Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in UNCOUNTED:
            await self._held(scope, receive, send)
        elif self._counter.under_way >= self._limits.max_concurrent:
            await _refuse(
                Overloaded(
                    f"{self._counter.under_way} requests are under way in this process, as many "
                    "as serve.max_concurrent allows; try again in a second"
                ),
                scope,
                receive,
                send,
            )
        else:
            self._counter.under_way += 1
            try:
                await self._held(scope, receive, send)
            finally:
                self._counter.under_way -= 1

    async def _held(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold the request to its size and its deadline."""
        task = asyncio.current_task()
        assert task is not None
        timeout = asyncio.timeout(self._limits.deadline_s)
        held = RequestLimits(self._limits, self._counter, timeout)
        scope.setdefault("state", {})["limits"] = held
        has_started = False

        async def watched(message: Message) -> None:
            nonlocal has_started
            if message.get("more_body", False):
                held.renew_deadline(STREAM_STALL_S)
            has_started = True
            await send(message)

        try:
            async with timeout:
                await self._app(scope, _sized(scope, receive, held), watched)
        except TimeoutError:
            if not timeout.expired() or has_started:
                raise
            error: Exception = DeadlineExceeded(
                f"the request took longer than the {self._limits.deadline_s:g} s that one may take "
                "(serve.deadline_s); ask for less at once, or try again"
            )
            await _refuse(error, scope, receive, send)
        except asyncio.CancelledError:
            if has_started or not self._drain.begun:
                raise
            task.uncancel()
            error = NotReady("this process is on its way out and could wait no longer")
            await _refuse(error, scope, receive, send)


def _sized(scope: Scope, receive: Receive, held: RequestLimits) -> Receive:
    """receive, which counts what comes in: a body may be sent without saying how long it is."""
    length = None
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            length = int(value)
            break
        if name == b"transfer-encoding":
            break
    else:
        return receive
    n_bytes = 0

    async def counted() -> Message:
        nonlocal n_bytes
        limit = held.max_body_bytes
        if limit is not None and length is not None and length > limit:
            raise _too_large(length, limit)
        message = await receive()
        if message["type"] == "http.request":
            n_bytes += len(message.get("body", b""))
            if limit is not None and n_bytes > limit:
                raise _too_large(n_bytes, limit)
        return message

    return counted


def _too_large(n_bytes: int, limit: int) -> HTTPException:
    return HTTPException(
        413,
        f"the body has {n_bytes:,} bytes or more, at most {limit:,} are allowed "
        "(serve.max_body_bytes); send fewer documents at once, or stream them to POST /documents",
    )


async def _refuse(error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
    from search.api_problem import error_response

    await error_response(error)(scope, receive, send)
