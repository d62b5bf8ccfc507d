"""The OpenAPI document as a page: every endpoint, what it takes and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import Request, Response

from search.pages.rendering import page

_SCHEMAS = "#/components/schemas/"
_EVERYWHERE = frozenset({"400", "401", "403", "413", "415", "422", "429", "500", "503", "504"})


async def show(request: Request) -> Response:
    """Nothing of it is secret: whoever may see /openapi.json may see this."""
    return page("api.html", None, at="api", **content(request.app.openapi()))


def content(document: Mapping[str, Any]) -> dict[str, Any]:
    """What the template needs: endpoints in the document's order by tag, and the schemas."""
    tags: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = operation.get("tags", ["other"])[0]
            tags.setdefault(tag, []).append(_endpoint(method, path, operation))
    about = {tag["name"]: tag["description"] for tag in document.get("tags", ())}
    return {
        "about": document["info"]["description"],
        "tags": [(tag, about.get(tag, ""), endpoints) for tag, endpoints in tags.items()],
        "schemas": [
            (name, schema.get("description", ""), list(_fields(schema)))
            for name, schema in sorted(document["components"]["schemas"].items())
        ],
    }


def _endpoint(method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    summary, _, more = operation.get("description", "").partition("\n\n")
    body = next(iter(operation.get("requestBody", {}).get("content", {}).items()), None)
    return {
        "method": method.upper(),
        "path": path,
        "summary": summary,
        "more": more.strip(),
        "parameters": [
            {
                "name": parameter["name"],
                "place": parameter["in"],
                "type": _type(parameter.get("schema", {})),
                "required": parameter.get("required", False),
                "about": parameter.get("description", ""),
            }
            for parameter in operation.get("parameters", ())
        ],
        "body": None if body is None else (body[0], _type(body[1].get("schema", {}))),
        "answers": [
            (status, told.get("description", ""), _answer(told))
            for status, told in operation["responses"].items()
            if status not in _EVERYWHERE
        ],
    }


def _answer(told: Mapping[str, Any]) -> tuple[str, str | None]:
    for media_type, found in told.get("content", {}).items():
        kind, schema = _type(found.get("schema", {}))
        return (kind, schema) if schema else (media_type, None)
    return "", None


def _fields(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        yield {
            "name": name,
            "type": _type(field),
            "required": name in required,
            "about": field.get("description", ""),
        }


def _type(schema: Mapping[str, Any]) -> tuple[str, str | None]:
    """In words, and the schema that it leads to, if to one."""
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix(_SCHEMAS)
        return name, name
    if "const" in schema:
        return repr(schema["const"]), None
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"]), None
    for key in ("anyOf", "oneOf"):
        if key in schema:
            found = [_type(item) for item in schema[key]]
            named = next((name for _, name in found if name), None)
            return " | ".join(text for text, _ in found), named
    if schema.get("type") == "array":
        text, linked = _type(schema.get("items", {}))
        return f"list of {text}", linked
    return str(schema.get("type", "any")), None
