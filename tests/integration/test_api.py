"""The HTTP API of a real service: limits, deadlines, errors, documents, visibility, the drain."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import pytest
from fastapi.testclient import TestClient

from reindexer.service import PROBLEMS, ReindexerService
from search.app import create_app
from search.dense import FloatMatrix
from search.document_lines import LINES
from search.query_batches import QueryBatches
from tests.running_service import RunningService
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder

WAIT_S = 30.0
N_DOCUMENTS = 20
MAX_CONCURRENT = 3
DEADLINE_S = 2.0
MAX_BODY_BYTES = 12_000_000
PROBLEM = "application/problem+json"
LOCAL = "http://127.0.0.1"


JSON = {"content-type": "application/json"}


class Held:
    """A query with the word `slowly` in it is encoded when the test says so."""

    def __init__(self) -> None:
        self.waiting = threading.Semaphore(0)
        self.may_go_on = threading.Event()


class HeldEncoder(WordEncoder):
    def __init__(self, seed: int, held: Held) -> None:
        super().__init__(seed)
        self._held = held

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        if any("slowly" in text for text in texts):
            self._held.waiting.release()
            assert self._held.may_go_on.wait(WAIT_S)
        return super().encode_queries(texts)


class HeldDirectory(WordDirectory):
    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self.held = Held()

    def load_encoder(self, model: str) -> Any:
        return HeldEncoder(int(model.partition("@")[2]), self.held)


class Running(RunningService):
    """Its queries can be held."""

    def __init__(self, directory: HeldDirectory) -> None:
        super().__init__(directory)
        self.directory = directory
        self.held = directory.held

    def __enter__(self) -> Self:
        super().__enter__()
        until(self._is_quick)
        return self

    def _is_quick(self) -> bool:
        """The encoder is known to be quick, so a query that is held holds no other one."""
        with self.service.manager.acquire() as searcher:
            searcher.encode(["all"])
            assert isinstance(searcher.encoder, QueryBatches)
            return searcher.encoder.is_quick

    def __exit__(self, *error: Any) -> None:
        self.held.may_go_on.set()
        super().__exit__(*error)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, timeout=WAIT_S, trust_env=False, verify=False, **options
        )

    @contextlib.contextmanager
    def slow_queries(self, n_queries: int) -> Iterator[list[Any]]:
        """So many queries are under way; their answers come when the block ends."""
        self.held.may_go_on.clear()
        with self.client() as client, ThreadPoolExecutor(n_queries) as threads:
            try:
                answers = [
                    threads.submit(client.post, "/search", json={"query": f"slowly {number}"})
                    for number in range(n_queries)
                ]
                for _ in answers:
                    assert self.held.waiting.acquire(timeout=WAIT_S)
                yield answers
            finally:
                self.held.may_go_on.set()


def new_directory(folder: Path, **settings: Any) -> HeldDirectory:
    directory = HeldDirectory(folder, run_worker=False, **settings)
    directory.put_many(f"d{number}" for number in range(N_DOCUMENTS))
    directory.go_live(directory.build("word@1"))
    return directory


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("api") / "data"
    with (
        new_directory(
            folder,
            max_concurrent=MAX_CONCURRENT,
            deadline_s=DEADLINE_S,
            max_body_bytes=MAX_BODY_BYTES,
            max_batch=LINES,
        ) as directory,
        Running(directory) as running,
    ):
        yield running


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with running.client() as client:
        yield client


def is_problem(answer: httpx.Response, status: int) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    told = answer.json()
    assert told["status"] == status
    assert told["title"]
    assert told["detail"]
    return True


# -- request ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/search?q=all", "/search", "/nowhere", "/healthz"])
def test_every_answer_has_a_request_id(client: httpx.Client, path: str) -> None:
    made = [client.get(path).headers["x-request-id"] for _ in range(2)]
    sent = client.get(path, headers={"X-Request-Id": "order-17:retry"})

    assert len(set(made)) == 2
    assert sent.headers.get_list("x-request-id") == ["order-17:retry"]


@pytest.mark.parametrize("forged", ["two words", "x" * 200, "é", ""])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(
    client: httpx.Client, forged: str
) -> None:
    headers = {"X-Request-Id": forged.encode()}

    assert len(client.get("/healthz", headers=headers).headers["x-request-id"]) == 16  # type: ignore[arg-type]


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (404, "GET", "/nowhere", {}),
        (405, "DELETE", "/search", {}),
        (400, "POST", "/search", {"content": "{", "headers": JSON}),
        (415, "POST", "/search", {"data": {"query": "all"}}),
        (415, "PUT", "/documents", {"content": "{}"}),
        (415, "POST", "/documents", {"data": {"doc_id": "x"}}),
        (400, "PUT", "/documents/x", {"content": "{", "headers": JSON}),
        (422, "POST", "/search", {"json": {"query": "all", "k": "ten"}}),
        (422, "POST", "/search", {"json": {"query": ["all"]}}),
        (422, "POST", "/search", {"json": {"query": "all", "colour": "red"}}),
        (422, "POST", "/search", {"json": {"query": "all", "filter": {"year": {"near": 3}}}}),
        (422, "POST", "/search", {"json": {"query": " "}}),
        (422, "POST", "/search", {"json": {"query": "x" * 10_001}}),
        (422, "GET", "/search?q=all&k=100000", {}),
        (422, "GET", "/search?q=all&wait=what&mode=sideways", {}),
        (404, "POST", "/search", {"json": {"query": "all", "generation": "docs@99"}}),
        (404, "GET", "/documents/nobody", {}),
        (422, "GET", "/documents/%FF", {}),
        (422, "PUT", "/documents/x", {"json": {"text": 3}}),
        (422, "PUT", "/documents/x", {"json": {"text": "t", "metadata": {"a": {"b": 1}}}}),
        (422, "PUT", "/documents", {"json": {"documents": []}}),
        (422, "POST", "/documents/delete", {"json": {"doc_ids": ["x"] * (LINES + 1)}}),
        (422, "POST", "/search/batch", {"json": {"queries": [{"query": "a"}, {"query": " "}]}}),
    ],
)
def test_whatever_is_wrong_with_a_request_is_a_problem_that_says_so(
    client: httpx.Client, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    assert is_problem(client.request(method, path, **options), status)


def test_the_allowed_methods_are_told(client: httpx.Client) -> None:
    assert client.delete("/search").headers["allow"] == "GET, POST"


def test_an_unforeseen_error_tells_its_request_id_and_nothing_else(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(running.service, "info", broken)
    with running.client() as client, caplog.at_level(logging.ERROR, "search.api_problem"):
        answer = client.get("/info", headers={"X-Request-Id": "find-me"})

    assert is_problem(answer, 500)
    assert "find-me" in answer.json()["detail"]
    assert "swordfish" not in answer.text
    assert "find-me" in caplog.text
    assert "swordfish" in caplog.text


# -- limits ----------------------------------------------------------------------------------------


def test_one_request_too_many_is_refused_at_once(running: Running) -> None:
    with running.client() as client, running.slow_queries(MAX_CONCURRENT) as answers:
        began = time.monotonic()
        refused = client.get("/search?q=all")

        assert is_problem(refused, 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert time.monotonic() - began < DEADLINE_S / 2
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert not any(answer.done() for answer in answers)
    assert [answer.result().status_code for answer in answers] == [200] * MAX_CONCURRENT


def test_after_the_deadline_nobody_waits_and_the_place_is_free(running: Running) -> None:
    with running.client() as client, running.slow_queries(MAX_CONCURRENT) as answers:
        assert all(is_problem(answer.result(WAIT_S), 504) for answer in answers)
        assert client.get("/search?q=all").status_code == 200  # though they are still held


def test_a_query_past_its_deadline_begins_nothing_more(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = running.service.corpus
    looked_up: list[Sequence[str]] = []
    get_many = corpus.get_many

    def watched(doc_ids: Sequence[str]) -> Any:
        looked_up.append(doc_ids)
        return get_many(doc_ids)

    monkeypatch.setattr(corpus, "get_many", watched)
    with running.slow_queries(1) as answers:
        assert is_problem(answers[0].result(WAIT_S), 504)
    with running.client() as client:  # a query more, so that the held one has gone on
        assert client.get("/search?q=slowly").status_code == 200

    assert len(looked_up) == 1


def test_a_body_of_10_mb_is_taken(client: httpx.Client) -> None:
    text = "words" + " " * 9_999_990

    put = client.put("/documents/large", json={"text": text})

    assert put.status_code == 200
    assert client.get("/documents/large").json()["text"] == text
    client.delete("/documents/large", params={"wait": "visible"})


@pytest.mark.parametrize("path", ["/search", "/documents", "/cutover"])
@pytest.mark.parametrize("says_how_long", [True, False])
def test_a_body_beyond_the_limit_is_refused_however_it_comes(
    client: httpx.Client, path: str, says_how_long: bool
) -> None:
    piece = b" " * 1_000_000
    n_sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal n_sent
        for _ in range(MAX_BODY_BYTES // len(piece) + 1):
            n_sent += 1
            yield piece

    length = {"content-length": str(MAX_BODY_BYTES + len(piece))} if says_how_long else {}
    method = "PUT" if path == "/documents" else "POST"
    answer = client.request(
        method, path, content=pieces(), headers={"content-type": "application/json", **length}
    )

    assert is_problem(answer, 413)


def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(running: Running) -> None:
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(
            b"PUT /documents HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1)
        )
        assert connection.recv(1_000).startswith(b"HTTP/1.1 413 ")


def test_a_caller_that_hangs_up_in_the_middle_of_a_question_is_no_failure_of_the_service(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> float:
        labels = {"method": "POST", "route": "/search", "status": "400"}
        registry = running.service.telemetry.registry
        return registry.get_sample_value("reindexer_http_requests_total", labels) or 0.0

    before = refused()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as connection:
        connection.sendall(
            b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b'Content-Length: 100\r\n\r\n{"que'
        )
    deadline = time.monotonic() + WAIT_S
    while refused() == before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert refused() == before + 1
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_settings_may_allow_less(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = running.service.limits
    less = dataclasses.replace(limits, max_query_chars=5, max_k=3, max_batch=1)
    monkeypatch.setattr(running.service, "limits", less)
    client = TestClient(create_app(running.service, problems=PROBLEMS), base_url=LOCAL)

    assert client.get("/search?q=words&k=3").status_code == 200
    assert is_problem(client.get("/search?q=longer"), 422)
    assert is_problem(client.get("/search?q=words&k=4"), 422)
    assert is_problem(client.post("/search/batch", json={"queries": [{"query": "a"}] * 2}), 422)


# -- search ----------------------------------------------------------------------------------------


def test_both_ways_of_asking_give_the_same_answer(client: httpx.Client) -> None:
    posted = client.post("/search", json={"query": "all of d3", "k": 2, "explain": True}).json()
    got = client.get("/search", params={"q": "all of d3", "k": 2, "explain": True}).json()

    assert posted["hits"] == got["hits"]
    assert posted["hits"][0]["doc_id"] == "d3"
    assert posted["generation"] == "docs@1"
    assert posted["query_id"] != got["query_id"]


def test_a_batch_is_answered_in_order_from_one_generation(client: httpx.Client) -> None:
    queries = [
        {"query": f"all of d{number}", "k": 1, "mode": mode}
        for number, mode in enumerate(["hybrid", "lexical", "dense"])
    ]

    told = client.post("/search/batch", json={"queries": queries}).json()

    assert [answer["hits"][0]["doc_id"] for answer in told["answers"]] == ["d0", "d1", "d2"]
    assert {answer["generation"] for answer in told["answers"]} == {told["generation"]}
    assert len({answer["query_id"] for answer in told["answers"]}) == 3


def test_a_batch_answers_what_its_queries_do_alone(client: httpx.Client) -> None:
    queries = [{"query": f"of d{number}", "k": 3} for number in range(40)]

    batch = client.post("/search/batch", json={"queries": queries}).json()["answers"]
    alone = [client.post("/search", json=query).json() for query in queries]

    for one, other in zip(batch, alone, strict=True):
        assert [hit["doc_id"] for hit in one["hits"]] == [hit["doc_id"] for hit in other["hits"]]


# -- documents -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "doc_id", ["a/b/c", "/rooted", "100%", "50%25", "größe 日本", "a?b#c&d=e", "x" * 512, "d+d d"]
)
def test_any_doc_id_can_be_in_a_path(client: httpx.Client, doc_id: str) -> None:
    path = f"/documents/{quote(doc_id, safe='')}"

    put = client.put(path, json={"text": "some text", "title": "T", "metadata": {"year": 2026}})
    got = client.get(path)
    deleted = client.delete(path)

    assert put.json()["added"] == 1
    assert got.json() == {
        "doc_id": doc_id,
        "text": "some text",
        "title": "T",
        "metadata": {"year": 2026},
        "source": "default",
        "seq": put.json()["seq"],
    }
    assert deleted.json() == {"deleted": 1, "seq": put.json()["seq"] + 1}
    assert is_problem(client.get(path), 404)


def test_documents_of_another_source_refuse_all_of_them(client: httpx.Client) -> None:
    client.put("/documents/theirs", json={"text": "t", "source": "theirs"})
    both = [{"doc_id": doc_id, "text": "new"} for doc_id in ("mine", "theirs")]

    refused = client.put("/documents", json={"documents": both})

    assert is_problem(refused, 409)
    assert client.get("/documents/mine").status_code == 404


def test_what_was_waited_for_is_found(client: httpx.Client) -> None:
    for number in range(3):
        word = f"zebra{number}"
        put = client.put(f"/documents/{word}", params={"wait": "visible"}, json={"text": word})

        assert put.status_code == 200
        assert put.json()["visible"] is True
        for mode in ("lexical", "dense"):
            hits = client.get("/search", params={"q": word, "mode": mode}).json()["hits"]
            assert hits[0]["doc_id"] == word

    gone = client.post(
        "/documents/delete", params={"wait": "visible"}, json={"doc_ids": ["zebra0", "nobody"]}
    )
    assert gone.json()["deleted"] == 1
    assert gone.json()["visible"] is True
    found = client.get("/search", params={"q": "zebra0"}).json()["hits"]
    assert "zebra0" not in [hit["doc_id"] for hit in found]


def test_what_does_not_become_visible_in_time_is_stored_all_the_same(tmp_path: Path) -> None:
    with new_directory(tmp_path / "data", deadline_s=0.4) as directory:
        service = ReindexerService(directory, host="127.0.0.1", port=0)  # nothing replays
        assert service.manager.wait_until_open("docs@1", WAIT_S)
        service.manager.follow()
        client = TestClient(create_app(service), base_url=LOCAL)

        put = client.put("/documents/x", params={"wait": "visible"}, json={"text": "t"})

        assert put.status_code == 202
        assert put.json()["visible"] is False
        assert client.get("/documents/x").status_code == 200
        service.close()


def test_waiting_takes_nobodys_place(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = threading.Semaphore(0)
    may_go_on = threading.Event()

    def wait(_seq: int, _timeout_s: float) -> bool:
        waiting.release()
        return may_go_on.wait(WAIT_S)

    monkeypatch.setattr(running.service, "wait_until_visible", wait)
    with running.client() as client, ThreadPoolExecutor(MAX_CONCURRENT) as threads:
        put = [
            threads.submit(client.put, f"/documents/w{n}?wait=visible", json={"text": "t"})
            for n in range(MAX_CONCURRENT)
        ]
        for _ in put:
            assert waiting.acquire(timeout=WAIT_S)
        try:
            assert client.get("/search?q=all").status_code == 200
        finally:
            may_go_on.set()


# -- streams of lines ------------------------------------------------------------------------------

NDJSON = {"content-type": "application/x-ndjson"}


def line(doc_id: str) -> bytes:
    return json.dumps({"doc_id": doc_id, "text": f"line of {doc_id}"}).encode() + b"\n"


def test_a_stream_is_stored_and_its_bad_lines_are_told(client: httpx.Client) -> None:
    good = [line(f"s{number}") for number in range(2 * LINES)]
    lines = [
        *good[:3],
        b"not json\n",
        b"\n",
        b'{"doc_id": "s", "text": "t", "colour": "red"}\n',
        *good[3:],
        b"[1]\n",
        b'{"doc_id": "", "text": "t"}',  # and no newline
    ]

    told = client.post("/documents", content=iter(lines), headers=NDJSON).json()

    assert (told["added"], told["changed"], told["unchanged"]) == (2 * LINES, 0, 0)
    assert told["lines"] == 2 * LINES + 4
    assert [item["line"] for item in told["rejected"]] == [4, 6, 2 * LINES + 4, 2 * LINES + 5]
    assert told["n_rejected"] == 4
    assert all(item["reason"] for item in told["rejected"])
    assert told["seq"] == client.get("/info").json()["head_seq"]


def test_a_stream_may_be_longer_than_a_body_and_a_line_may_not(client: httpx.Client) -> None:
    def lines() -> Iterator[bytes]:
        yield b'{"doc_id": "long", "text": "' + b"x" * MAX_BODY_BYTES + b'"}\n'
        yield line("after")

    told = client.post("/documents", content=lines(), headers=NDJSON, timeout=WAIT_S).json()

    assert told["added"] == 1
    assert [item["line"] for item in told["rejected"]] == [1]


def test_a_broken_stream_leaves_whole_lots_of_lines(running: Running, client: httpx.Client) -> None:
    corpus = running.service.corpus
    before = corpus.count()
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /documents HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n\r\n"
        )
        connection.sendall(b"".join(line(f"b{number}") for number in range(LINES + LINES // 2)))
        until(lambda: corpus.count() > before)

    assert client.get("/healthz").status_code == 200
    assert corpus.count() == before + LINES


# -- what else may be down -------------------------------------------------------------------------


def test_a_locked_database_is_told_within_the_deadline(
    running: Running, client: httpx.Client
) -> None:
    locked = sqlite3.connect(running.directory.path / "reindexer.db", isolation_level=None)
    with contextlib.closing(locked):
        locked.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        refused = client.put("/documents/x", json={"text": "t"})

        assert is_problem(refused, 504)
        assert time.monotonic() - began < 2 * DEADLINE_S
        assert client.get("/search?q=all").status_code == 200
        locked.execute("ROLLBACK")


def test_a_store_that_is_down_is_told(tmp_path: Path) -> None:
    with new_directory(tmp_path / "data") as directory:
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        assert service.manager.wait_until_open("docs@1", WAIT_S)
        service.manager.follow()
        client = TestClient(create_app(service, problems=PROBLEMS), base_url=LOCAL)
        assert client.get("/readyz").json() == {"status": "ready", "generation": "docs@1"}
        current = service.manager.current
        assert current is not None
        current.collection.close()

        hybrid = client.get("/search?q=all").json()

        assert hybrid["degraded"] == ["dense"]
        assert hybrid["hits"]
        assert is_problem(client.get("/search?q=all&mode=dense"), 503)
        assert is_problem(client.get("/readyz"), 503)
        service.close()


def test_an_empty_service_says_what_to_do(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data", run_worker=False) as directory:
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        client = TestClient(create_app(service, problems=PROBLEMS), base_url=LOCAL)

        refused = client.get("/search?q=all")

        assert is_problem(refused, 503)
        assert "reindexer ingest" in refused.json()["detail"]
        assert is_problem(client.get("/readyz"), 503)
        assert client.get("/healthz").json() == {"status": "alive"}
        assert client.get("/info").json()["generation"] is None
        put = client.put("/documents/x", params={"wait": "visible"}, json={"text": "t"})
        assert put.status_code == 202  # nothing is live that could show it
        service.close()


# -- pages of other origins ------------------------------------------------------------------------


def test_no_page_of_another_origin_may_read_unless_it_is_named(running: Running) -> None:
    origin = "https://a.example"
    closed = create_app(running.service, problems=PROBLEMS)
    opened = create_app(running.service, problems=PROBLEMS, cors_origins=[origin])

    def allowed(app: Any, path: str) -> str | None:
        answer = TestClient(app, base_url=LOCAL).get(path, headers={"Origin": origin})
        return answer.headers.get("access-control-allow-origin")

    assert allowed(closed, "/search?q=all") is None
    assert allowed(opened, "/search?q=all") == origin
    assert allowed(opened, "/nowhere") == origin  # or the page could not read what went wrong


# -- the drain -------------------------------------------------------------------------------------


def test_a_service_that_stops_ends_what_is_under_way_and_takes_nothing_new(tmp_path: Path) -> None:
    with (
        new_directory(tmp_path / "data", drain_notice_s=0.4) as directory,
        Running(directory) as running,
        running.client() as client,
        running.client(headers={"Accept": "text/event-stream"}) as listener,
        ThreadPoolExecutor(1) as threads,
    ):
        events = threads.submit(listener.get, "/events")
        with running.slow_queries(1) as answers:
            running.service.stop()

            assert is_problem(client.get("/readyz"), 503)  # while it still answers
            late = client.get("/search?q=all")
            assert late.status_code == 200, late.text
            assert events.result(WAIT_S).status_code == 200  # the stream has come to an end
            until(lambda: is_refused(running.url))
            assert not answers[0].done()
        assert answers[0].result(WAIT_S).status_code == 200


def test_a_drain_has_an_end(tmp_path: Path) -> None:
    with (
        new_directory(tmp_path / "data", serve_drain_s=1.0) as directory,
        Running(directory) as running,
        running.slow_queries(1) as answers,
    ):
        began = time.monotonic()
        running.service.stop()
        assert is_problem(answers[0].result(WAIT_S), 503)

        assert 0.5 < time.monotonic() - began < 5.0


def is_refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", trust_env=False, timeout=1.0)
    except httpx.TransportError:
        return True
    return False


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)
