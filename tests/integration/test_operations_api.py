"""Operating an installation over HTTP: what there is, builds, the switch, events."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient

from reindexer.access import access_of
from reindexer.build_requests import pause_current
from reindexer.jobs import JobQueue
from reindexer.journal import BUILD_LEASE
from reindexer.service import PROBLEMS, ReindexerService
from reindexer.status import read_status
from search.app import create_app
from search.keys import ApiKeys
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory

WAIT_S = 60.0


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", kind="mean", seed=1)


@contextlib.contextmanager
def opened(folder: Path, tiny: Path) -> Iterator[ReindexerService]:
    """docs@1 is live, docs@2 is ready, the model tiny@1 waits to be built. No worker runs."""
    judged = folder / "judged"
    with WordDirectory(
        folder / "data", cut_over_timeout_s=5.0, evaluation_dir=str(judged)
    ) as directory:
        write_judgments(judged / "faq")
        directory.put_many(f"d{number}" for number in range(20))
        directory.go_live(directory.build("word@1"))
        directory.build("word@2")
        directory.registry.register(str(tiny), name="tiny")
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        assert service.manager.wait_until_open("docs@1", timeout_s=WAIT_S)
        service.manager.follow()
        yield service
        service.close()


def client_of(service: ReindexerService) -> TestClient:
    return TestClient(create_app(service, problems=PROBLEMS), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[ReindexerService]:
    """For tests that change nothing."""
    with opened(tmp_path_factory.mktemp("untouched"), tiny) as service:
        yield service


@pytest.fixture
def service(tmp_path: Path, tiny: Path) -> Iterator[ReindexerService]:
    with opened(tmp_path, tiny) as service:
        yield service


@pytest.fixture
def client(service: ReindexerService) -> TestClient:
    return client_of(service)


@pytest.fixture
def following(service: ReindexerService) -> Iterator[None]:
    """The threads that `serve` runs."""
    threads = [
        threading.Thread(target=work, daemon=True) for work in (service._follow, service._replay)
    ]
    for thread in threads:
        thread.start()
    yield
    service._stop.set()
    service._wake.set()
    for thread in threads:
        thread.join()


def write_judgments(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "all of d1"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")


def directory_of(service: ReindexerService) -> Any:
    return service._data


def started(client: TestClient, **body: Any) -> dict[str, Any]:
    answer = client.post("/builds", json={"model": "tiny", **body})
    assert answer.status_code == 202, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


# -- looking ---------------------------------------------------------------------------------------


def test_the_status_is_that_of_the_verb(untouched: ReindexerService) -> None:
    answer = client_of(untouched).get("/status")

    assert answer.status_code == 200
    assert answer.json()["live"]["generation"] == "docs@1"
    by_verb = json.loads(json.dumps(read_status(directory_of(untouched).settings)))
    assert answer.json().keys() == by_verb.keys()
    assert answer.json()["live"] == by_verb["live"]


def test_generations_and_models_are_listed_and_shown(untouched: ReindexerService) -> None:
    client = client_of(untouched)
    assert [item["state"] for item in client.get("/generations").json()] == ["live", "ready"]
    shown = client.get("/generations/docs@2").json()
    assert (shown["generation"], shown["recipe"]["model"]) == ("docs@2", "word@2")

    assert [item["model"] for item in client.get("/models").json()] == ["tiny@1"]
    assert client.get("/models/tiny").json()["model"] == "tiny@1"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/generations/docs@9", None, 404, "there are: docs@1, docs@2"),
        ("GET", "/models/none", None, 404, "none"),
        ("GET", "/builds/7", None, 404, "no build 7"),
        ("GET", "/builds/seven", None, 422, "build_id"),
        ("POST", "/builds/7/pause", None, 404, "no build 7"),
        ("POST", "/builds", {"model": "none@1"}, 404, "none@1"),
        ("POST", "/builds", {"model": "../../etc"}, 404, "etc"),
        ("POST", "/builds", {}, 422, "model"),
        ("POST", "/builds", {"model": "tiny", "evaluation": "../.."}, 422, "outside the folder"),
        ("POST", "/builds", {"model": "tiny", "evaluation": "/etc"}, 422, "outside the folder"),
        ("POST", "/builds", {"model": "tiny", "evaluation": "none"}, 422, "queries.jsonl"),
        ("POST", "/cutover", {"generation": "docs@9"}, 404, "no generation"),
        ("POST", "/cutover", {"generation": "docs@1"}, 409, "is live already"),
        ("POST", "/rollback", None, 409, "no standby generation"),
        ("GET", "/events?after=-1", None, 422, "after"),
    ],
)
def test_what_cannot_be_done_is_said(
    untouched: ReindexerService, method: str, path: str, body: Any, status: int, says: str
) -> None:
    answer = client_of(untouched).request(method, path, json=body)

    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


def test_a_key_may_look_or_operate_as_its_scopes_say(service: ReindexerService) -> None:
    directory = directory_of(service)
    keys = ApiKeys(directory.database)
    _, searching = keys.create("app", ["search"])
    _, operating = keys.create("ops", ["search", "operate"])
    service.access = access_of(
        directory.database, directory.settings, host="0.0.0.0", token=service.token, insecure=False
    )
    client = client_of(service)

    def status(method: str, path: str, key: str | None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        return client.request(method, path, headers=headers).status_code

    for path in ("/status", "/generations", "/models", "/builds"):
        assert (status("GET", path, None), status("GET", path, searching)) == (401, 200)
    for method, path, done in (
        ("GET", "/events", 200),
        ("POST", "/rollback", 409),
        ("POST", "/builds/1/pause", 404),
    ):
        assert status(method, path, None) == 401
        assert status(method, path, searching) == 403
        assert status(method, path, operating) == done


# -- builds ----------------------------------------------------------------------------------------


def test_a_build_is_asked_for_and_waits_for_a_worker(
    client: TestClient, service: ReindexerService
) -> None:
    build = started(client, cut_over=True, evaluation="faq")

    assert (build["generation"], build["model"], build["state"]) == ("docs@3", "tiny@1", "queued")
    assert client.get(f"/builds/{build['build_id']}").json() == build
    assert client.get("/builds").json()[0] == build
    job = JobQueue(directory_of(service).database).recent()[0]
    assert (job.kind, job.state, job.who) == ("upgrade", "queued", "local")
    assert job.arguments["eval"].endswith("judged/faq")


def test_the_same_build_is_not_asked_for_twice(
    client: TestClient, service: ReindexerService
) -> None:
    first, again = started(client), started(client)

    assert again["build_id"] == first["build_id"]
    assert len(JobQueue(directory_of(service).database).recent()) == 1


def test_a_build_that_waits_is_paused_resumed_and_given_up(
    client: TestClient, service: ReindexerService
) -> None:
    build_id = started(client, cut_over=True)["build_id"]
    queue = JobQueue(directory_of(service).database)

    paused = client.post(f"/builds/{build_id}/pause")
    assert (paused.status_code, paused.json()["state"]) == (202, "paused")
    assert queue.active() == [], "no worker begins it"

    assert client.post(f"/builds/{build_id}/resume").json()["state"] == "queued"
    assert [job.kind for job in queue.active()] == ["upgrade"], "as it was asked for"

    cancelled = client.post(f"/builds/{build_id}/cancel")
    assert cancelled.json()["state"] == "cancelled"
    assert client.get("/generations/docs@3").json()["state"] == "failed"
    again = client.post(f"/builds/{build_id}/resume")
    assert (again.status_code, "has ended" in again.json()["detail"]) == (409, True)


def test_a_build_that_runs_is_asked_to_stop(client: TestClient, service: ReindexerService) -> None:
    directory = directory_of(service)
    build_id = started(client)["build_id"]
    with directory.journal.lease(BUILD_LEASE):  # as the process that builds does
        directory.journal.start_run(directory.journal.build_of("docs@3"))

        assert client.post(f"/builds/{build_id}/pause").json()["wanted"] == "pause"
        assert client.post(f"/builds/{build_id}/cancel").json()["wanted"] == "cancel"

    assert directory.catalog.get("docs@3").state == "building", "the process itself does it"


# -- the switch ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("following")
def test_a_switch_answers_when_every_answer_is_from_the_new_one(client: TestClient) -> None:
    switched = client.post("/cutover", json={"generation": "docs@2"})
    assert switched.status_code == 200, switched.text
    assert (switched.json()["live_before"], switched.json()["live_after"]) == ("docs@1", "docs@2")
    assert switched.json()["late"] == []
    assert client.get("/search", params={"q": "all of d3"}).json()["generation"] == "docs@2"

    back = client.post("/rollback")
    assert back.json()["live_after"] == "docs@1"
    assert client.get("/search", params={"q": "all of d3"}).json()["generation"] == "docs@1"

    events = client.get("/events").json()
    done = [(event["kind"], event["generation"], event["who"]) for event in events[-2:]]
    assert done == [("cut_over", "docs@2", "local"), ("rollback", "docs@1", "local")]


def test_a_switch_that_another_process_is_at_is_refused(
    client: TestClient, service: ReindexerService
) -> None:
    with directory_of(service).journal.lease("cutover"):
        answer = client.post("/cutover", json={"generation": "docs@2"})

    assert (answer.status_code, "is held by" in answer.json()["detail"]) == (409, True)


# -- events ----------------------------------------------------------------------------------------


def test_events_are_a_list_for_who_does_not_ask_for_a_stream(untouched: ReindexerService) -> None:
    client = client_of(untouched)
    events = client.get("/events").json()
    ids = [event["id"] for event in events]

    assert ids == sorted(ids)
    assert [event["id"] for event in client.get("/events", params={"after": ids[1]}).json()] == (
        ids[2:]
    )


@pytest.fixture
def url(service: ReindexerService) -> Iterator[str]:
    """The service on a real socket."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(service, problems=PROBLEMS), log_level="warning", port=0)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [service._socket]}, daemon=True)
    thread.start()
    yield service.url
    service.drain.begin()
    server.should_exit = True
    thread.join(WAIT_S)
    assert not thread.is_alive()


