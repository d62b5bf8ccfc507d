"""The HTTP server of a serving process: it tells before it goes, and lets nobody wait for ever."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from reindexer.errors import ReindexerError
from search.drain import Drain


class AddressInUse(ReindexerError):
    """The port the service was to listen on is taken."""


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


def listen(host: str, port: int) -> socket.socket:
    """port 0: any that is free. Raises AddressInUse."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio sends what is written at once; otherwise a body, which is
    # written after its head, waits until the head is acknowledged: up to 40 ms.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise AddressInUse(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port, "
            "or --port 0 for any that is free"
        ) from error
    listening.listen(1024)
    return listening
