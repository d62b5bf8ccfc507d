"""The socket that requests come in by."""

from __future__ import annotations

import asyncio
import socket

import pytest

from reindexer.http_server import AddressInUse, listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head(host: str) -> None:
    delays: list[int] = []

    async def answered(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        delays.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(answered, sock=listen(host, 0))
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            await reader.read()
            writer.close()

    asyncio.run(ask())
    assert delays
    assert all(delays)


def test_a_port_that_is_taken_is_named_with_what_to_do() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse, match=rf"127\.0\.0\.1:{port}.*--port 0"):
            listen("127.0.0.1", port)
