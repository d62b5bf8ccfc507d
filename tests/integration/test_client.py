"""The typed client against a real service, against faults, and against the OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import inspect
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from search.app import create_app
from search.client import (
    AsyncSearchClient,
    Document,
    Feedback,
    Patience,
    Progress,
    SearchClient,
    calls,
    errors,
    uploads,
    values,
)
from search.client.event_lines import EventLines
from tests.running_service import RunningService
from tests.word_directory import WordDirectory

WAIT_S = 30.0
N_DOCUMENTS = 40
FIRST = "docs@1"  # the generation of word@1
QUICK = Patience(tries=3, first_wait_s=0.001, deadline_s=WAIT_S)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """FIRST is live."""
    folder = tmp_path_factory.mktemp("client") / "data"
    with WordDirectory(folder, run_worker=False, feedback_enabled=True) as directory:
        directory.put_many(f"d{number}" for number in range(N_DOCUMENTS))
        directory.go_live(directory.build("word@1"))
        yield directory


@pytest.fixture(scope="module")
def running(directory: WordDirectory) -> Iterator[RunningService]:
    with RunningService(directory) as running:
        yield running


@pytest.fixture(scope="module")
def client(running: RunningService) -> Iterator[SearchClient]:
    with SearchClient(running.url, patience=QUICK) as client:
        yield client


# -- a real service --------------------------------------------------------------------------------


def test_a_query_is_answered_with_typed_hits(client: SearchClient) -> None:
    answer = client.search("all of d7", k=3, mode="dense", explain=True)

    assert answer.generation == FIRST
    assert answer.model == "word@1"
    assert len(answer.hits) == 3
    assert answer.hits[0].doc_id == "d7"
    assert answer.hits[0].dense_score is not None
    with pytest.raises(dataclasses.FrozenInstanceError):
        answer.hits[0].rank = 2  # type: ignore[misc]


def test_a_batch_is_answered_in_its_order(client: SearchClient) -> None:
    answers = client.search_batch(["all of d1", {"query": "all of d2", "k": 1}]).answers

    assert [answer.hits[0].doc_id for answer in answers] == ["d1", "d2"]
    assert len(answers[1].hits) == 1


def test_every_hit_is_iterated_once_and_in_order(client: SearchClient) -> None:
    hits = list(client.iterate("all of d7", page=4, mode="dense"))

    assert len(hits) == len({hit.doc_id for hit in hits}) >= N_DOCUMENTS
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(list(client.iterate("all of d7", page=4, max_hits=10, mode="dense"))) == 10


@pytest.mark.parametrize("doc_id", ["plain", "faq/shipping", "..", "ä b?c#d%2Fe", "a//b", "."])
def test_any_doc_id_comes_back_from_where_it_was_put(client: SearchClient, doc_id: str) -> None:
    document = Document(doc_id=doc_id, text="words of it", title="It", metadata={"year": 2026})

    assert client.put_one(document, source="here").added == 1
    found = client.get(doc_id)
    assert (found.doc_id, found.text, found.metadata) == (doc_id, "words of it", {"year": 2026})
    assert found.source == "here"
    assert client.delete_one(doc_id).deleted == 1
    with pytest.raises(errors.NotFound) as refused:
        client.get(doc_id)
    assert refused.value.request_id


def test_what_was_put_and_waited_for_is_found(client: SearchClient) -> None:
    stored = client.put([Document(doc_id="new", text="zanzibar zanzibar")], wait=True)

    assert stored.visible
    assert client.search("zanzibar", mode="lexical").hits[0].doc_id == "new"
    assert client.delete(["new", "nobody"], wait=True).deleted == 1
    assert client.search("zanzibar", mode="lexical").hits == ()


def test_an_upload_is_cut_into_lots_and_tells_what_was_acknowledged(
    client: SearchClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "LOT_LINES", 10)
    told: list[Progress] = []
    n_read = 0

    def documents() -> Iterator[Document]:
        nonlocal n_read
        for number in range(35):
            n_read += 1
            assert n_read <= (told[-1].lines if told else 0) + 11, "a lot at a time is in memory"
            yield Document(doc_id="" if number == 17 else f"up{number}", text=f"text {number}")

    stored = client.upload(documents(), source="lots", on_progress=told.append)

    assert [one.lines for one in told] == [10, 20, 30, 35]
    assert (stored.added, stored.lines, stored.n_rejected) == (34, 35, 1)
    assert [one.line for one in stored.rejected] == [18]
    assert client.delete([f"up{number}" for number in range(35)]).deleted == 34
    assert client.upload([]) == values.StoredLines()


def test_a_click_and_a_vote_are_stored(client: SearchClient) -> None:
    answer = client.search("all of d3")
    click = Feedback(query_id=answer.query_id, doc_id=answer.hits[0].doc_id)

    assert client.feedback(click).stored == 1
    with pytest.raises(errors.NotFound):
        client.feedback(Feedback(query_id="nobody-asked", doc_id="d3"))
    with pytest.raises(errors.NotFound):
        client.vote("all", one="docs@1", other="docs@99", better=None)
    assert client.votes() == ()


def test_the_installation_is_looked_at(client: SearchClient) -> None:
    assert client.info().generation == FIRST
    assert client.ready().generation == FIRST
    assert client.status().live is not None
    assert [one.generation for one in client.generations()] == [FIRST]
    assert client.generation(FIRST).json["recipe"]["model"] == "word@1"
    assert client.models() == ()
    assert client.builds() == ()
    with pytest.raises(errors.NotFound, match="no build 7"):
        client.wait_for_build(7)
    with pytest.raises(errors.NotFound):
        client.start_build("nobody")


def test_a_switch_is_seen_as_an_event_and_taken_back(
    running: RunningService, directory: WordDirectory
) -> None:
    second = directory.build("word@2")
    with SearchClient(running.url, patience=QUICK) as client:
        before = client.past_events()[-1].id
        with pytest.raises(errors.Conflict):
            client.rollback()
        events = client.events(after=before)
        switched = client.cut_over(second, override="a test")
        seen = next(event for event in events if event.kind == "cut_over")
        events.close()  # type: ignore[attr-defined]

        assert switched.live_after == second
        assert seen.generation == second
        assert client.search("all of d7").generation == second
        assert client.rollback().live_after == FIRST


def test_the_asynchronous_client_does_the_same(running: RunningService) -> None:
    async def work() -> None:
        async with AsyncSearchClient(running.url, patience=QUICK) as client:
            first, second = await asyncio.gather(
                client.search("all of d7", mode="dense"), client.search("all of d8", mode="dense")
            )
            assert [first.hits[0].doc_id, second.hits[0].doc_id] == ["d7", "d8"]
            hits = [hit async for hit in client.iterate("all of d7", page=4, max_hits=10)]
            assert len(hits) == 10
            stored = await client.upload(
                Document(doc_id=f"async{number}", text="text") for number in range(3)
            )
            assert stored.added == 3
            assert (await client.delete(["async0", "async1", "async2"])).deleted == 3
            with pytest.raises(errors.NotFound):
                await client.get("async0")
            async for event in client.events(after=0):
                assert event.id >= 1
                break

    asyncio.run(work())


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if not name.startswith("_") and callable(member)
        }

    assert methods(SearchClient) == methods(AsyncSearchClient)


def test_every_snippet_of_the_documentation_runs(
    running: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    names: dict[str, object] = {"url": running.url, "key": None}
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert len(snippets) == page.count("```python")
    for snippet in snippets:
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert "d7" in printed
    assert "2,500 documents, 0 rejected" in printed
    with SearchClient(running.url) as client:
        client.delete([f"note-{number}" for number in range(1_000)])
        client.delete([f"note-{number}" for number in range(1_000, 2_000)])
        client.delete([f"note-{number}" for number in range(2_000, 2_500)], wait=True)


# -- faults ----------------------------------------------------------------------------------------


class Faults:
    """Answers of a service, one after the other; the last one stays."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options: Any) -> SearchClient:
        options = {"patience": QUICK, **options}
        return SearchClient("http://service", transport=httpx.MockTransport(self), **options)


