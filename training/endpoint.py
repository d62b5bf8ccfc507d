"""Requests to where a remote model is, bounded in every way."""

from __future__ import annotations

import time
import weakref
from collections.abc import Mapping
from typing import Any

import httpx
import orjson

from training.errors import (
    EndpointRefused,
    EndpointUnavailable,
    RequestFailed,
    TrainingError,
)
from training.outgoing import check_address
from training.remote_ref import KEY_VARIABLE, RemoteAccess
from training.retries import backoff_s, retry_after_s

AGAIN = frozenset({408, 424, 429, 500, 502, 503, 504})
UNUSABLE = frozenset({400, 413, 422})  # these texts; others may do
TOLD_CHARACTERS = 200
MAX_WAIT_S = 60.0  # what a server may ask us to wait


class Endpoint:
    """Requests to one address: same host only, bounded in time, size and number of tries. May be
    used by several threads at once."""

    def __init__(self, url: str, access: RemoteAccess) -> None:
        """Raises HostRefused."""
        check_address(url)
        self.url = url
        self._access = access
        headers = {"user-agent": "reindexer"}
        if access.api_key is not None:
            headers["authorization"] = f"Bearer {access.api_key}"
        self._http = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(access.timeout_s, connect=min(10.0, access.timeout_s)),
            follow_redirects=False,  # the key and the texts are for this address
        )
        self._closing = weakref.finalize(self, self._http.close)  # encoders are just let go

    def close(self) -> None:
        self._closing()

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        max_bytes: int,
        tries: int | None = None,
    ) -> Any:
        """JSON of a POST of body, or of a GET.

        Raises RequestFailed when these texts are not taken, EndpointRefused when no request would
        be, EndpointUnavailable when it does not answer, also not when it is asked again.
        tries: instead of those of RemoteAccess.
        """
        tries = self._access.tries if tries is None else tries
        tried = 0
        while True:
            tried += 1
            asked_s = 0.0
            try:
                status, headers, content = self._send(path, body, max_bytes)
            except httpx.TransportError as error:
                told = str(error) or type(error).__name__
            else:
                if status == 200:
                    return self._read(path, content)
                told = self._told(status, content)
                if status not in AGAIN:
                    raise self._refusal(status, told)
                asked_s = retry_after_s(headers)
            if tried >= tries or asked_s > MAX_WAIT_S:
                raise EndpointUnavailable(
                    f"{self.url}{path} gives no answer ({told}; tries: {tried}); check that it "
                    "runs and is not overloaded"
                )
            time.sleep(
                backoff_s(
                    tried,
                    first_s=self._access.first_wait_s,
                    longest_s=MAX_WAIT_S,
                    asked_s=asked_s,
                )
            )

    def _send(
        self, path: str, body: Mapping[str, Any] | None, max_bytes: int
    ) -> tuple[int, Mapping[str, str], bytes]:
        """A server cannot make us read more than max_bytes, nor longer than timeout_s in all."""
        until = time.monotonic() + self._access.timeout_s
        content = None if body is None else orjson.dumps(body)
        method = "GET" if body is None else "POST"
        headers = {} if body is None else {"content-type": "application/json"}
        with self._http.stream(
            method, self.url + path, content=content, headers=headers
        ) as response:
            parts: list[bytes] = []
            n_bytes = 0
            for part in response.iter_bytes():
                n_bytes += len(part)
                if n_bytes > max_bytes:
                    raise EndpointRefused(
                        f"{self.url}{path} answers with more than the {max_bytes:,} bytes that can "
                        "be an answer; is this an embeddings endpoint?"
                    )
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer takes longer than encoder.timeout_s")
                parts.append(part)
            return response.status_code, response.headers, b"".join(parts)

    def _read(self, path: str, content: bytes) -> Any:
        try:
            return orjson.loads(content)
        except ValueError:
            raise EndpointRefused(
                f"{self.url}{path} answers {content[:40]!r}, expected JSON; check the address (for "
                "openai: it often ends in /v1)"
            ) from None

    def _told(self, status: int, content: bytes) -> str:
        text = " ".join(content[:2_000].decode("utf-8", "replace").split())
        if self._access.api_key:
            text = text.replace(self._access.api_key, "****")
        return f"HTTP {status}: {text[:TOLD_CHARACTERS]}"

    def _refusal(self, status: int, told: str) -> TrainingError:
        if status in UNUSABLE:
            return RequestFailed(f"{self.url} does not take these texts: {told}")
        if status in (401, 403):
            advice = f"check the key in {KEY_VARIABLE}, or the setting encoder.api_key"
        elif 300 <= status < 400:
            advice = "it points elsewhere, and that is not followed; name the address itself"
        else:
            advice = "check the address and the model's name"
        return EndpointRefused(f"{self.url} refuses ({told}); {advice}")
