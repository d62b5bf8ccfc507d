"""Signing in with an API key, and out again."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from search.errors import NotAuthenticated, ScopeMissing
from search.pages.rendering import page
from search.pages.visitors import check_own_page, end_session, form_of, keep_session, visitor_of
from search.service import Service


class SignInPage:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def show(self, request: Request) -> Response:
        if not self._service.access.required:
            return RedirectResponse("/", 303)
        return _page(request.query_params.get("next", "/"))

    async def sign_in(self, request: Request) -> Response:
        """The key is asked for what it allows before it is kept."""
        form = await form_of(request)
        key, after = form.get("key", "").strip(), form.get("next", "/")
        bearer = (b"authorization", f"Bearer {key}".encode())
        with_key = Request({**request.scope, "headers": [*_without_keys(request), bearer]})
        try:
            await visitor_of(self._service, with_key)
        except NotAuthenticated:
            return _page(after, problem="This key is not known, or it was revoked.", status=401)
        except ScopeMissing:
            return _page(
                after,
                problem="This key may not search. The pages need the scope search, and operate "
                "for operations.",
                status=403,
            )
        response = RedirectResponse(_own_path(after), 303)
        keep_session(response, request, key)
        return response

    async def sign_out(self, request: Request) -> Response:
        check_own_page(request.headers)
        response = RedirectResponse("/sign-in", 303)
        end_session(response)
        return response


def _page(after: str, *, problem: str = "", status: int = 200) -> Response:
    return page("sign_in.html", None, code=status, after=_own_path(after), problem=problem)


def _own_path(text: str) -> str:
    """A path of this service, whatever somebody has put into a link."""
    is_path = text.startswith("/") and not text.startswith(("//", "/\\"))
    return text if is_path and text.isprintable() and text.isascii() else "/"


def _without_keys(request: Request) -> list[tuple[bytes, bytes]]:
    keys = (b"authorization", b"x-api-key", b"x-reindexer-token")
    return [item for item in request.scope["headers"] if item[0] not in keys]