def problem(status: int, **headers: str) -> httpx.Response:
    value = {"title": "No", "detail": "because", "status": status}
    return httpx.Response(status, json=value, headers=headers)


def deleted(n: int) -> httpx.Response:
    return httpx.Response(200, json={"deleted": n, "seq": 7})


@pytest.mark.parametrize("fault", [problem(429), problem(503), httpx.ConnectError("refused")])
def test_what_may_be_repeated_is_repeated(fault: Any) -> None:
    faults = Faults(fault, fault, deleted(1))

    assert faults.client().delete(["d1"]).deleted == 1
    assert len(faults.asked) == 3


@pytest.mark.parametrize("fault", [problem(429), problem(503), httpx.ReadError("broke")])
@pytest.mark.parametrize(
    "do",
    [
        lambda client: client.feedback(Feedback(query_id="q", doc_id="d")),
        lambda client: client.cut_over("docs@2"),
        lambda client: client.rollback(),
        lambda client: client.start_build("support"),
        lambda client: client.ready(),
    ],
)
def test_what_may_not_be_repeated_is_asked_once(
    do: Callable[[SearchClient], object], fault: Any
) -> None:
    faults = Faults(fault)

    with pytest.raises(errors.ClientError):
        do(faults.client())
    assert len(faults.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (307, errors.RequestInvalid),
        (401, errors.NotAuthenticated),
        (403, errors.NotAllowed),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (413, errors.RequestInvalid),
        (422, errors.RequestInvalid),
        (429, errors.TooManyRequests),
        (500, errors.ServiceFailed),
        (503, errors.Unavailable),
        (504, errors.TookTooLong),
    ],
)
def test_every_problem_is_an_error_of_its_kind(status: int, kind: type[errors.Refused]) -> None:
    faults = Faults(problem(status, **{"x-request-id": "find-me", "location": "http://other/"}))

    with pytest.raises(errors.Refused) as refused:
        faults.client().search("all")
    assert type(refused.value) is kind
    assert (refused.value.status, refused.value.detail) == (status, "because")
    assert refused.value.request_id == "find-me"
    assert {request.url.host for request in faults.asked} == {"service"}


