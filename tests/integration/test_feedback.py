"""From a query over HTTP to a training pair: the query log, clicks, votes, and their way out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient

from reindexer.cli import cli
from reindexer.feedback import SECRET_FILE, feedback_of, forget_old_feedback
from reindexer.service import ReindexerService
from reindexer.settings import Settings
from search.app import create_app
from search.tables import feedback, query_log, votes
from tests.word_directory import WordDirectory

N_DOCUMENTS = 12
WAIT_S = 60.0

Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """docs@1 is live, docs@2 is ready."""
    with WordDirectory(tmp_path_factory.mktemp("feedback") / "data") as directory:
        for n in range(N_DOCUMENTS):
            directory.put(f"d{n}", f"all about cheese and rare{n}")
        directory.go_live(directory.build("word@1"))
        directory.build("word@2")
        yield directory


@pytest.fixture(scope="module")
def service(directory: WordDirectory) -> Iterator[ReindexerService]:
    service = ReindexerService(directory, host="127.0.0.1", port=0)
    assert service.manager.wait_until_open("docs@1", timeout_s=WAIT_S)
    service.manager.follow()
    yield service
    service.close()


@pytest.fixture
def serve(
    directory: WordDirectory, service: ReindexerService, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serve]:
    """A client of the service with these settings, over an empty log."""
    with directory.database.write() as connection:
        for table in (query_log, feedback, votes):
            connection.execute(table.delete())

    def start(**settings: Any) -> TestClient:
        chosen = Settings(data_dir=directory.path, **{"feedback_enabled": True, **settings})
        monkeypatch.setattr(service, "feedback", feedback_of(directory.database, chosen))
        return TestClient(create_app(service), base_url="http://127.0.0.1")

    yield start
    service.feedback.close()


@pytest.fixture
def run(directory: WordDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A verb with --json, and its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str, code: int = 0) -> Any:
        words = ["--data-dir", str(directory.path), *args, "--json"]
        result = CliRunner().invoke(cli, words)
        assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
        return json.loads(result.stdout) if code == 0 else result.stderr

    return run


def ask(client: TestClient, query: str, k: int = 4) -> tuple[str, list[str]]:
    """The query's id and what it showed."""
    answer = client.post("/search", json={"query": query, "k": k}).json()
    return answer["query_id"], [hit["doc_id"] for hit in answer["hits"]]


def problem(answer: Any) -> tuple[int, str]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    return answer.status_code, answer.json()["detail"]


# -- the round trip -------------------------------------------------------------------------------


def test_clicks_come_back_as_training_pairs(
    serve: Serve, service: ReindexerService, run: Any, tmp_path: Path
) -> None:
    client = serve()
    for _ in range(2):
        query_id, shown = ask(client, "cheese")
        sent = {"query_id": query_id, "doc_id": shown[1], "kind": "click", "position": 2}
        assert client.post("/feedback", json=sent).json() == {"stored": 1, "not_sampled": 0}
    ask(client, "rare3")  # nobody clicked
    service.feedback.flush()

    exported = run("feedback", "export", "-o", "clicks.jsonl")
    from_file = run("pairs", "build", "clicks.jsonl", "-o", "one.jsonl")
    from_log = run("pairs", "build", "--clicks", "-o", "other.jsonl")

    assert (exported["queries"], exported["events"], exported["clicks"]) == (3, 12, 2)
    (pair,) = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    number = shown[1].removeprefix("d")
    passed_over = shown[0].removeprefix("d")
    assert pair["anchor"] == "cheese"
    assert pair["positive"] == f"all about cheese and rare{number}"
    assert pair["negatives"] == [f"all about cheese and rare{passed_over}"]
    assert from_file["clicks"]["pages"] == 3
    assert from_file["pairs_sha256"] == from_log["pairs_sha256"]


def test_every_query_of_a_batch_and_of_a_link_is_logged(
    serve: Serve, service: ReindexerService, run: Any
) -> None:
    client = serve()
    batch = client.post("/search/batch", json={"queries": [{"query": "a"}, {"query": "cheese"}]})
    link = client.get("/search", params={"q": "cheese"}).json()
    ids = [answer["query_id"] for answer in batch.json()["answers"]] + [link["query_id"]]

    sent = [{"query_id": query_id, "doc_id": "d1"} for query_id in ids]
    assert client.post("/feedback", json=sent).json()["stored"] == 3

    service.feedback.flush()
    assert run("feedback", "summary")["generations"][0]["queries"] == 3
    assert run("feedback") == run("feedback", "summary")


# -- what is refused ------------------------------------------------------------------------------


