"""What the user reads when a Qdrant server refuses, stalls or is not there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from search import qdrant_calls
from search.dense import CollectionSpec, Point
from search.dense_qdrant import QdrantStore
from search.errors import CollectionDamaged, CollectionMissing, StoreError, StoreUnavailable
from search.qdrant_calls import QdrantCalls

pytestmark = [
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]

KEY = "a-secret-key"
SPEC = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=4)

Answer = tuple[int, object]


class Server(ThreadingHTTPServer):
    """Answers every request with the next of its answers, the last one again and again."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.requests: list[str] = []
        self.pause_s = 0.0
        self.gone = threading.Event()

    @property
    def url(self) -> str:
        return f"http://user:password@127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def answer(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.gone.wait(self.server.pause_s)
        many = len(self.server.answers) > 1
        status, body = self.server.answers.pop(0) if many else self.server.answers[0]
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.send_header("retry-after", "1")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer

    def log_message(self, *_: object) -> None:
        pass


VERSION: Answer = (200, {"title": "qdrant", "version": "1.16.0"})
NO_COLLECTIONS: Answer = (200, {"result": {"collections": []}, "status": "ok", "time": 0.0})


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_calls, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*answers: Answer) -> Server:
        server = Server(*answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.gone.set()
        server.shutdown()
        server.server_close()


def store_at(url: str, **options: Any) -> QdrantStore:
    return QdrantStore(url=url, api_key=KEY, grpc="off", **options)


def test_nothing_listening_is_unavailable_and_names_the_place_without_secrets() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = store_at(f"http://user:password@127.0.0.1:{port}")
    with pytest.raises(
        StoreUnavailable, match=rf"127\.0\.0\.1:{port}: no answer .*check that"
    ) as e:
        store.names()
    assert "password" not in str(e.value)
    assert KEY not in str(e.value)


def test_nothing_listening_on_grpc_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    client = QdrantClient(
        host="127.0.0.1",
        grpc_port=port,
        prefer_grpc=True,
        check_compatibility=False,
        timeout=5,
    )
    with pytest.raises(StoreUnavailable, match="gRPC UNAVAILABLE"):
        QdrantStore(client=client).names()
    client.close()


@pytest.mark.parametrize(
    ("port", "grpc", "spoken"),
    [
        (":6333", "auto", "gRPC"),
        ("", "auto", "gRPC"),
        (":443", "auto", "ConnectError"),  # 6334 may be another server, or nothing
        (":443", "on", "gRPC"),
        (":6333", "off", "ConnectError"),
    ],
)
def test_grpc_is_spoken_beside_the_usual_port_or_when_told_to(
    port: str, grpc: Any, spoken: str
) -> None:
    """Nothing listens at this address of the loopback, so the error tells what was tried."""
    store = QdrantStore(url=f"http://127.9.9.9{port}", grpc=grpc, timeout_s=5)
    with pytest.raises(StoreUnavailable, match=rf"no answer \({spoken}"):
        store.names()
    store.close()


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_is_named_and_not_tried_again(
    serve: Callable[..., Server], status: int
) -> None:
    server = serve((status, {"status": {"error": f"Invalid API key {KEY}"}}))
    with pytest.raises(StoreError, match=r"wrong API key.*store\.api_key") as e:
        store_at(server.url).names()
    assert not isinstance(e.value, StoreUnavailable)
    assert KEY not in str(e.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_an_overloaded_server_is_asked_again_a_few_times(
    serve: Callable[..., Server], status: int
) -> None:
    server = serve((status, {"status": {"error": "busy"}}))
    with pytest.raises(StoreUnavailable, match=r"get_collections at http://127.*busy|429|50"):
        store_at(server.url).names()
    assert len(server.requests) == qdrant_calls.ATTEMPTS


def test_one_hiccup_is_not_noticed(serve: Callable[..., Server]) -> None:
    server = serve((503, {}), (429, {}), NO_COLLECTIONS)
    assert store_at(server.url).names() == []


def test_a_server_that_does_not_answer_in_time_is_unavailable(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant_calls, "ATTEMPTS", 1)
    server = serve(NO_COLLECTIONS)
    server.pause_s = 30.0
    with pytest.raises(StoreUnavailable, match=r"Timeout|timed out"):
        store_at(server.url, timeout_s=1).names()


def test_what_the_server_finds_wrong_is_passed_on_once(serve: Callable[..., Server]) -> None:
    server = serve((400, {"status": {"error": f"Wrong input: vector too long {KEY}"}}))
    with pytest.raises(StoreError, match=r"refused.*Wrong input: vector too long") as e:
        store_at(server.url).names()
    assert KEY not in str(e.value)
    assert len(server.requests) == 1


def test_a_server_too_old_for_conditional_upserts_is_refused(
    serve: Callable[..., Server],
) -> None:
    server = serve((200, {"title": "qdrant", "version": "1.15.4"}))
    with pytest.raises(StoreError, match=r"version 1\.15\.4; 1\.16 or newer"):
        store_at(server.url).create("docs-1", SPEC)
    with pytest.raises(StoreError, match=r"version 1\.15\.4"):
        store_at(server.url).open("docs-1", "aaaa")


def test_a_creation_whose_answer_got_lost_is_not_an_error(serve: Callable[..., Server]) -> None:
    taken: Answer = (409, {"status": {"error": "Collection `docs-1` already exists!"}})
    server = serve(VERSION, NO_COLLECTIONS, (503, {}), taken, NO_COLLECTIONS)
    with pytest.raises(CollectionMissing):  # it went on to open what it had created
        store_at(server.url).create("docs-1", SPEC)
    server = serve(VERSION, NO_COLLECTIONS, taken)
    with pytest.raises(StoreError, match="already exists"):
        store_at(server.url).create("docs-1", SPEC)


class RpcFailure(grpc.RpcError, grpc.Call):  # type: ignore[misc]
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "said the server"

    initial_metadata = trailing_metadata = is_active = time_remaining = cancel = add_callback = (
        lambda *_: None
    )


class Failing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def count(self, **_: object) -> None:
        raise self.error


EXPECTED: dict[grpc.StatusCode, type[StoreError]] = {
    grpc.StatusCode.UNAVAILABLE: StoreUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: StoreUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: StoreUnavailable,
    grpc.StatusCode.ABORTED: StoreUnavailable,
    grpc.StatusCode.CANCELLED: StoreUnavailable,
    grpc.StatusCode.INTERNAL: StoreUnavailable,
    grpc.StatusCode.NOT_FOUND: CollectionMissing,
}


def failure_of(error: Exception) -> StoreError:
    calls = QdrantCalls(Failing(error), "http://qdrant:6333", KEY)  # type: ignore[arg-type]
    with pytest.raises(StoreError) as caught:
        calls.run("count", collection_name="docs-1")
    assert "'docs-1' at http://qdrant:6333" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code != grpc.StatusCode.OK])