def test_the_time_that_the_service_asks_for_is_waited() -> None:
    faults = Faults(problem(429, **{"retry-after": "1"}), deleted(0))
    began = time.monotonic()

    faults.client().delete(["d1"])

    assert time.monotonic() - began >= 1.0


def test_a_wait_beyond_the_deadline_is_not_begun() -> None:
    faults = Faults(problem(429, **{"retry-after": "3600"}))

    with pytest.raises(errors.TooManyRequests):
        faults.client().within(5.0).delete(["d1"])
    assert len(faults.asked) == 1


def test_a_service_that_says_nothing_is_left_at_the_deadline() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = SearchClient(f"http://127.0.0.1:{deaf.getsockname()[1]}", patience=QUICK)
        began = time.monotonic()
        with client, pytest.raises(errors.DeadlinePassed, match=r"within 0\.2 s"):
            client.within(0.2).info()
        assert time.monotonic() - began < WAIT_S / 2


def test_another_server_at_the_address_is_recognised() -> None:
    for answer in (httpx.Response(200, html="<p>hello"), httpx.Response(200, json={"hello": 1})):
        with pytest.raises(errors.AnswerInvalid, match="reindexer serve"):
            Faults(answer).client().info()
    with pytest.raises(errors.ClientError, match="expected http"):
        SearchClient("ftp://service")


def test_the_key_is_sent_and_shown_to_nobody_else() -> None:
    faults = Faults(problem(401))

    with pytest.raises(errors.NotAuthenticated) as refused:
        faults.client(api_key="swordfish").info()
    assert faults.asked[0].headers["authorization"] == "Bearer swordfish"
    assert "swordfish" not in str(refused.value)


def test_a_stream_of_events_goes_on_where_it_broke() -> None:
    def event(number: int) -> bytes:
        value = {"id": number, "at": 1.0, "kind": "k", "generation": None, "who": "local"}
        return f"retry: 9\n\nid: {number}\ndata: {json.dumps(value)}\n\n".encode()

    faults = Faults(
        httpx.Response(200, content=event(4) + b"id: 5\ndata: {half"),
        httpx.ReadError("broke"),
        httpx.Response(200, content=b": still here\n\n" + event(5)),
        problem(403),
    )
    seen = []

    with pytest.raises(errors.NotAllowed), contextlib.closing(faults.client()) as client:
        seen.extend(event.id for event in client.events(after=3))
    assert [request.headers.get("last-event-id") for request in faults.asked[:4]] == [
        "3",
        "4",
        "4",
        "5",
    ]
    assert seen == [4, 5]


def test_a_build_is_waited_for_until_its_end() -> None:
    value = {field.name: 0 for field in dataclasses.fields(values.Build)}
    states = [httpx.Response(200, json={**value, "state": state}) for state in ("running", "done")]
    assert Faults(*states).client().wait_for_build(1, look_s=0).state == "done"

    failed = httpx.Response(200, json={**value, "state": "failed", "reason": "disk full"})
    with pytest.raises(errors.BuildFailed, match="disk full"):
        Faults(failed).client().wait_for_build(1)
    with pytest.raises(errors.DeadlinePassed):
        Faults(states[0]).client().wait_for_build(1, look_s=0, timeout_s=0)


