"""What a browser may not do for a page: checks on Host and Origin, before anything else is read."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from search.access import Access
from search.errors import ForeignRequest
from search.service import Service

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def install(app: FastAPI, service: Service) -> None:
    """Refuse what a page of another origin sends, as long as no key says who sends it.

    A browser runs on the machine that is trusted. A page may have it send a request anywhere, and
    may point its own name at this machine (DNS rebinding); it cannot choose Host and Origin.
    """
    app.add_middleware(_RefuseForeign, service=service)


class _RefuseForeign:
    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = self._service.access
        if scope["type"] == "http" and not access.required:
            _check(access, scope["method"], Headers(scope=scope))
        await self._app(scope, receive, send)


def _check(access: Access, method: str, headers: Headers) -> None:
    """Raises ForeignRequest."""
    host = headers.get("host", "")
    if access.local_hosts is not None and _name(host) not in access.local_hosts:
        raise ForeignRequest(
            f"the request was sent to {host[:100]!r}, which is no name of this machine; if it is "
            "yours, add it to the setting serve.allowed_hosts"
        )
    origin = headers.get("origin")
    if origin is None or method in _SAFE_METHODS or origin in access.origins:
        return
    if urlsplit(origin).netloc != host:
        raise ForeignRequest(
            f"a page of {origin[:100]!r} may not do this; call the API from your own server, with "
            "a key"
        )


def _name(host: str) -> str:
    """The host without its port: `[::1]:8321` is `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
