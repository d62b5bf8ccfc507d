"""Every request to a Qdrant server goes through here: retries, and one table of errors."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc  # type: ignore[import-untyped]
import httpx
from qdrant_client import QdrantClient
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search.errors import CollectionMissing, SearchError, StoreError, StoreUnavailable
from training.retries import backoff_s

ATTEMPTS = 4  # of a request at least
HURRIED_ATTEMPTS = 2  # of a request that a query waits for: the second on a fresh connection
FIRST_PAUSE_S = 0.2  # doubles; each pause is a random share of it, so that many do not come at once
LONGEST_PAUSE_S = 5.0
NOTICE_S = 0.5  # in a pause, how often who waits is asked whether to go on waiting

_GRPC_UNAVAILABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
}
_GRPC_NO_ACCESS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class QdrantCalls:
    """Calls a client's methods by name. Safe to use from several threads."""

    def __init__(
        self,
        client: QdrantClient,
        url: str,
        api_key: str | None,
        *,
        patience_s: float = 0.0,
        on_wait: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """patience_s: how long a store that is unavailable is asked again, beyond the few attempts
        that every request gets. on_wait: told why, every half second; raises to end the wait."""
        self._client = client
        self._api_key = api_key
        self._patience_s = patience_s
        self._on_wait = on_wait
        self.where = _without_credentials(url)

    @classmethod
    def to(cls, url: str, api_key: str | None, *, timeout_s: int = 60) -> QdrantCalls:
        """Calls over REST to a server that no store of ours is on."""
        client = QdrantClient(
            url=url, api_key=api_key, timeout=timeout_s, check_compatibility=False
        )
        return cls(client, url, api_key)

    @property
    def is_local(self) -> bool:
        """The client answers by itself, without a server: it keeps no payload indexes."""
        options = self._client.init_options
        return options.get("location") == ":memory:" or options.get("path") is not None

    def run(self, method: str, *, hurry: bool = False, **arguments: Any) -> Any:
        """The method's own result. A store that is unavailable is asked again, which no request
        minds: upserts are conditional, the rest comes out the same the second time.

        hurry: a query waits for this, and can do without rather than wait; patience comes first.
        Raises StoreUnavailable, CollectionMissing or StoreError.
        """
        attempts = HURRIED_ATTEMPTS if hurry else ATTEMPTS
        began = time.monotonic()
        for attempt in itertools.count(1):
            try:
                return getattr(self._client, method)(**arguments)
            except Exception as error:
                failure = self._mapped(error, method, arguments.get("collection_name"))
                if attempt > 1 and method == "create_collection" and _already_there(error):
                    return True  # the first attempt had arrived, only its answer got lost
                if not isinstance(failure, StoreUnavailable):
                    raise failure from error
                waited_s = time.monotonic() - began
                if attempt >= attempts and waited_s >= self._patience_s:
                    raise failure from error
                asked_s = error.retry_after_s if isinstance(error, ResourceExhaustedResponse) else 0
            pause_s = backoff_s(attempt, first_s=FIRST_PAUSE_S, longest_s=LONGEST_PAUSE_S)
            if self._patience_s > 0:  # who is in haste would rather hear of it than wait so long
                pause_s = min(max(pause_s, asked_s), max(pause_s, self._patience_s - waited_s))
                self._wait(pause_s, str(failure))
            else:
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _wait(self, seconds: float, reason: str) -> None:
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            self._on_wait(reason)
            time.sleep(min(left_s, NOTICE_S))

    def _mapped(self, error: Exception, method: str, collection: str | None) -> SearchError:
        on = f" on collection {collection!r}" if collection else ""
        what = f"{method}{on} at {self.where}"
        match error:
            case ResourceExhaustedResponse():
                return self._unavailable(what, f"too many requests (429): {error}")
            case UnexpectedResponse(status_code=status):
                return self._of_status(what, status or 0, error)
            case ResponseHandlingException(source=httpx.HTTPError() as source):
                return self._unavailable(what, f"{type(source).__name__}: {source}")
            case httpx.HTTPError():
                return self._unavailable(what, f"{type(error).__name__}: {error}")
            case grpc.RpcError():
                return self._of_grpc(what, error)
            case ValueError() if "not found" in str(error):  # the in-memory client's 404
                return CollectionMissing(f"{what}: {error}")
        return StoreError(f"{what} failed: {self._text(error)}")

    def _of_status(self, what: str, status: int, error: UnexpectedResponse) -> SearchError:
        if status in (401, 403):
            return self._no_access(what, str(status))
        if status == 404:
            return CollectionMissing(f"{what}: not found; run `reindexer doctor`")
        if status in (408, 429) or status >= 500:
            return self._unavailable(what, self._text(error))
        return StoreError(f"{what} was refused: {self._text(error)}")

    def _of_grpc(self, what: str, error: grpc.RpcError) -> SearchError:
        code = error.code() if isinstance(error, grpc.Call) else None
        details = error.details() if isinstance(error, grpc.Call) else str(error)
        if code in _GRPC_NO_ACCESS:
            return self._no_access(what, code.name if code else "")
        if code is grpc.StatusCode.NOT_FOUND:
            return CollectionMissing(f"{what}: {details}; run `reindexer doctor`")
        reason = self._text(f"{code.name if code else 'RpcError'}: {details}")
        if code in _GRPC_UNAVAILABLE:
            return self._unavailable(what, f"gRPC {reason}")
        return StoreError(f"{what} was refused: {reason}")

    def _unavailable(self, what: str, reason: str) -> StoreUnavailable:
        return StoreUnavailable(
            f"{what}: no answer ({self._text(reason)}); check that the server runs, is not "
            "overloaded, and that its REST port and its gRPC port can be reached (store.url, "
            "store.grpc_port; store.grpc = off does without the second)"
        )

    def _no_access(self, what: str, code: str) -> StoreError:
        return StoreError(
            f"{what}: wrong API key, or one without the right to do this ({code}); set "
            "store.api_key"
        )

    def _text(self, error: object) -> str:
        """One line, without the key."""
        text = " ".join(str(error).split())[:400]
        return text.replace(self._api_key, "***") if self._api_key else text


def _already_there(error: Exception) -> bool:
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 409
    return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.ALREADY_EXISTS


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
