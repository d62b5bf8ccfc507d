"""Who may do what over HTTP: keys, scopes, rates, and pages of other origins."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from reindexer.access import access_of
from reindexer.cli import cli
from reindexer.errors import KeysMissing
from reindexer.service import ReindexerService
from reindexer.settings import SettingsInvalid
from search import access as access_module
from search.access import needs
from search.app import create_app
from search.errors import DatabaseUnavailable
from search.keys import ApiKeys
from search.scopes import Scope
from tests.word_directory import WordDirectory

TOKEN = "the-token-of-the-data-directory"
LOCAL = "http://127.0.0.1:8321"
SCOPES: tuple[Scope, ...] = ("search", "write", "operate")
OPEN_TO_ALL = {"/healthz", "/readyz"}
ANY_KEY = {"/metrics"}  # whatever its scopes

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReindexerService]:
    """A service over an empty corpus, called without a network."""
    folder = tmp_path_factory.mktemp("access") / "data"
    with WordDirectory(folder) as directory:
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        yield service
        service.close()


@pytest.fixture
def keys(service: ReindexerService) -> Iterator[ApiKeys]:
    keys = ApiKeys(service._data.database)
    yield keys
    for key in keys.list():
        keys.revoke(key.id)


@pytest.fixture(scope="module")
def app(service: ReindexerService) -> FastAPI:
    """Its API, and a route for each scope."""
    app = create_app(service)
    for scope in SCOPES:
        _add_route(app, service, scope)
    return app


def _add_route(app: FastAPI, service: ReindexerService, scope: Scope) -> None:
    @app.api_route(f"/may/{scope}", methods=["GET", "POST"], include_in_schema=False)
    def may(who: str = Depends(needs(service, scope))) -> dict[str, str]:
        return {"who": who}


@pytest.fixture
def serve(service: ReindexerService, app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """A client of the service as it would be with these settings."""

    def start(host: str = "127.0.0.1", *, insecure: bool = False, **settings: Any) -> TestClient:
        data = service._data
        chosen = dataclasses.replace(data.settings, **settings)
        access = access_of(data.database, chosen, host=host, token=TOKEN, insecure=insecure)
        monkeypatch.setattr(service, "access", access)
        return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)

    return start


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# -- who is asked for a key -----------------------------------------------------------------------


def test_this_machine_needs_no_key(serve: Serve) -> None:
    client = serve()

    assert [client.get(f"/may/{scope}").json() for scope in SCOPES] == [{"who": "local"}] * 3
    assert client.get("/documents/none").status_code == 404


def test_another_address_is_refused_until_there_are_keys(serve: Serve, keys: ApiKeys) -> None:
    with pytest.raises(KeysMissing, match=r"`reindexer keys create NAME --scope search"):
        serve("0.0.0.0")

    _, text = keys.create("website", ["search"])
    client = serve("0.0.0.0")

    assert client.get("/may/search").status_code == 401
    assert client.get("/may/search", headers=bearer(text)).status_code == 200


def test_insecure_answers_everybody(serve: Serve) -> None:
    client = serve("0.0.0.0", insecure=True)

    assert client.post("/may/write").json() == {"who": "anonymous"}
    assert client.get("/may/write", headers={"Host": "search.example"}).status_code == 200


def test_keys_may_be_asked_for_on_this_machine_too(serve: Serve) -> None:
    client = serve(require_keys=True)

    assert client.get("/may/search").status_code == 401
    with pytest.raises(SettingsInvalid, match="leave one of them out"):
        serve(require_keys=True, insecure=True)


def test_the_token_of_the_data_directory_may_do_everything(serve: Serve) -> None:
    client = serve(require_keys=True)

    assert client.post("/may/operate", headers={"X-Reindexer-Token": TOKEN}).json() == {
        "who": "local"
    }
    wrong = client.post("/may/operate", headers={"X-Reindexer-Token": "guess"})
    assert wrong.status_code == 401
    assert "service.json" in wrong.json()["detail"]


def test_every_operation_asks_for_a_scope(app: FastAPI) -> None:
    """One that somebody adds and forgets is found here, in what the API says of itself."""
    paths = app.openapi()["paths"]
    assert "/search" in paths

    unguarded = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if operation.get("security") != [{"api_key": []}]
    }

    assert unguarded <= OPEN_TO_ALL | ANY_KEY


def test_metrics_need_a_key_where_everything_does(serve: Serve, keys: ApiKeys) -> None:
    client = serve(require_keys=True)
    _, text = keys.create("prometheus", ["operate"])

    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer(text)).status_code == 200


# -- keys and scopes ------------------------------------------------------------------------------


def test_a_key_may_do_what_its_scopes_say_and_nothing_else(serve: Serve, keys: ApiKeys) -> None:
    client = serve(require_keys=True)
    made = {scope: keys.create(scope, [scope]) for scope in SCOPES}
    for given, (key, text) in made.items():
        for scope in SCOPES:
            answer = client.get(f"/may/{scope}", headers=bearer(text))
            if scope == given:
                assert answer.json() == {"who": key.id}
            else:
                assert answer.status_code == 403
                assert f"lacks the scope {scope!r}" in answer.json()["detail"]
                assert f'scope="{scope}"' in answer.headers["WWW-Authenticate"]


def test_a_key_that_is_sent_counts_even_where_none_is_needed(serve: Serve, keys: ApiKeys) -> None:
    client = serve()
    _, text = keys.create("website", ["search"])

    assert client.get("/may/search", headers=bearer(text)).status_code == 200
    assert client.get("/may/write", headers=bearer(text)).status_code == 403
    assert client.get("/may/search", headers=bearer("rk_no_key")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {key}"},
        {"Authorization": "bearer  {key}"},
        {"X-API-Key": "{key}"},
        {"Authorization": "Basic bWU6c2VjcmV0", "X-API-Key": "{key}"},  # a proxy's own password
    ],
)
def test_a_key_is_sent_as_either_header(
    serve: Serve, keys: ApiKeys, headers: dict[str, str]
) -> None:
    client = serve(require_keys=True)
    _, text = keys.create("website", ["search"])
    sent = {name: value.format(key=text) for name, value in headers.items()}

    assert client.get("/may/search", headers=sent).status_code == 200


def test_a_wrong_key_is_told_apart_from_nothing_else(serve: Serve, keys: ApiKeys) -> None:
    """The answers to an unknown id and to a wrong secret are the same."""
    client = serve(require_keys=True)
    key, text = keys.create("website", ["search"])
    wrong = [f"rk_{key.id}_{'0' * 32}", f"rk_{'0' * 10}_{text.split('_')[2]}", "nonsense", ""]

    answers = [client.get("/may/search", headers=bearer(each)) for each in wrong[:3]]
    answers.append(client.get("/may/search", headers={"X-API-Key": wrong[3]}))

    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].headers["WWW-Authenticate"].startswith("Bearer ")
    assert answers[0].headers["Content-Type"] == "application/problem+json"


def test_a_wrong_secret_and_an_unknown_id_take_the_same_path(
    serve: Serve, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = serve(require_keys=True)
    key, text = keys.create("website", ["search"])
    compared: list[tuple[str, str]] = []
    compare = access_module.hmac.compare_digest

    def watch(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    client.get("/may/search", headers=bearer(text))  # the keys are read
    monkeypatch.setattr(access_module.hmac, "compare_digest", watch)
    monkeypatch.setattr(access_module, "KEYS_RETRY_S", 1e9)
    client.get("/may/search", headers=bearer(f"rk_{key.id}_{'0' * 32}"))
    client.get("/may/search", headers=bearer(f"rk_{'0' * 10}_{'0' * 32}"))

    assert len(compared) == 2
    assert compared[0][0] == compared[1][0]
    assert len(compared[0][1]) == len(compared[1][1]) == 64


def test_a_new_key_works_at_once_and_a_revoked_one_stops_within_seconds(
    serve: Serve, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_module, "KEYS_RETRY_S", 0.0)
    client = serve(require_keys=True)
    assert client.get("/may/search", headers=bearer("rk_a_b")).status_code == 401
    key, text = keys.create("website", ["search"])
    assert client.get("/may/search", headers=bearer(text)).status_code == 200

    keys.revoke(key.id)  # as another process would
    assert access_module.KEYS_FRESH_S <= 2.0
    monkeypatch.setattr(access_module, "KEYS_FRESH_S", 0.0)

    assert client.get("/may/search", headers=bearer(text)).status_code == 401


def test_a_known_key_asks_the_database_once_in_a_while(
    serve: Serve, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[float] = []
    usable = ApiKeys.usable

    def count(self: ApiKeys) -> Any:
        reads.append(time.monotonic())
        return usable(self)

    _, text = keys.create("website", ["search"])
    client = serve(require_keys=True)
    monkeypatch.setattr(access_module, "KEYS_FRESH_S", 3600.0)
    monkeypatch.setattr(ApiKeys, "usable", count)
    for _ in range(20):
        assert client.get("/may/search", headers=bearer(text)).status_code == 200
    for n in range(20):  # a guesser does not wear the database down either
        client.get("/may/search", headers=bearer(f"rk_{n}_guess"))

    assert len(reads) <= 1 + (time.monotonic() - reads[0]) / access_module.KEYS_RETRY_S + 1


def test_keys_that_cannot_be_read_are_a_clear_answer(
    serve: Serve, keys: ApiKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: ApiKeys) -> Any:
        raise DatabaseUnavailable("database is away")

    client = serve(require_keys=True)
    _, text = keys.create("website", ["search"])
    monkeypatch.setattr(ApiKeys, "usable", fail)

    assert client.get("/may/search", headers=bearer(text)).status_code == 503


def test_no_answer_and_no_log_line_shows_a_key(
    serve: Serve, keys: ApiKeys, caplog: pytest.LogCaptureFixture
) -> None:
    client = serve(require_keys=True)
    key, text = keys.create("website", ["search"])
    wrong = text[:-4] + "0000"
    secret, wrong_secret = text.split("_")[2], wrong.split("_")[2]

    with caplog.at_level(logging.DEBUG):
        answers = [
            client.get("/may/search", headers=bearer(text)),
            client.get("/may/search", headers=bearer(wrong)),
            client.get("/may/write", headers=bearer(text)),
            client.post("/search", headers=bearer(text), json={"k": "many"}),
            client.post("/search", headers=bearer(text), json={"query": "a"}),
            client.get(f"/documents/{key.id}", headers=bearer(text)),
        ]

    shown = caplog.text + "".join(f"{answer.headers}{answer.text}" for answer in answers)
    assert secret not in shown
    assert wrong_secret not in shown


# -- rates ----------------------------------------------------------------------------------------


def test_a_key_that_asks_too_often_is_told_when_to_come_back(serve: Serve, keys: ApiKeys) -> None:
    client = serve(require_keys=True)
    _, text = keys.create("website", ["search"], rate_limit="3/minute")
    _, other = keys.create("office", ["search"])

    codes = [client.get("/may/search", headers=bearer(text)).status_code for _ in range(4)]
    refused = client.get("/may/search", headers=bearer(text))

    assert codes == [200, 200, 200, 429]
    assert 50 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert "3 requests a minute" in refused.json()["detail"]
    assert client.get("/may/search", headers=bearer(other)).status_code == 200


def test_the_setting_is_for_keys_without_a_rate_of_their_own(serve: Serve, keys: ApiKeys) -> None:
    client = serve(require_keys=True, rate_limit="2/minute")
    _, plain = keys.create("plain", ["search"])
    _, fast = keys.create("fast", ["search"], rate_limit="100/minute")

    for text, codes in ((plain, [200, 200, 429]), (fast, [200, 200, 200])):
        found = [client.get("/may/search", headers=bearer(text)).status_code for _ in range(3)]
        assert found == codes


def test_an_address_without_a_key_is_counted_when_everybody_may_ask(serve: Serve) -> None:
    client = serve("0.0.0.0", insecure=True, rate_limit="2/minute")
    assert [client.get("/may/search").status_code for _ in range(3)] == [200, 200, 429]

    here = serve(rate_limit="2/minute")
    assert [here.get("/may/search").status_code for _ in range(3)] == [200, 200, 200]


def test_a_rate_that_is_none_is_found_at_the_start(serve: Serve) -> None:
    with pytest.raises(SettingsInvalid, match=r"serve\.rate_limit: 'often' is no rate"):
        serve(rate_limit="often")


# -- browsers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_was_pointed_at_this_machine_gets_nothing(serve: Serve, host: str) -> None:
    """DNS rebinding: the page's own name leads to 127.0.0.1, so the browser lets it read."""
    client = serve()

    for path in ("/may/search", "/healthz", "/openapi.json"):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "serve.allowed_hosts" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["localhost", "localhost:8321", "127.0.0.1:1", "[::1]:8321"])
