"""Who looks at the pages: the access of the API, and a cookie that carries the key."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Receive, Scope, Send

from search.errors import ForeignRequest, ScopeMissing
from search.keys import split_key
from search.service import Service

COOKIE = "reindexer_session"
SESSION_S = 12 * 3_600
_CLOCK_SKEW_S = 60
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_KEY_HEADERS = ("authorization", "x-api-key", "x-reindexer-token")


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who a page is made for."""

    who: str  # key id, local or anonymous
    may_operate: bool
    is_signed_in: bool  # with a key that a cookie carries


async def visitor_of(service: Service, request: Request) -> Visitor:
    """Raises what `Access.authenticate` raises for the scope `search`."""
    may_operate = True
    try:
        who = await service.access.authenticate(request, "operate")
    except ScopeMissing:
        who = await service.access.authenticate(request, "search")
        may_operate = False
    request.state.who = who
    is_signed_in = service.access.required and COOKIE in request.cookies
    return Visitor(who=who, may_operate=may_operate, is_signed_in=is_signed_in)


def install(app: FastAPI, service: Service) -> None:
    """Let a browser that has signed in ask everything that its key allows."""
    app.add_middleware(_Sessions, service=service)


def check_own_page(headers: Headers) -> None:
    """What changes something has to come from a page of this service. Raises ForeignRequest."""
    origin = headers.get("origin")
    if origin is None:
        is_own = headers.get("sec-fetch-site") == "same-origin"
    else:
        is_own = bool(urlsplit(origin).netloc) and urlsplit(origin).netloc == headers.get("host")
    if not is_own:
        sender = "something that does not say what" if origin is None else repr(origin[:100])
        raise ForeignRequest(
            f"the form was sent by {sender}, not by a page of this service. If a proxy "
            "stands in front, it has to pass the Host header on"
        )


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a form of ours. Raises ForeignRequest."""
    check_own_page(request.headers)
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body, keep_blank_values=True))


# -- the cookie ------------------------------------------------------------------------------------


def seal(key: str, *, now: float | None = None) -> str:
    """The cookie's value: the key, when it was given, and a signature that only who has the key
    can make. So it ends after SESSION_S, whatever the browser does, and means the same to every
    process of a fleet without a secret that they would have to share."""
    issued = str(int(time.time() if now is None else now))
    return f"{key}.{issued}.{_signature(key, issued)}"


def unseal(value: str, *, now: float | None = None) -> str | None:
    """The key, if the cookie is whole and young enough. Whether the key is still good is asked
    with every request."""
    key, _, rest = value.partition(".")
    issued, _, signature = rest.partition(".")
    if split_key(key) is None or not (issued.isascii() and issued.isdigit() and len(issued) < 13):
        return None
    if not hmac.compare_digest(signature.encode(), _signature(key, issued).encode()):
        return None
    age = (time.time() if now is None else now) - int(issued)
    return key if -_CLOCK_SKEW_S <= age < SESSION_S else None


def keep_session(response: Response, request: Request, key: str) -> None:
    """Sign the browser in, until it is closed or SESSION_S have passed."""
    response.set_cookie(
        COOKIE,
        seal(key),
        path="/",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def end_session(response: Response) -> None:
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def _signature(key: str, issued: str) -> str:
    message = f"reindexer session {issued}".encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


class _Sessions:
    """Puts the key of the session where the API looks for one."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._service.access.required:
            headers = Headers(scope=scope)
            if not any(name in headers for name in _KEY_HEADERS):
                sealed = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
                key = unseal(sealed)
                if key is not None:
                    if scope["method"] not in _SAFE_METHODS:
                        check_own_page(headers)
                    bearer = (b"authorization", f"Bearer {key}".encode())
                    scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self._app(scope, receive, send)
