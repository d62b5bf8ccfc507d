"""Errors of the client. Each message says what was asked, what was answered, and by whom.

ClientError
├── Unreachable            no connection, or one that broke, and trying again did not help
├── DeadlinePassed         the client's own deadline is over
├── AnswerInvalid          an answer that is not what the API promises
├── BuildFailed            a build that was waited for will not end well
└── Refused                the service answered with a problem (RFC 9457)
    ├── RequestInvalid     400, 413, 415, 422: the request itself is at fault
    ├── NotAuthenticated   401: an API key is needed, or this one is not known
    ├── NotAllowed         403: the key does not allow this
    ├── NotFound           404
    ├── Conflict           409: the state does not allow this
    ├── TooManyRequests    429
    └── ServiceFailed      500 and above
        ├── Unavailable    503
        └── TookTooLong    504: the service's own deadline is over
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """Base of everything the client raises on purpose."""


class Unreachable(ClientError):
    """No connection to the service, or one that broke."""


class DeadlinePassed(ClientError):
    """The client's own deadline is over."""


class AnswerInvalid(ClientError):
    """An answer that is not what the API promises."""


class BuildFailed(ClientError):
    """A build that was waited for has failed or was cancelled."""


class Refused(ClientError):
    """The service answered with a problem."""

    def __init__(
        self,
        message: str,
        *,
        status: int,
        title: str,
        detail: str,
        request_id: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """request_id: what the service's log has it under. errors: each place in the request that
        is not understood. more: the problem as it came."""
        super().__init__(message)
        self.status = status
        self.title = title
        self.detail = detail
        self.request_id = request_id
        self.errors = tuple(errors)
        self.more = dict(more or {})


class RequestInvalid(Refused):
    """The request itself is at fault."""


class NotAuthenticated(Refused):
    """An API key is needed, or this one is not known."""


class NotAllowed(Refused):
    """The key does not allow this."""


class NotFound(Refused):
    """No such document, generation, model, query or build."""


class Conflict(Refused):
    """The state does not allow this."""


class TooManyRequests(Refused):
    """More than the service or the key allows."""


class ServiceFailed(Refused):
    """The service could not answer."""


class Unavailable(ServiceFailed):
    """The service cannot answer now."""


class TookTooLong(ServiceFailed):
    """The service's own deadline is over."""


BY_STATUS: Mapping[int, type[Refused]] = {
    401: NotAuthenticated,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    429: TooManyRequests,
    503: Unavailable,
    504: TookTooLong,
}


def refusal(
    status: int, problem: Mapping[str, Any], *, asked: str, request_id: str | None
) -> Refused:
    """The error for a status of 300 and above. asked: method and path."""
    title = str(problem.get("title") or f"HTTP {status}")
    detail = str(problem.get("detail") or "")
    errors = problem.get("errors")
    kind = BY_STATUS.get(status) or (ServiceFailed if status >= 500 else RequestInvalid)
    return kind(
        f"{asked} was answered with {status}, {title}" + (f": {detail}" if detail else ""),
        status=status,
        title=title,
        detail=detail,
        request_id=request_id,
        errors=errors if isinstance(errors, list) else (),
        more=problem,
    )