def test_this_machine_has_several_names(serve: Serve, host: str) -> None:
    assert serve().get("/may/search", headers={"Host": host}).status_code == 200


def test_a_proxy_in_front_names_itself(serve: Serve) -> None:
    client = serve(allowed_hosts="search.example, other.example")

    headers = {"Host": "Search.example", "Origin": "https://Search.example"}
    assert client.post("/may/write", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:8321"]
)
@pytest.mark.parametrize("insecure", [False, True])
def test_a_page_of_another_origin_changes_nothing(
    serve: Serve, origin: str, insecure: bool
) -> None:
    client = serve("0.0.0.0" if insecure else "127.0.0.1", insecure=insecure)

    answer = client.post("/may/write", headers={"Origin": origin})

    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_page_of_our_own_may(serve: Serve) -> None:
    assert serve().post("/may/write", headers={"Origin": LOCAL}).status_code == 200


def test_a_key_may_be_sent_from_anywhere(serve: Serve, keys: ApiKeys) -> None:
    """A page cannot know a key that it was not given."""
    _, text = keys.create("website", ["search"])
    client = serve("0.0.0.0")
    headers = {"Host": "search.example", "Origin": "https://shop.example", **bearer(text)}

    assert client.post("/may/search", headers=headers).status_code == 200