def test_the_client_imports_nothing_of_the_service() -> None:
    code = (
        "import sys, search.client; "
        "sys.exit(bool({'torch', 'fastapi', 'numpy', 'sqlalchemy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


# -- the OpenAPI document --------------------------------------------------------------------------

DOCUMENT = Document(doc_id="d", text="t", title="T", metadata={"year": 1})
OPTIONS: calls.SearchOptions = {
    "k": 3,
    "mode": "dense",
    "filter": {"year": {"gte": 2020}},
    "depth": 9,
    "explain": True,
    "generation": "docs@1",
}
QUERY: calls.Query = {"query": "q", "k": 3, "mode": "lexical", "filter": None, "explain": True}

# Every call with everything that can be said in it, and what its answer is read as.
CALLS: list[tuple[calls.Call[Any], type]] = [
    (calls.search("q", OPTIONS), values.Answer),
    (calls.search_batch(["q", QUERY], "docs@1"), values.Answers),
    (calls.put([DOCUMENT], "s", True), values.Stored),
    (calls.put_one(DOCUMENT, "s", True), values.Stored),
    (calls.put_lines(b"{}", "s", True), values.StoredLines),
    (calls.get("d"), values.StoredDocument),
    (calls.delete(["d"], True), values.Deleted),
    (calls.delete_one("d", True), values.Deleted),
    (
        calls.feedback([Feedback(query_id="q", doc_id="d", kind="judgment", position=2, value=3)]),
        values.StoredFeedback,
    ),
    (calls.vote("q", "docs@1", "docs@2", "docs@1"), values.Vote),
    (calls.votes(), values.Votes),
    (calls.info(), values.Info),
    (calls.ready(), values.Ready),
    (calls.status(), values.Status),
    (calls.generations(), values.Generation),
    (calls.generation("docs@1"), values.Generation),
    (calls.models(), values.Model),
    (calls.model("support"), values.Model),
    (calls.builds(), values.Build),
    (calls.build(1), values.Build),
    (calls.start_build("support", True, "folder", "dev"), values.Build),
    (calls.change_build(1, "pause"), values.Build),
    (calls.change_build(1, "resume"), values.Build),
    (calls.change_build(1, "cancel"), values.Build),
    (calls.cut_over("docs@2", "because"), values.CutOver),
    (calls.rollback(), values.CutOver),
    (calls.events(3), values.Event),
]
NOT_COVERED = {
    ("GET", "/search"),  # a link; the client posts
    ("GET", "/healthz"),  # for probes
    ("GET", "/metrics"),  # for Prometheus
    ("POST", "/runs"),  # for the verbs evaluate, tune and verify
    ("POST", "/legs"),
    ("POST", "/verify"),
    ("GET", "/generations/{name}/points"),  # for the verb backup
}


@pytest.fixture(scope="module")
def document(running: RunningService) -> dict[str, Any]:
    return dict(create_app(running.service).openapi())


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return resolved(document, schema["items"]) if schema.get("type") == "array" else schema


@pytest.mark.parametrize(
    ("call", "kind"), CALLS, ids=[f"{call.method} {call.path}" for call, _ in CALLS]
)
def test_the_document_knows_what_is_sent_and_promises_what_is_read(
    document: dict[str, Any], call: calls.Call[Any], kind: type
) -> None:
    operation = document["paths"][call.path][call.method.lower()]
    parameters = {(one["in"], one["name"]) for one in operation.get("parameters", [])}

    assert {("path", name) for name in call.names} == {
        one for one in parameters if one[0] == "path"
    }
    assert {("query", name) for name in call.params} <= parameters
    if call.content is not None:
        (media_type,) = operation["requestBody"]["content"].items()
        assert media_type[0] == call.headers["content-type"]
        if call.lines is None:
            sent = json.loads(call.content)
            schema = {**media_type[1]["schema"], "components": document["components"]}
            jsonschema.validate(sent, schema)
    success = next(status for status in ("200", "202") if status in operation["responses"])
    content = operation["responses"][success]["content"]["application/json"]
    promised = resolved(document, content["schema"])
    required = set(promised["required"])
    for field in dataclasses.fields(kind):
        if field.metadata.get("whole"):
            continue
        assert field.name in promised["properties"], f"{kind.__name__}.{field.name}"
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            assert field.name in required, f"{kind.__name__}.{field.name} may be missing"


def test_every_endpoint_is_covered_or_left_out_on_purpose(document: dict[str, Any]) -> None:
    promised = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    covered = {(call.method, call.path) for call, _ in CALLS}

    assert covered | NOT_COVERED == promised
    assert not covered & NOT_COVERED


def test_every_call_is_made_by_both_clients() -> None:
    made = [
        name
        for name, one in vars(calls).items()
        if inspect.isfunction(one) and one.__module__ == calls.__name__ and name[0] != "_"
    ]
    for module in ("blocking", "asynchronous"):
        source = (ROOT / "search" / "client" / f"{module}.py").read_text()
        assert set(re.findall(r"calls\.([a-z_]+)\(", source)) == set(made)


def test_event_lines_tell_where_to_go_on() -> None:
    lines = EventLines(None)
    assert "last-event-id" not in lines.begin()["headers"]
