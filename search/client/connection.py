"""What both clients are told: where the service is, with which key, and how patient to be."""

from __future__ import annotations

from typing import Any

from search.client.calls import Call
from search.client.errors import ClientError


def http_options(
    base_url: str, api_key: str | None, token: str | None, transport: Any
) -> dict[str, Any]:
    """Keyword arguments of httpx's clients. Raises ClientError."""
    if not base_url.startswith(("http://", "https://")):
        raise ClientError(
            f"{base_url!r} is no address of a service; expected http://HOST:PORT or https://…"
        )
    headers = {"accept": "application/json", "user-agent": "reindexer-client"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    if token is not None:
        headers["x-reindexer-token"] = token
    return {
        "base_url": base_url,
        "headers": headers,
        "follow_redirects": False,  # the key is for this address
        "transport": transport,
    }


def request_options(call: Call[Any]) -> dict[str, Any]:
    """Keyword arguments of `request` on httpx's clients."""
    return {
        "method": call.method,
        "url": call.url,
        "params": dict(call.params),
        "content": call.content,
        "headers": call.headers,
    }