# -- the verbs ------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """A verb on a data directory that is not there yet."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--data-dir", str(tmp_path / "data"), *args])
        assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
        return result

    return run


def test_a_key_is_shown_once_and_listed_without_its_secret(run: Callable[..., Result]) -> None:
    made = run("keys", "create", "website", "--scope", "search", "--rate", "600/minute")
    text = made.stdout.strip()
    key_id, secret = text.split("_")[1:]

    listed = run("keys", "list")
    (row,) = json.loads(run("keys", "--json").stdout)
    revoked = json.loads(run("keys", "revoke", key_id, "--json").stdout)

    assert secret not in made.stderr + listed.output
    assert (row["id"], row["name"], row["scopes"], row["rate"]) == (
        key_id, "website", ["search"], "600/minute",
    )  # fmt: skip
    assert revoked["revoked_at"] is not None
    assert "keys list" in run("keys", "revoke", "nobody", code=1).stderr
    assert (
        "600/minute"
        in run("keys", "create", "x", "--scope", "search", "--rate", "x", code=2).stderr
    )


def test_serve_starts_beyond_this_machine_with_a_key_or_not_at_all(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[bool] = []
    monkeypatch.setattr(
        ReindexerService,
        "run",
        lambda self, **_: (served.append(self.access.required), self.close()),
    )
    serve = ("serve", "--host", "0.0.0.0", "--port", "0")

    assert "`reindexer keys create NAME" in run(*serve, code=2).stderr
    assert served == []
    assert "whoever reaches it may read and write" in run(*serve, "--insecure").stderr
    run("keys", "create", "website", "--scope", "search")
    run(*serve)
    assert served == [False, True]
