"""Metrics of the HTTP API: a middleware that counts and times every request, and GET /metrics."""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import choose_encoder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search import traces
from search.errors import DeadlineExceeded, Overloaded, RateLimited, ScopeMissing
from search.telemetry import NO_ROUTE, Rejection, Telemetry

if TYPE_CHECKING:
    from search.drain import Drain
    from search.service import Service

access_log = logging.getLogger("search.access_log")

TOO_LARGE = 413
UNAVAILABLE = 503
_REASONS: dict[type[Exception], Rejection] = {
    Overloaded: "overload",
    RateLimited: "rate",
    DeadlineExceeded: "deadline",
}
_QUERIES = frozenset({"/search"})  # what the latency target is about
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def install(app: FastAPI, service: Service) -> None:
    """Count every request. Installed last, so that what other middleware refuses counts too."""
    app.add_middleware(_Counted, telemetry=service.telemetry, drain=service.drain)


def router(service: Service) -> APIRouter:
    """GET /metrics."""
    routes = APIRouter(tags=["operating"])
    telemetry = service.telemetry

    async def may_look(request: Request) -> None:
        """Any key will do; without one where the API needs none."""
        if not telemetry.is_open:
            with contextlib.suppress(ScopeMissing):
                await service.access.authenticate(request, "search")

    @routes.get("/metrics", dependencies=[Depends(may_look)], response_class=PlainTextResponse)
    def get_metrics(accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
        """Everything that Prometheus may want to know of this process."""
        encode, media_type = choose_encoder(accept)
        return Response(encode(telemetry.registry), headers={"content-type": media_type})

    return routes


class _Counted:
    """Pure ASGI: it adds some microseconds to a request, and nothing to a streamed body."""

    def __init__(self, app: ASGIApp, *, telemetry: Telemetry, drain: Drain) -> None:
        self._app = app
        self._telemetry = telemetry
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        telemetry = self._telemetry
        began = time.perf_counter()
        status = 500  # of an answer that was never begun

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        telemetry.in_flight.inc()
        try:
            with traces.request_span(scope) as span:
                await self._app(scope, receive, counted)
                traces.end_request(span, scope, _route(scope), status)
        finally:
            telemetry.in_flight.dec()
            took_s = time.perf_counter() - began
            self._count(scope, status, took_s)

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        telemetry, path, method = self._telemetry, scope["path"], scope["method"]
        if status == 200 and path in _QUERIES:
            telemetry.query_times.record(took_s * 1e3)
        telemetry.responded(
            method if method in _METHODS else "other", _route(scope), status, took_s
        )
        if status >= 400:
            reason = self._reason(scope, status)
            if reason is not None:
                telemetry.rejected(reason)
        if access_log.isEnabledFor(logging.INFO):
            _log(scope, status, took_s)

    def _reason(self, scope: Scope, status: int) -> Rejection | None:
        """Why the request was refused; None when it was not for load, size or time."""
        error = scope.get("state", {}).get("error")
        if error is not None:
            for kind, reason in _REASONS.items():
                if isinstance(error, kind):
                    return reason
        if status == TOO_LARGE:
            return "size"
        if status == UNAVAILABLE and self._drain.begun:
            return "drain"
        return None


def _route(scope: Scope) -> str:
    """The path as it was declared, since the path as it was sent may be anything."""
    route: Any = scope.get("route")
    return getattr(route, "path", NO_ROUTE)


def _log(scope: Scope, status: int, took_s: float) -> None:
    state = scope.get("state", {})
    access_log.info(
        "%s %s %s",
        scope["method"],
        scope["path"],
        status,
        extra={
            "status": status,
            "took_ms": round(took_s * 1e3, 1),
            "client": scope["client"][0] if scope.get("client") else None,
            "who": state.get("who"),
            "request_id": state.get("request_id"),
        },
    )
