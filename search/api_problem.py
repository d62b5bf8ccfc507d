"""Errors as RFC 9457 problem details: the one table from error to status code."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search import errors
from search.request_ids import HEADER, REQUEST_ID, request_id
from search.service import Service
from training.errors import EncodingFailed, ModelNotFound, TrainingError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_METHODS = ("DELETE", "GET", "HEAD", "POST", "PUT")
# A document that is HTML stays JSON to a browser that is sent to it.
_NO_SNIFFING = (b"x-content-type-options", b"nosniff")
_ERRORS_TOLD = 20  # places in one request that is not understood

Table = Mapping[type[Exception], tuple[int, str]]  # error -> status code, title

# An error that is not in the table is answered as the nearest of its bases that is.
PROBLEMS: Table = MappingProxyType(
    {
        errors.InvalidDocument: (422, "The document cannot be stored"),
        errors.InvalidQuery: (422, "The query cannot be answered"),
        errors.InvalidFeedback: (422, "The feedback cannot be stored"),
        errors.InvalidOperation: (422, "This cannot be asked for"),
        errors.InvalidKey: (422, "The API key cannot be made"),
        errors.NotAuthenticated: (401, "An API key is needed"),
        errors.ScopeMissing: (403, "The API key does not allow this"),
        errors.ForeignRequest: (403, "Not from there"),
        errors.RateLimited: (429, "Too many requests"),
        errors.Overloaded: (429, "Too many requests at once"),
        errors.GenerationNotFound: (404, "No such generation"),
        errors.DocumentNotFound: (404, "No such document"),
        errors.QueryNotFound: (404, "No such query"),
        errors.BuildNotFound: (404, "No such build"),
        errors.KeyNotFound: (404, "No such API key"),
        ModelNotFound: (404, "No such model"),
        errors.FeedbackOff: (409, "No query log is kept"),
        errors.WrongState: (409, "The state does not allow this"),
        errors.CutOverRefused: (409, "The switch did not happen"),
        errors.NoLiveGeneration: (503, "Nothing is live yet"),
        errors.SpaceMismatch: (503, "Encoder and collection do not match"),
        errors.LeaseLost: (503, "Another process has taken over"),
        errors.LexicalDamaged: (503, "The lexical index cannot be read"),
        errors.DiskFull: (503, "The disk is full"),
        errors.StoreError: (503, "The store does not answer"),
        errors.DatabaseError: (503, "The database does not answer"),
        errors.NotReady: (503, "Not ready"),
        errors.DeadlineExceeded: (504, "It took too long"),
        EncodingFailed: (500, "The query could not be encoded"),
        TrainingError: (500, "The model failed"),
        errors.SearchError: (500, "The request failed"),
    }
)


def install(app: FastAPI, _service: Service, *, more: Table = MappingProxyType({})) -> None:
    """Give every request an id, and answer every error as the table and `more` say.

    Installed after all other middleware, so that their errors and refusals are answered alike.
    """
    table = {**PROBLEMS, **more}
    app.state.problems = table

    async def known(_request: Request, error: Exception) -> Response:
        return error_response(error, table)

    async def misunderstood(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _misunderstood(error)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = _refused(error)
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_allowed(app, request.scope))
        return response

    for kind in table:
        app.add_exception_handler(kind, known)
    app.add_exception_handler(RequestValidationError, misunderstood)
    app.add_exception_handler(HTTPException, refused)  # no such path, wrong method, too large
    app.add_middleware(_Problems, table=table)


def problem(status: int, title: str, detail: str, **more: Any) -> Response:
    """RFC 9457 problem details."""
    value = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    try:
        body = orjson.dumps(value)
    except TypeError:  # half a surrogate pair, quoted from what was sent
        value["detail"] = detail.encode("utf-8", "replace").decode()
        body = orjson.dumps(value)
    return Response(body, status_code=status, media_type=MEDIA_TYPE)


def error_response(error: Exception, table: Table = PROBLEMS) -> Response:
    """The answer to an error that is in the table, with the error's own headers if it has any."""
    status, title = next(table[kind] for kind in type(error).__mro__ if kind in table)
    if status >= 500:
        log.warning("%s: %s (request %s)", type(error).__name__, error, REQUEST_ID.get())
    response = _Refusal(error, problem(status, title, str(error)))
    response.headers.update(getattr(error, "headers", {}))
    return response


class _Refusal(Response):
    """The answer to an error; leaves the error in the scope for those who count."""

    def __init__(self, error: Exception, answer: Response) -> None:
        super().__init__(answer.body, status_code=answer.status_code, media_type=answer.media_type)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["error"] = self._error
        await super().__call__(scope, receive, send)


def _misunderstood(error: RequestValidationError) -> Response:
    """400 for what is no JSON at all, 415 for what was not said to be JSON, 422 for JSON that is
    not what was asked for."""
    items = error.errors()
    found = [
        {"where": ".".join(map(str, item["loc"])), "reason": item["msg"]}
        for item in items[:_ERRORS_TOLD]
    ]
    detail = "; ".join(f"{item['where']}: {item['reason']}" for item in found[:3])
    if any(item["type"] == "json_invalid" for item in items):
        return problem(400, "The body is not JSON", detail)
    if any(item["loc"] == ("body",) and isinstance(item.get("input"), bytes) for item in items):
        return problem(415, "The body is of another type", "send Content-Type: application/json")
    if len(items) > len(found):
        detail = f"{detail}; and {len(items) - 3:,} more"
    return problem(422, "The request is not understood", detail, errors=found)


def _refused(error: HTTPException) -> Response:
    title = HTTPStatus(error.status_code).phrase
    detail = error.detail
    if error.status_code in (404, 405) and detail == title:  # the router's own words
        detail = f"{detail}; /docs lists what there is"
    response = problem(error.status_code, title, detail)
    response.headers.update(error.headers or {})
    return response


def _allowed(app: FastAPI, scope: Scope) -> list[str]:
    """Every method of the path, where the router tells those of the first route that fits."""
    return sorted(
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in app.routes)
    )


class _Problems:
    """Wraps everything else: nothing gets past it without an answer and an id."""

    def __init__(self, app: ASGIApp, *, table: Table) -> None:
        self._app = app
        self._table = table

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        this = request_id(scope)
        scope.setdefault("state", {})["request_id"] = this
        token = REQUEST_ID.set(this)
        header = (HEADER.lower().encode(), this.encode())
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                message["headers"] = [*message["headers"], header]
                if all(name != _NO_SNIFFING[0] for name, _ in message["headers"]):
                    message["headers"].append(_NO_SNIFFING)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            response = self._answer(error, scope)
            if has_started:  # all that is left is to break the answer off
                raise
            await response(scope, receive, send_with_id)
        finally:
            REQUEST_ID.reset(token)

    def _answer(self, error: Exception, scope: Scope) -> Response:
        if isinstance(error, tuple(self._table)):
            return error_response(error, self._table)
        this = REQUEST_ID.get()
        log.error("request %s, %s %s, failed", this, scope["method"], scope["path"], exc_info=error)
        return problem(
            500,
            "The request failed",
            f"an error that was not foreseen; the log has it under request id {this}",
        )
