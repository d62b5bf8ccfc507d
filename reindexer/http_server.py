"""The HTTP server of a serving process: it tells before it goes, and lets nobody wait for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from search.drain import Drain


class HttpServer(uvicorn.Server):
    """On SIGTERM and SIGINT the drain begins: readiness is denied at once, event streams end, and
    after the notice no connection is taken any more. Requests under way have `drain_s` left."""

    def __init__(
        self,
        app: ASGIApp,
        drain: Drain,
        *,
        drain_s: float,
        notice_s: float,
        on_started: Callable[[], None],
    ) -> None:
        """on_started: called once requests are answered."""
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(drain_s)),
                lifespan="off",
            )
        )
        self._drain = drain
        self._notice_s = notice_s
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._drain.begin()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain.begin()
        if self._notice_s and not self.force_exit:
            await asyncio.sleep(self._notice_s)
        await super().shutdown(sockets)
