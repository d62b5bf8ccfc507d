"""Every endpoint as somebody new would try it, and with what it needs away: a clear answer each.

The table holds a request of each operation that the OpenAPI document has. An answer that is no
success is a problem of RFC 9457 with a status code that says whose fault it is; none takes long.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from reindexer.access import access_of
from reindexer.service import PROBLEMS, ReindexerService
from search.app import create_app
from search.keys import ApiKeys
from search.scopes import Scope
from tests.word_directory import WordDirectory

LOCAL = "http://127.0.0.1:8321"
WAIT_S = 60.0
DEADLINE_S, LOCK_S, CUT_OVER_S = 1.0, 1.0, 1.0
ANSWER_S = 20.0  # on a machine that does other things too; nothing here waits for more than 2 s
LARGE_BYTES = 10_000_000
LIMIT_BYTES = 11_000_000
OWN_FAULT = (503, 504, 507)  # of a service that says what it lacks
JSON, LINES = "application/json", "application/x-ndjson"


@dataclass(frozen=True, kw_only=True)
class Route:
    """An operation, and a request that is right for it."""

    scope: Scope | None  # None: asks for none
    body: Any = None
    params: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)  # what is in the path
    missing: Mapping[str, Any] | None = None  # in the body: something that is not there
    wrong: Mapping[str, str] = field(default_factory=dict)  # a parameter of a wrong type
    media_type: str = JSON


DOCUMENT = {"text": "all of d1"}
QUERY = {"query": "all of d1"}
NO_GENERATION = {"generation": "docs@99"}
NO_BUILD = {"build_id": "999"}
ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/search"): Route(scope="search", body=QUERY, missing=NO_GENERATION),
    ("GET", "/search"): Route(scope="search", params={"q": "all"}, wrong={"k": "many"}),
    ("POST", "/search/batch"): Route(
        scope="search", body={"queries": [QUERY]}, missing=NO_GENERATION
    ),
    ("PUT", "/documents"): Route(
        scope="write", body={"documents": [{"doc_id": "d1", **DOCUMENT}]}, wrong={"wait": "long"}
    ),
    ("POST", "/documents"): Route(
        scope="write", body={"doc_id": "d1", **DOCUMENT}, wrong={"wait": "long"}, media_type=LINES
    ),
    ("POST", "/documents/delete"): Route(scope="write", body={"doc_ids": ["none"]}),
    ("PUT", "/documents/{doc_id}"): Route(scope="write", body=DOCUMENT, names={"doc_id": "d2"}),
    ("DELETE", "/documents/{doc_id}"): Route(scope="write", names={"doc_id": "none"}),
    ("GET", "/documents/{doc_id}"): Route(scope="search", names={"doc_id": "none"}),
    ("POST", "/feedback"): Route(scope="search", body={"query_id": "0" * 32, "doc_id": "d1"}),
    ("POST", "/votes"): Route(
        scope="search",
        body={"query": "all", "one": "docs@1", "other": "docs@2", "better": None},
        missing={"one": "docs@98", "other": "docs@99"},
    ),
    ("GET", "/votes/summary"): Route(scope="search"),
    ("POST", "/runs"): Route(scope="operate", body={"queries": ["all"]}, missing=NO_GENERATION),
    ("POST", "/legs"): Route(scope="operate", body={"queries": ["all"]}, missing=NO_GENERATION),
    ("POST", "/verify"): Route(
        scope="operate", body={"generation": "docs@1"}, missing=NO_GENERATION
    ),
    ("GET", "/status"): Route(scope="search"),
    ("GET", "/generations"): Route(scope="search"),
    ("GET", "/generations/{name}"): Route(scope="search", names={"name": "docs@99"}),
    ("GET", "/models"): Route(scope="search"),
    ("GET", "/models/{name}"): Route(scope="search", names={"name": "none@9"}),
    ("GET", "/builds"): Route(scope="search"),
    ("POST", "/builds"): Route(scope="operate", body={"model": "none@9"}, missing={}),
    ("GET", "/builds/{build_id}"): Route(scope="search", names=NO_BUILD),
    ("POST", "/builds/{build_id}/pause"): Route(scope="operate", names=NO_BUILD),
    ("POST", "/builds/{build_id}/resume"): Route(scope="operate", names=NO_BUILD),
    ("POST", "/builds/{build_id}/cancel"): Route(scope="operate", names=NO_BUILD),
    ("POST", "/cutover"): Route(
        scope="operate", body={"generation": "docs@1"}, missing=NO_GENERATION
    ),
    ("POST", "/rollback"): Route(scope="operate"),
    ("GET", "/events"): Route(scope="search", wrong={"after": "noon"}),
    ("GET", "/info"): Route(scope="search"),
    ("GET", "/healthz"): Route(scope=None),
    ("GET", "/readyz"): Route(scope=None),
    ("GET", "/metrics"): Route(scope="search"),
    ("GET", "/generations/{name}/points"): Route(scope="operate", names={"name": "docs@99"}),
}
WITH_BODY = {key: route for key, route in ROUTES.items() if route.body is not None}
IN_PATH_MAY_MISS = {key for key, route in ROUTES.items() if route.names} - {
    ("PUT", "/documents/{doc_id}"),  # makes it
    ("DELETE", "/documents/{doc_id}"),  # is done already
}


# -- a service, called without a network -----------------------------------------------------------


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[ReindexerService]:
    """docs@1 is live; nothing moves by itself."""
    with WordDirectory(
        folder,
        deadline_s=DEADLINE_S,
        cut_over_timeout_s=CUT_OVER_S,
        max_body_bytes=LIMIT_BYTES,
        feedback_enabled=True,
        run_worker=False,
    ) as directory:
        directory.put_many(f"d{number}" for number in range(20))
        directory.go_live(directory.build("word@1"))
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        assert service.manager.wait_until_open("docs@1", WAIT_S)
        service.manager.follow()
        yield service
        service.close()


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReindexerService]:
    monkeypatch.setattr("search.database.LOCK_WAIT_S", LOCK_S)
    with serving(tmp_path / "data") as service:
        yield service


@pytest.fixture
def client(service: ReindexerService) -> TestClient:
    app = create_app(service, problems=PROBLEMS)
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


def content_of(route: Route, **changed: Any) -> bytes | None:
    if route.body is None:
        return None
    return json.dumps({**route.body, **changed}).encode()


def ask(
    client: TestClient,
    key: tuple[str, str],
    *,
    content: bytes | None = None,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    **names: str,
) -> httpx.Response:
    """The answer, which keeps to what every answer promises."""
    method, path = key
    route = ROUTES[key]
    began = time.monotonic()
    answer = client.request(
        method,
        path.format(**{**route.names, **names}),
        content=content_of(route) if content is None else content,
        params={**route.params, **(params or {})},
        headers={"content-type": route.media_type, **(headers or {})},
    )
    assert time.monotonic() - began < ANSWER_S, key
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", (key, answer.text)
        told = answer.json()
        assert told["status"] == answer.status_code, key
        assert told["title"], key
        assert told["detail"], key
    if answer.status_code >= 500:
        assert answer.status_code in OWN_FAULT, (key, answer.text)
    return answer


def statuses(answers: Mapping[tuple[str, str], httpx.Response]) -> dict[str, int]:
    return {" ".join(key): answer.status_code for key, answer in answers.items()}


def expected(keys: Iterator[tuple[str, str]] | Mapping[Any, Any] | set[Any], status: int) -> Any:
    return {" ".join(key): status for key in keys}


# -- what somebody new does wrong ------------------------------------------------------------------


def test_the_table_has_every_operation(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    assert set(ROUTES) == {
        (method.upper(), path) for path, operations in paths.items() for method in operations
    }


def test_without_a_key_with_a_wrong_one_and_without_the_scope(
    service: ReindexerService, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = service._data
    monkeypatch.setattr(
        service,
        "access",
        access_of(
            data.database,
            data.settings.__class__(data_dir=data.path, require_keys=True),
            host="127.0.0.1",
            token="the-token",
            insecure=False,
        ),
    )
    keys = ApiKeys(data.database)
    scopes: tuple[Scope, ...] = ("search", "write")
    only = {scope: keys.create(scope, [scope])[1] for scope in scopes}
    guarded = {key: route for key, route in ROUTES.items() if route.scope is not None}
    for headers in (
        {},
        {"Authorization": "Bearer rx_0000000000000000_guess"},
        {"Authorization": "Basic dTpw"},
        {"X-Reindexer-Token": "guess"},
    ):
        answers = {key: ask(client, key, headers=headers) for key in guarded}
        assert statuses(answers) == expected(guarded, 401)
    for scope, other in (("search", "write"), ("write", "search"), ("operate", "search")):
        refused = {
            key: ask(client, key, headers={"Authorization": f"Bearer {only[other]}"})
            for key, route in guarded.items()
            if route.scope == scope and key != ("GET", "/metrics")  # any key will do
        }
        assert statuses(refused) == expected(refused, 403)


def test_wrong_types(client: TestClient) -> None:
    for key, route in WITH_BODY.items():
        if route.media_type == LINES:
            continue  # a line that is wrong is told in the answer
        wrong = [b"", b"{", b"null", b"[]", b'"text"', b"\xff", b'{"unknown": 1}']
        wrong += [content_of(route, **{name: {"x": []}}) or b"" for name in route.body]
        for content in wrong:
            if content:
                answer = ask(client, key, content=content)
                assert answer.status_code in (400, 422), (key, content, answer.text)
        form = ask(client, key, headers={"content-type": "application/x-www-form-urlencoded"})
        assert 400 <= form.status_code < 500, key
    for key, route in ROUTES.items():
        for name, value in route.wrong.items():
            assert ask(client, key, params={name: value}).status_code == 422, key
        if "build_id" in route.names:
            assert ask(client, key, build_id="first").status_code == 422, key


def test_bodies_of_10_mb_and_more(client: TestClient) -> None:
    text = "x" * LARGE_BYTES
    for key, route in WITH_BODY.items():
        for content in (
            json.dumps(text).encode(),
            content_of(route, unknown=text),
            *(content_of(route, **{name: text}) for name in route.body),
        ):
            assert content is not None
            if (answer := ask(client, key, content=content)).status_code >= 500:
                assert answer.status_code == 504, (key, answer.text)  # a slow machine
        too_large = content_of(route, unknown="x" * LIMIT_BYTES)
        answer = ask(client, key, content=too_large)
        assert answer.status_code == 413 or route.media_type == LINES, (key, answer.text)


def test_what_is_not_there(client: TestClient) -> None:
    in_path = {key: ask(client, key) for key in IN_PATH_MAY_MISS}
    in_body = {
        key: ask(client, key, content=content_of(route, **route.missing))
        for key, route in ROUTES.items()
        if route.missing is not None
    }

    assert statuses(in_path) == expected(in_path, 404)
    assert statuses(in_body) == expected(in_body, 404)


# -- what a service lacks --------------------------------------------------------------------------


def test_the_store_is_down(service: ReindexerService, client: TestClient) -> None:
    current = service.manager.current
    assert current is not None
    current.collection.close()

    answers = {key: ask(client, key) for key in ROUTES}
    points = ask(client, ("GET", "/generations/{name}/points"), name="docs@1")
    dense = ask(client, ("POST", "/search"), content=content_of(
        ROUTES["POST", "/search"], mode="dense")
    )  # fmt: skip

    assert answers["POST", "/search"].json()["degraded"] == ["dense"]
    assert answers["POST", "/verify"].status_code == 503
    assert answers["GET", "/readyz"].status_code == 503
    assert (points.status_code, dense.status_code) == (503, 503)


def test_the_database_is_locked(service: ReindexerService, client: TestClient) -> None:
    lock = sqlite3.connect(service._data.path / "reindexer.db", isolation_level=None)
    with contextlib.closing(lock):
        lock.execute("BEGIN IMMEDIATE")
        answers = {key: ask(client, key) for key in ROUTES}
        lock.execute("ROLLBACK")

    assert answers["PUT", "/documents"].status_code in OWN_FAULT
    assert answers["POST", "/search"].status_code == 200
    assert answers["GET", "/status"].status_code == 200


def test_the_database_is_damaged(service: ReindexerService, client: TestClient) -> None:
    """Nothing can be read or written any more."""
    service._data.database.close()
    for name in ("reindexer.db", "reindexer.db-wal"):
        (service._data.path / name).write_bytes(b"this is no database" * 1_000)

    answers = {key: ask(client, key) for key in ROUTES}

    assert answers["PUT", "/documents"].status_code == 503
    assert answers["GET", "/healthz"].status_code == 200
