"""docs/api.md has every endpoint of the OpenAPI document, with its scope and what it takes.

`python -m tests.unit.test_api_docs` writes the list anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from search.access import Scope
from search.api_limits import ApiLimits
from search.app import create_app
from search.drain import Drain
from search.errors import NotAuthenticated
from search.service import Service
from search.telemetry import Telemetry

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
MARK = "<!-- endpoints -->\n"
ALWAYS = frozenset({"400", "401", "403", "413", "415", "422", "429", "500", "503", "504"})
NO_SCOPE = {"/metrics": "any key, or none on a loopback address"}


class _Refusing:
    """Lets nobody in, and remembers what for."""

    required = True
    wanted: Scope | None = None

    async def authenticate(self, _request: Request, scope: Scope) -> str:
        self.wanted = scope
        raise NotAuthenticated("nobody may")


@pytest.fixture(scope="module")
def written() -> str:
    return endpoints()


def endpoints() -> str:
    """The list in docs/api.md, from the OpenAPI document."""
    access = _Refusing()
    # What the API is described by and refuses with; nothing is behind it.
    parts = SimpleNamespace(
        access=access,
        limits=ApiLimits(),
        drain=Drain(),
        telemetry=Telemetry(),
        operations=SimpleNamespace(pause=None, resume=None, cancel=None),
        **dict.fromkeys(("manager", "corpus", "feedback", "token")),
    )
    app = create_app(cast(Service, parts))
    document = app.openapi()
    client = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    lines = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            access.wanted = None
            if operation.get("security"):
                client.request(method, path.replace("{", "").replace("}", ""))
            scope = NO_SCOPE.get(path) or (access.wanted and f"`{access.wanted}`") or "no key"
            lines += _endpoint(method, path, operation, document["components"]["schemas"], scope)
    return "\n".join(lines)


def _endpoint(
    method: str,
    path: str,
    operation: Mapping[str, Any],
    schemas: Mapping[str, Any],
    scope: str,
) -> Iterator[str]:
    yield f"### {method.upper()} {path}\n"
    yield " ".join(operation["description"].split()) + "\n"
    yield f"- needs: {scope}"
    parameters = operation.get("parameters", [])
    for place, title in (("path", "in the path"), ("query", "in the query"), ("header", "headers")):
        names = [f"`{item['name']}`" for item in parameters if item["in"] == place]
        if names:
            yield f"- {title}: {', '.join(names)}"
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"- body, `{media_type}`: {_fields(content['schema'], schemas)}"
    for status, response in sorted(operation["responses"].items()):
        if status not in ALWAYS:
            yield f"- {status}: {_answer(response, schemas)}"
    yield ""


def _answer(response: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    content = response.get("content", {})
    for media_type, described in content.items():
        if media_type == "application/problem+json":
            return str(response["description"]).lower()
        schema = described.get("schema", {})
        fields = _fields(schema, schemas) if schema else ""
        return fields or f"`{media_type}`"
    return str(response["description"]).lower()


def _fields(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """The names of an object's fields; those that must be there are marked."""
    if "$ref" in schema:
        return _fields(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "anyOf" in schema:
        found = [_fields(option, schemas) for option in schema["anyOf"]]
        return ", or ".join(dict.fromkeys(text for text in found if text))
    if schema.get("type") == "array":
        return f"a list of {_fields(schema.get('items', {}), schemas) or 'objects'}"
    return ", ".join(f"`{name}`" for name in schema.get("properties", {}))


def test_the_page_has_every_endpoint_as_it_is(written: str) -> None:
    listed = PAGE.read_text(encoding="utf-8").partition(MARK)[2]
    assert listed.strip() == written.strip(), "run `just docs`"


def test_every_endpoint_that_asks_for_a_key_names_its_scope(written: str) -> None:
    needs = [line for line in written.splitlines() if line.startswith("- needs: ")]
    assert len(needs) == written.count("### ")
    open_to_all = [line for line in needs if "no key" in line]
    assert len(open_to_all) == 2, "healthz and readyz"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(f"{text.partition(MARK)[0]}{MARK}\n{endpoints().strip()}\n", encoding="utf-8")