def next_event(lines: Iterator[str]) -> dict[str, str]:
    event: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if not line and "data" in event:
            return event
        event[name] = value
    raise AssertionError("the stream ended")


def test_a_stream_goes_on_where_it_broke_and_ends_when_the_service_drains(
    service: ReindexerService, url: str
) -> None:
    catalog = directory_of(service).catalog
    accept = {"Accept": "text/event-stream"}
    before = catalog.events.last_id()
    with httpx.stream("GET", f"{url}/events", headers=accept, timeout=WAIT_S) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        next(lines)  # it has begun: what happens from now on is sent
        catalog.events.record("evaluation", "docs@1", {"ndcg@10": 0.7})
        first = next_event(lines)
    assert (first["event"], int(first["id"])) == ("evaluation", before + 1)
    assert json.loads(first["data"])["ndcg@10"] == 0.7

    catalog.events.record("evaluation", "docs@1", {"ndcg@10": 0.6})  # while nobody listens
    again = {**accept, "Last-Event-ID": first["id"]}
    with httpx.stream("GET", f"{url}/events", headers=again, timeout=WAIT_S) as stream:
        lines = stream.iter_lines()
        assert int(next_event(lines)["id"]) == before + 2
        service.drain.begin()
        assert list(lines) == []


def test_the_verb_pause_holds_back_a_build_that_waits(service: ReindexerService) -> None:
    build_id = started(client_of(service))["build_id"]
    data = directory_of(service)

    paused = pause_current(data, who="ann")

    assert (paused.build_id, paused.state, paused.reason) == (build_id, "paused", "paused by ann")
    assert JobQueue(data.database).active() == []
