"""Who may do what: API keys with scopes, rate limits, and what a browser may not do for a page."""

from __future__ import annotations

import hmac
import math
import secrets
import threading
import time
from collections.abc import Collection
from typing import Protocol

import limits
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from search.errors import NotAuthenticated, RateLimited, ScopeMissing
from search.keys import ApiKey, ApiKeys, hash_secret, split_key
from search.scopes import Scope

LOCAL = "local"  # who it is when this machine is trusted
ANONYMOUS = "anonymous"
KEYS_FRESH_S = 2.0  # a revoked key stops within so long, in every process
KEYS_RETRY_S = 0.2  # a key that is not known may be newer than what was read so long ago
_NO_SECRET = hash_secret("")  # compared with when there is no such key; no secret is empty


class Access:
    """The rules of one serving process. Safe to use from several threads."""

    def __init__(
        self,
        keys: ApiKeys,
        *,
        token: str,
        required: bool,
        rate_limit: str | None = None,
        local_hosts: Collection[str] | None = None,
        origins: Collection[str] = (),
    ) -> None:
        """token: of the data directory; it may do everything and is not counted.
        required: whether a request without a key is refused.
        rate_limit: of a key that has none of its own, and of an address that needs no key.
        local_hosts: names and addresses that a request may be sent to, since only this machine is
        trusted; None when other machines are, or when keys say who is.
        origins: of other pages that may send what changes something, where no key is needed."""
        self._keys = keys
        self._token = token.encode()
        self.required = required
        self.local_hosts = None if local_hosts is None else frozenset(local_hosts)
        self.origins = frozenset(origins)
        self._rate_limit = rate_limit
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._rates: dict[str, limits.RateLimitItem] = {}
        self._known: dict[str, ApiKey] = {}
        self._read_at = -math.inf
        self._reading = threading.Lock()

    async def authenticate(self, request: Request, scope: Scope) -> str:
        """The id of the key, LOCAL or ANONYMOUS. Raises NotAuthenticated, ScopeMissing, RateLimited
        and, when the keys cannot be read, DatabaseUnavailable."""
        token = request.headers.get("x-reindexer-token")
        if token is not None:
            if not secrets.compare_digest(token.encode(), self._token):
                raise NotAuthenticated(
                    "this is not the token of the running service; it is in the data directory's "
                    "service.json and changes with every start"
                )
            return LOCAL
        given = _given_key(request)
        if given is None:
            return self._without_key(request)
        parts = split_key(given)
        key = None
        if parts is not None:
            if self._is_older_than(KEYS_FRESH_S):
                await run_in_threadpool(self._read, KEYS_FRESH_S)
            key = self._find(*parts)
            if key is None and self._is_older_than(KEYS_RETRY_S):
                await run_in_threadpool(self._read, KEYS_RETRY_S)
                key = self._find(*parts)
        if key is None:
            raise NotAuthenticated(
                "the API key is not known or was revoked; make one with "
                "`reindexer keys create NAME --scope search`"
            )
        if scope not in key.scopes:
            raise ScopeMissing(
                f"the API key {key.id} lacks the scope {scope!r}; it has "
                f"{', '.join(sorted(key.scopes))}",
                scope=scope,
            )
        self._count(key.rate_limit or self._rate_limit, f"key {key.id}")
        return key.id

    def _without_key(self, request: Request) -> str:
        if self.required:
            raise NotAuthenticated(
                "this service needs an API key: send it as `Authorization: Bearer rk_…`; "
                "make one with `reindexer keys create NAME --scope search`"
            )
        if self.local_hosts is not None:
            return LOCAL
        address = request.client.host if request.client is not None else "unknown"
        self._count(self._rate_limit, f"address {address}")
        return ANONYMOUS

    # -- keys --------------------------------------------------------------------------------------

    def _find(self, key_id: str, secret: str) -> ApiKey | None:
        """One path for a wrong secret and for an id that is not there."""
        key = self._known.get(key_id)
        expected = key.hash if key is not None else _NO_SECRET
        is_equal = hmac.compare_digest(hash_secret(secret), expected)
        return key if is_equal else None

    def _is_older_than(self, age_s: float) -> bool:
        return time.monotonic() - self._read_at > age_s

    def _read(self, age_s: float) -> None:
        with self._reading:
            if self._is_older_than(age_s):  # another thread may have been quicker
                read_at = time.monotonic()
                self._known = self._keys.usable()
                self._read_at = read_at

    # -- rates -------------------------------------------------------------------------------------

    def _count(self, rate: str | None, who: str) -> None:
        if rate is None:
            return
        item = self._rates.get(rate)
        if item is None:
            item = self._rates[rate] = limits.parse(rate)
        if not self._limiter.hit(item, who):
            free_at, _ = self._limiter.get_window_stats(item, who)
            raise RateLimited(
                f"{who} may make {rate.replace('/', ' requests a ')}",
                retry_after_s=max(1, math.ceil(free_at - time.time())),
            )


class HasAccess(Protocol):
    """The part of the service that is asked."""

    @property
    def access(self) -> Access: ...


class _Needs(SecurityBase):
    """A dependency that FastAPI also writes into the OpenAPI document."""

    def __init__(self, service: HasAccess, scope: Scope) -> None:
        self.model = HTTPBearer(description="An API key: `rk_<id>_<secret>`")
        self.scheme_name = "api_key"
        self._service = service
        self._scope = scope

    async def __call__(self, request: Request) -> str:
        who = await self._service.access.authenticate(request, self._scope)
        request.state.who = who
        return who


def needs(service: HasAccess, scope: Scope) -> _Needs:
    """For `Depends`: lets requests through that have the scope, and puts who sent it into
    `request.state.who`. Runs on the event loop: a key that was read lately costs microseconds."""
    return _Needs(service, scope)


def _given_key(request: Request) -> str | None:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, credentials = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return credentials.strip()
    return request.headers.get("x-api-key")
