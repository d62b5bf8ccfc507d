"""Errors as RFC 9457 problem details: the one table from error to status code."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from search.errors import (
    AccessError,
    BuildNotFound,
    CutOverRefused,
    DatabaseUnavailable,
    ForeignRequest,
    GateClosed,
    GenerationNotFound,
    InvalidDocument,
    InvalidOperation,
    InvalidQuery,
    NoLiveGeneration,
    NotAuthenticated,
    RateLimited,
    ScopeMissing,
    SearchError,
    SpaceMismatch,
    StoreUnavailable,
    UnderWay,
    WrongState,
)
from search.service import Service
from training.errors import ModelNotFound, TrainingError

log = logging.getLogger(__name__)

# Which status code an error becomes; the first class that fits counts.
STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (InvalidQuery, 422, "The query cannot be answered"),
    (InvalidDocument, 422, "The document cannot be stored"),
    (GenerationNotFound, 404, "No such generation"),
    (BuildNotFound, 404, "No such build"),
    (ModelNotFound, 404, "No such model"),
    (InvalidOperation, 422, "The operation makes no sense like this"),
    (GateClosed, 409, "A gate refused it"),
    (UnderWay, 409, "Another process is at it"),
    (CutOverRefused, 409, "The switch did not happen"),
    (WrongState, 409, "The state does not allow this"),
    (NotAuthenticated, 401, "An API key is needed"),
    (ScopeMissing, 403, "The API key does not allow this"),
    (ForeignRequest, 403, "Not from there"),
    (RateLimited, 429, "Too many requests"),
    (NoLiveGeneration, 503, "Nothing is live yet"),
    (SpaceMismatch, 503, "Encoder and collection do not match"),
    (StoreUnavailable, 503, "The store does not answer"),
    (DatabaseUnavailable, 503, "The database does not answer"),
    (SearchError, 500, "The request failed"),
    (TrainingError, 500, "The model failed"),
)


class Forbidden(Exception):
    """The token of this process was not given."""


def problem(status: int, title: str, detail: str, **more: Any) -> JSONResponse:
    """RFC 9457 problem details."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more},
        status_code=status,
        media_type="application/problem+json",
    )


def install(app: FastAPI, _service: Service) -> None:
    """Answer every error of the packages as the table says."""

    @app.exception_handler(Forbidden)
    def forbidden(_request: Request, _error: Exception) -> JSONResponse:
        return problem(
            403, "Not allowed", "this endpoint needs the token in the data directory's service.json"
        )

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [
            {"where": ".".join(map(str, item["loc"])), "reason": item["msg"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['where']}: {item['reason']}" for item in found[:3])
        return problem(422, "The request is not understood", detail, errors=found)

    def known(_request: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    for kind in (SearchError, TrainingError):
        app.add_exception_handler(kind, known)


def error_response(error: Exception) -> JSONResponse:
    """The answer to an error that is in the table."""
    status, title = next(
        (status, title) for kind, status, title in STATUS if isinstance(error, kind)
    )
    if status >= 500:
        log.warning("%s: %s", type(error).__name__, error)
    response = problem(status, title, str(error))
    if isinstance(error, AccessError):
        response.headers.update(error.headers)
    return response
