"""Problems for people: what a program gets as problem+json, a browser gets as a page."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import orjson
from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.api_problem import MEDIA_TYPE
from search.pages.rendering import page

_HEADERS_KEPT = ("retry-after", "allow", "x-request-id")
_ADVICE = {
    403: "Your key is good and does not allow this. Whoever runs this service can make one that "
    "does: `reindexer keys create NAME --scope search --scope operate`.",
    404: "The link may be old, or what it led to was pruned or deleted meanwhile.",
    409: "Nothing was changed. Look at what is going on, then try again.",
    429: "The service refuses what it cannot answer in time. Wait a second, then try again.",
    503: "The service goes on trying. `reindexer status` and `reindexer doctor` say what is wrong.",
    504: "Ask for less at once, or try again in a moment.",
}


def install(app: FastAPI) -> None:
    """Installed after api_problem, whose answers it turns into pages."""
    app.add_middleware(_ProblemPages)


def wants_page(headers: Headers) -> bool:
    """Whether a browser opens this, as against a program that reads it."""
    return "text/html" in headers.get("accept", "")


class _ProblemPages:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not wants_page(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        parts: list[bytes] = []

        async def turned(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                if Headers(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                parts.append(message.get("body", b""))
                if not message.get("more_body", False):
                    given = Headers(raw=start["headers"])
                    response = _answer(orjson.loads(b"".join(parts)), scope, given)
                    await response(scope, receive, send)
                return
            await send(message)

        await self._app(scope, receive, turned)


def _answer(told: dict[str, Any], scope: Scope, given: Headers) -> Response:
    status: int = told["status"]
    if status == 401:
        query = scope["query_string"].decode("latin-1")
        asked = f"{scope['path']}?{query}" if query else scope["path"]
        back = f"?next={quote(asked)}" if scope["method"] == "GET" and asked != "/" else ""
        response: Response = RedirectResponse(f"/sign-in{back}", 303)
        response.headers["Cache-Control"] = "no-store"
    else:
        response = page(
            "problem.html",
            None,
            code=status,
            told=told,
            advice=_ADVICE.get(status, ""),
            request_id=given.get("x-request-id", ""),
        )
    headers = MutableHeaders(raw=response.raw_headers)
    for name in _HEADERS_KEPT:
        if name in given:
            headers[name] = given[name]
    return response
