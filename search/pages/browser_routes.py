"""Routes that a browser gets where a program gets the API's answer of the same path."""

from __future__ import annotations

from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Scope

from search.pages.problem_pages import wants_page


class BrowserRoute(APIRoute):
    """Matches only what asks for a page; everything else goes on to the routes that follow."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] == "http" and not wants_page(Headers(scope=scope)):
            return Match.NONE, {}
        found: Any = super().matches(scope)
        return (Match.NONE, {}) if found[0] is not Match.FULL else found
