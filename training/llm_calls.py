"""Chat completions from an OpenAI-compatible endpoint: paced, repeated where that can help, and
stopped at once where it cannot. The one seam to the `openai` package."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from training.errors import EndpointRefused, EndpointUnavailable, RequestFailed, TrainingError
from training.extras import require
from training.outgoing import check_address, check_request, raise_refused
from training.retries import backoff_s, retry_after_s

log = logging.getLogger(__name__)

TRIES = 8  # of one request; with waits from 1 s, doubled each time, about two minutes
TRIES_AT_FIRST = 3  # while nothing was ever answered: the address may be wrong
MAX_WAIT_S = 120.0  # what a server may ask us to wait; longer stops the run
MAX_FAILED_IN_A_ROW = 5  # requests given up, with no answer between them
MAX_FAILED_AT_FIRST = 3  # requests called unusable, with no answer before them

# https://developer.mozilla.org/docs/Web/HTTP/Status
_REFUSED = {401, 402, 403, 404, 405, 410}
_UNUSABLE = {400, 413, 422}  # this request, or every one: a document, or a setting, it cannot take
_QUOTA = {"insufficient_quota", "billing_hard_limit_reached"}  # sent as 429, but waiting is no use


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server, the model to ask there, and how fast."""

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    temperature: float | None = None  # None leaves it to the model; some take no other
    max_tokens: int = 1_024  # of one answer, reasoning included
    timeout_s: float = 120.0
    requests_per_min: float | None = None
    concurrency: int = 4  # requests in flight
    first_wait_s: float = 1.0  # before the second try; doubles from try to try


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """One answer, and what it took where the endpoint counts that."""

    text: str
    whole: bool  # False when it was cut at max_tokens
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class EndpointCalls:
    """Requests to one endpoint, from any number of tasks of one event loop.

    Until the first answer requests go out one at a time, so that a wrong key costs one request.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises ExtraMissing without the `openai` package, HostRefused."""
        check_address(endpoint.base_url)
        require("openai", extra="llm")
        import openai

        self.endpoint = endpoint
        self.n_requests = 0  # sent, repeated ones included
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url,
            api_key=endpoint.api_key or "none",  # local servers ask for no key
            timeout=endpoint.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"request": [check_request]}),
        )
        self._pace = _Pace(endpoint.requests_per_min, self._sleep)
        self._until_first_answer = asyncio.Lock()
        self._answered = False
        self._failed_in_a_row = 0
        self.stopped_by: Exception | None = None
        self._stopped = asyncio.Event()
        self._length_option = "max_tokens"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def ask(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        """The answer to a conversation of {"role", "content"}.

        Raises RequestFailed when this request cannot be answered, EndpointRefused and
        EndpointUnavailable when no other would be either; after `stop`, what that was told.
        """
        if not self._answered:
            async with self._until_first_answer:
                if not self._answered:
                    return await self._ask(messages)
        return await self._ask(messages)

    def stop(self, error: Exception) -> None:
        """Send nothing more, because of the first error told. What is on its way is answered."""
        self.stopped_by = self.stopped_by or error
        self._stopped.set()

    async def _sleep(self, seconds: float) -> None:
        """Raises what stopped everything, as soon as something does."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)
        if self.stopped_by is not None:
            raise self.stopped_by

    async def _ask(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        attempt = 1
        while True:
            await self._pace.turn()
            if self.stopped_by is not None:
                raise self.stopped_by
            self.n_requests += 1
            try:
                completion = self._read(await self._send(messages))
            except (self._openai.APIError, ValueError) as error:
                if self._takes_another_option(error):
                    continue
                wait_s = self._wait_s(error, attempt)
                log.info("try %s failed (%s); again in %.1f s", attempt, self._told(error), wait_s)
                if _status(error) == 429:
                    self._pace.pause(wait_s)  # the limit is the account's, not this request's
                else:
                    await self._sleep(wait_s)
                attempt += 1
                continue
            self._answered = True
            self._failed_in_a_row = 0
            return completion

    async def _send(self, messages: Sequence[Mapping[str, str]]) -> Any:
        options: dict[str, Any] = {self._length_option: self.endpoint.max_tokens}
        if self.endpoint.temperature is not None:
            options["temperature"] = self.endpoint.temperature
        create: Any = self._client.chat.completions.create
        return await create(model=self.endpoint.model, messages=list(messages), **options)

    def _read(self, answer: Any) -> Completion:
        """Servers leave out what they like, and the package lets them."""
        choice = next(iter(getattr(answer, "choices", None) or ()), None)
        message = getattr(choice, "message", None)
        if message is None:
            raise ValueError(f"{str(answer)[:80]!r} is no chat completion")
        usage = getattr(answer, "usage", None)
        return Completion(
            text=getattr(message, "content", None) or "",
            whole=getattr(choice, "finish_reason", None) != "length",
            prompt_tokens=getattr(usage, "prompt_tokens", None),
            completion_tokens=getattr(usage, "completion_tokens", None),
        )

    # -- what a failure means --------------------------------------------------------------------

    def _takes_another_option(self, error: Exception) -> bool:
        """Newer models have another name for the longest answer, and refuse the common one."""
        if self._length_option != "max_tokens" or _status(error) != 400:
            return False
        if "max_completion_tokens" not in str(error):
            return False
        self._length_option = "max_completion_tokens"
        return True

    def _wait_s(self, error: Exception, attempt: int) -> float:
        """Seconds until the next try; raises when there is none."""
        raise_refused(error)
        status, told = _status(error), self._told(error)
        if status in _REFUSED or getattr(error, "code", None) in _QUOTA:
            raise EndpointRefused(self._refusal(status, told)) from error
        if status in _UNUSABLE:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= (
                MAX_FAILED_IN_A_ROW if self._answered else MAX_FAILED_AT_FIRST
            ):
                raise EndpointRefused(self._refusal(status, told)) from error
            raise RequestFailed(told) from error
        response = getattr(error, "response", None)
        asked_s = retry_after_s(response.headers) if response is not None else 0.0
        if asked_s > MAX_WAIT_S:
            raise EndpointUnavailable(
                f"{self.endpoint.base_url} asks to wait {asked_s:,.0f} s ({told}). What was "
                "answered is kept: run the same command again then"
            ) from error
        if attempt >= (TRIES if self._answered or status is not None else TRIES_AT_FIRST):
            raise self._given_up(told) from error
        return backoff_s(
            attempt, first_s=self.endpoint.first_wait_s, longest_s=MAX_WAIT_S, asked_s=asked_s
        )

    def _given_up(self, told: str) -> TrainingError:
        self._failed_in_a_row += 1
        if self._answered and self._failed_in_a_row < MAX_FAILED_IN_A_ROW:
            return RequestFailed(told)
        if not self._answered:
            return EndpointUnavailable(
                f"{self.endpoint.base_url} gives no answer: {told}. Check that the server runs and "
                "that --llm-base-url is right (it often ends in /v1), then run the command again"
            )
        return EndpointUnavailable(
            f"{self.endpoint.base_url} failed {self._failed_in_a_row} requests in a row, the last "
            f"with: {told}. What was answered is kept: run the same command again later"
        )

    def _refusal(self, status: int | None, told: str) -> str:
        model = self.endpoint.model
        advice = {
            401: "check the API key (--llm-api-key-env names the variable that holds it)",
            402: "the account has no credit left",
            403: "this key may not use this model; check the key and --llm-model",
            404: f"check that --llm-base-url is right (it often ends in /v1) and that it has a "
            f"model {model!r}",
            429: "the account's quota is used up; raise it or use another key",
        }.get(status or 0, "check --llm-base-url, --llm-model and --llm-temperature")
        return (
            f"{self.endpoint.base_url} refuses requests to {model!r} (HTTP {status}): {told}; "
            f"{advice}. Nothing more was sent; what was answered before is kept"
        )

    def _told(self, error: Exception) -> str:
        """What went wrong, on one short line, without the key."""
        if isinstance(error, self._openai.APITimeoutError):
            return f"no answer within {self.endpoint.timeout_s:g} s"
        if isinstance(error, self._openai.APIConnectionError):
            return f"no connection ({error.__cause__ or error})"
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, Mapping) else None
        text = " ".join(str(message or error).split())
        if self.endpoint.api_key:
            text = text.replace(self.endpoint.api_key, "****")
        return text[:200]


class _Pace:
    """When the next request may go out."""

    def __init__(
        self, requests_per_min: float | None, sleep: Callable[[float], Awaitable[None]]
    ) -> None:
        self._sleep = sleep
        self._interval_s = 60 / requests_per_min if requests_per_min else 0.0
        self._next_at = 0.0  # on the monotonic clock

    async def turn(self) -> None:
        while (wait_s := self._next_at - time.monotonic()) > 0:
            await self._sleep(wait_s)
        self._next_at = time.monotonic() + self._interval_s

    def pause(self, wait_s: float) -> None:
        self._next_at = max(self._next_at, time.monotonic() + wait_s)


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None