def test_every_grpc_code_is_mapped(code: grpc.StatusCode) -> None:
    assert type(failure_of(RpcFailure(code))) is EXPECTED.get(code, StoreError)


def _subclasses(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(deeper for direct in kind.__subclasses__() for deeper in _subclasses(direct))]


@pytest.mark.parametrize("kind", _subclasses(httpx.HTTPError), ids=lambda kind: kind.__name__)
def test_every_httpx_error_is_mapped(kind: type[Exception]) -> None:
    error = (
        kind("failed", request=httpx.Request("GET", "http://x"), response=httpx.Response(500))
        if kind is httpx.HTTPStatusError
        else kind("failed")
    )
    assert type(failure_of(error)) is StoreUnavailable
    assert type(failure_of(ResponseHandlingException(error))) is StoreUnavailable


def test_every_other_error_of_the_client_is_mapped() -> None:
    refused = UnexpectedResponse(404, "Not Found", b"", httpx.Headers())
    assert type(failure_of(refused)) is CollectionMissing
    assert type(failure_of(ResourceExhaustedResponse("slow down", 1))) is StoreUnavailable
    assert type(failure_of(ResponseHandlingException(ValueError("bad body")))) is StoreError
    assert type(failure_of(AssertionError("Search returned None"))) is StoreError


# -- collections that are not as they should be ----------------------------------------------------


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    in_memory = QdrantClient(":memory:")
    yield in_memory
    in_memory.close()


def test_a_collection_made_by_something_else_is_not_opened(client: QdrantClient) -> None:
    client.create_collection(
        "docs-1", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE)
    )
    store = QdrantStore(client=client)
    for attempt in (
        lambda: store.open("docs-1", "aaaa"),
        lambda: store.create("docs-1", SPEC),
    ):
        with pytest.raises(CollectionDamaged, match=r"reindexer did not make it.*store\.prefix"):
            attempt()


@pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning")
def test_a_point_written_by_something_else_is_reported(client: QdrantClient) -> None:
    collection = QdrantStore(client=client).create("docs-1", SPEC)
    client.upsert("docs-1", [models.PointStruct(id=1, vector=[1.0, 0, 0, 0], payload={"a": 1})])
    with pytest.raises(CollectionDamaged, match="which reindexer did not write"):
        collection.search(np.ones(4, dtype=np.float32), 1)
    with pytest.raises(CollectionDamaged):
        list(collection.scan_points())


def test_prefixes_keep_installations_apart(client: QdrantClient) -> None:
    ours = QdrantStore(client=client, prefix="ours-")
    theirs = QdrantStore(client=client, prefix="theirs-")
    for store in (ours, theirs):
        store.create("docs-1", SPEC).upsert(
            [_a_point(doc_id=store._prefix)], np.ones((1, 4), dtype=np.float32)
        )
        store.set_alias("docs-1")
    assert ours.names() == theirs.names() == ["docs-1"]
    assert ours.open("docs-1", "aaaa").stored(["ours-"])[0]
    assert sorted(item.alias_name for item in client.get_aliases().aliases) == [
        "ours-docs-live",
        "theirs-docs-live",
    ]


def test_an_alias_of_somebody_else_guards_a_collection_too(client: QdrantClient) -> None:
    store = QdrantStore(client=client)
    store.create("docs-1", SPEC)
    create = models.CreateAlias(collection_name="docs-1", alias_name="dashboard")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    with pytest.raises(StoreError, match="alias 'dashboard' points at"):
        store.drop("docs-1")
    assert store.names() == ["docs-1"]


def _a_point(doc_id: str) -> Point:
    return Point(
        doc_id=doc_id,
        number=0,
        count=1,
        seq=1,
        content_hash="c",
        text_hash="t",
        start=0,
        end=1,
        metadata={},
    )


class Slow:
    """The in-memory client, with the status and the optimizer settings of a busy server."""

    def __init__(self, client: QdrantClient, *statuses: str) -> None:
        self.client = client
        self.statuses = list(statuses)
        self.thresholds: list[int | None] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def create_collection(self, **arguments: Any) -> bool:
        self.thresholds.append(arguments["optimizers_config"].indexing_threshold)
        return self.client.create_collection(**arguments)

    def update_collection(self, **arguments: Any) -> bool:
        self.thresholds.append(arguments["optimizers_config"].indexing_threshold)
        return self.client.update_collection(**arguments)

    def get_collection(self, collection_name: str) -> models.CollectionInfo:
        info = self.client.get_collection(collection_name)
        info.config.optimizer_config.indexing_threshold = self.thresholds[-1]
        if self.statuses:
            info.status = models.CollectionStatus(
                self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            )
        return info


def test_finish_waits_until_the_optimizers_are_idle(client: QdrantClient) -> None:
    server = Slow(client)
    collection = QdrantStore(client=server, ready_poll_s=0.001).create("docs-1", SPEC)  # type: ignore[arg-type]
    assert server.thresholds == [0]
    server.statuses = [
        "green",
        "yellow",
        "yellow",
        "grey",
        "yellow",
        "green",
        "green",
        "green",
        "red",
    ]
    collection.finish()
    assert server.statuses == ["red"]
    assert server.thresholds == [0, 10_000, 10_000]  # once more to wake a grey optimizer


def test_finish_says_what_it_waited_for(client: QdrantClient) -> None:
    server = Slow(client, "green")
    store = QdrantStore(client=server, ready_poll_s=0.001, ready_stall_s=0.02)  # type: ignore[arg-type]
    collection = store.create("docs-1", SPEC)
    server.statuses = ["yellow"]
    with pytest.raises(StoreUnavailable, match="HNSW index of collection 'docs-1': status yellow"):
        collection.finish()
    server.statuses = ["red"]
    with pytest.raises(StoreError, match="cannot optimize collection 'docs-1'"):
        collection.finish()


def test_opening_ends_a_bulk_load_that_a_crash_left(client: QdrantClient) -> None:
    server = Slow(client)
    store = QdrantStore(client=server)  # type: ignore[arg-type]
    store.create("docs-1", SPEC)
    assert server.thresholds == [0]
    store.open("docs-1", "aaaa")
    assert server.thresholds == [0, 10_000]
    store.open("docs-1", "aaaa")
    assert server.thresholds == [0, 10_000]
