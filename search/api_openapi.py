"""The OpenAPI document: what FastAPI finds out by itself, and what is the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from search.api_problem import MEDIA_TYPE
from search.api_schema import Problem
from search.request_ids import HEADER

_SCHEMAS = "#/components/schemas/"
# What every endpoint may answer whatever it does; 404 and 409 are told by the endpoint itself.
_ALWAYS = (400, 401, 403, 413, 415, 422, 429, 500, 503, 504)

TAGS = (
    {"name": "search", "description": "Questions to the live generation, or to a named one."},
    {"name": "documents", "description": "The documents of record."},
    {"name": "feedback", "description": "What people thought of the answers."},
    {"name": "service", "description": "What this process is and how it is."},
)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of an endpoint that answers these errors besides those of every endpoint."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}Problem"}}},
        }
        for status in statuses
    }


def body_of(model: type[BaseModel], *, media_type: str = "application/json") -> dict[str, Any]:
    """`openapi_extra=` of an endpoint that reads the body itself."""
    schema = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


def install(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Complete the document. bodies: what endpoints read themselves."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title,
                version=app.version,
                description=app.description,
                routes=app.routes,
                tags=[dict(tag) for tag in TAGS],
            )
            schemas = document["components"]["schemas"]
            _add(schemas, Problem)
            for model in bodies:
                _add(schemas, model)
            for path in document["paths"].values():
                for operation in path.values():
                    _complete(operation)
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _add(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    schema = model.model_json_schema(ref_template=_SCHEMAS + "{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status, told in responses.items():
        content: Mapping[str, Any] = told.get("content", {})
        if int(status) >= 400 and MEDIA_TYPE not in content:
            told["content"] = problems(int(status))[int(status)]["content"]
    for status, told in problems(*_ALWAYS).items():
        responses.setdefault(str(status), told)
    operation["responses"] = dict(sorted(responses.items()))
    for told in operation["responses"].values():
        told.setdefault("headers", {})[HEADER] = {
            "description": "Of this request; the one that was sent, if one was",
            "schema": {"type": "string"},
            "required": True,
        }
