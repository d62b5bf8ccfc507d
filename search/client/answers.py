"""From what a try came to, to a value or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx
import orjson

from search.client.calls import Call
from search.client.errors import AnswerInvalid, DeadlinePassed, Refused, Unreachable, refusal
from search.client.patience import Attempts, Outcome

Result = TypeVar("Result")


def settle(call: Call[Result], attempts: Attempts, outcome: Outcome) -> Result:
    """What the call comes to when it is not tried again. Raises ClientError."""
    if isinstance(outcome, httpx.TransportError):
        raise _failure(attempts, outcome) from outcome
    if outcome.status_code >= 300:  # a redirect is no answer either: the key goes nowhere else
        raise _refusal(call, outcome)
    return call.read(_json(call, outcome))


def _refusal(call: Call[Any], response: httpx.Response) -> Refused:
    try:
        problem = orjson.loads(response.content)
    except ValueError:
        problem = {"detail": " ".join(response.text.split())[:200]}
    return refusal(
        response.status_code,
        problem if isinstance(problem, Mapping) else {},
        asked=f"{call.method} {call.url}",
        request_id=response.headers.get("x-request-id"),
    )


def _failure(attempts: Attempts, error: httpx.TransportError) -> DeadlinePassed | Unreachable:
    call, told = attempts.call, str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException) and attempts.is_over:
        return DeadlinePassed(
            f"{call.method} {call.url} was not answered within {attempts.patience.deadline_s:g} s "
            f"(tries: {attempts.n_tried}); look at /readyz, or give it longer with "
            "client.within(seconds)"
        )
    unsure = "" if call.may_repeat else ". Whether it was done is not known: look before again"
    return Unreachable(
        f"{call.method} {call.url} got no answer ({told}; tries: {attempts.n_tried}); check the "
        f"address, and that `reindexer serve` runs there{unsure}"
    )


def _json(call: Call[Any], response: httpx.Response) -> object:
    try:
        return orjson.loads(response.content)
    except ValueError:
        raise AnswerInvalid(
            f"{call.method} {call.url} was answered with {response.text[:80]!r}, expected JSON; is "
            "this address a `reindexer serve`?"
        ) from None