def test_nothing_is_logged_until_somebody_turns_it_on(serve: Serve, run: Any) -> None:
    client = serve(feedback_enabled=False)
    query_id, _ = ask(client, "cheese")

    answer = client.post("/feedback", json={"query_id": query_id, "doc_id": "d1"})

    assert problem(answer)[0] == 409
    assert "feedback.enabled = true" in problem(answer)[1]
    assert run("feedback", "summary")["queries"] == 0


def test_feedback_on_a_query_that_was_left_out_is_taken_and_not_kept(serve: Serve) -> None:
    client = serve(feedback_sample=0.0)
    query_id, _ = ask(client, "cheese")

    answer = client.post("/feedback", json={"query_id": query_id, "doc_id": "d1"})

    assert answer.json() == {"stored": 0, "not_sampled": 1}


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"query_id": "never", "doc_id": "d1"}, 404, "no query never is in the query log"),
        ({"query_id": "{id}", "doc_id": "d1", "value": 2}, 422, "a click has the value 1"),
        ({"query_id": "{id}", "doc_id": "d\x00"}, 422, "NUL"),
        ({"query_id": "a b", "doc_id": "d1"}, 422, "query_id"),
        ({"query_id": "{id}", "doc_id": "d1", "kind": "guess"}, 422, "kind"),
        ({"query_id": "{id}", "doc_id": "d1", "position": 0}, 422, "position"),
        ({"query_id": "{id}"}, 422, "doc_id"),
        ([], 422, "at least 1"),
    ],
)
def test_feedback_that_makes_no_sense_says_why(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, sent: Any, status: int, says: str
) -> None:
    monkeypatch.setattr("search.feedback.WRITE_EVERY_S", 0.0)
    client = serve()
    query_id, _ = ask(client, "cheese")
    if sent and sent.get("query_id") == "{id}":
        sent = {**sent, "query_id": query_id}

    found = problem(client.post("/feedback", json=sent))

    assert found[0] == status
    assert says in found[1]


# -- votes ----------------------------------------------------------------------------------------


def test_votes_are_counted_whether_or_not_queries_are_logged(serve: Serve, run: Any) -> None:
    client = serve(feedback_enabled=False)
    vote = {"query": "cheese", "one": "docs@1", "other": "docs@2"}
    for better in ("docs@2", "docs@2", "docs@1", None):
        assert client.post("/votes", json={**vote, "better": better}).json() == {"stored": 1}

    counted = {"one": "docs@1", "other": "docs@2", "votes": 4, "one_better": 1, "other_better": 2,
               "neither": 1}  # fmt: skip
    assert client.get("/votes/summary").json() == [counted]
    assert run("feedback", "summary")["votes_by_pair"] == [counted]


def test_a_vote_on_what_is_not_there_is_refused(serve: Serve) -> None:
    client = serve()
    vote = {"query": "cheese", "one": "docs@1", "other": "docs@9", "better": None}

    assert problem(client.post("/votes", json=vote)) == (
        404,
        "there is no generation 'docs@9'; see `reindexer generations`",
    )
    assert problem(client.post("/votes", json={**vote, "other": "docs@1"}))[0] == 422


# -- what is kept, and for how long ---------------------------------------------------------------


def test_old_queries_are_forgotten_also_when_the_log_is_off(
    serve: Serve, directory: WordDirectory, service: ReindexerService, run: Any
) -> None:
    ask(serve(), "cheese")
    service.feedback.flush()
    settings = Settings(data_dir=directory.path)

    assert forget_old_feedback(directory.database, settings) == 0
    assert run("feedback", "summary")["queries"] == 1
    soon = Settings(data_dir=directory.path, feedback_retention_days=0.0)
    assert forget_old_feedback(directory.database, soon) == 1


def test_the_secret_of_the_hashes_is_the_installation_s_own(
    serve: Serve, directory: WordDirectory
) -> None:
    secret = directory.path / SECRET_FILE
    first = serve(feedback_query="hash")
    made = secret.read_bytes()
    ask(first, "my illness")
    serve(feedback_query="hash")

    assert secret.read_bytes() == made
    assert len(made) == 32
    assert secret.stat().st_mode & 0o077 == 0
    assert b"my illness" not in (directory.path / "reindexer.db-wal").read_bytes()


@pytest.mark.parametrize("since", ["30d", "12h", "2020-01-31"])
def test_an_export_may_begin_at_an_age_or_a_date(
    serve: Serve, service: ReindexerService, run: Any, since: str
) -> None:
    ask(serve(), "cheese")
    service.feedback.flush()

    assert run("feedback", "export", "-o", "c.jsonl", "--since", since)["queries"] == 1
    assert run("feedback", "export", "-o", "c.jsonl", "--since", "2999-01-01")["queries"] == 0
    assert "30d" in run("feedback", "export", "-o", "c.jsonl", "--since", "soon", code=2)
