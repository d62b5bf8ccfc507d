"""Synthesis against a real HTTP server that behaves as servers do: slow, full, broken, or picky."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.completion_server import KEY, Answer, CompletionServer, Reply, queries_of
from training import llm_calls
from training.errors import EndpointRefused, EndpointUnavailable, TrainingError
from training.judgments import JudgedDocument
from training.llm_calls import Endpoint
from training.synthesis import Synthesis, SynthesisTask, Usage, estimate, synthesise

Serve = Callable[..., CompletionServer]


def documents(n: int) -> tuple[JudgedDocument, ...]:
    return tuple(
        JudgedDocument(f"d{at}", "", f"number{at} tells about things{at} and more{at} of it")
        for at in range(n)
    )


def run(
    server: CompletionServer | str, folder: Path, n_documents: int = 6, **settings: Any
) -> Synthesis:
    task = SynthesisTask(documents=documents(n_documents))
    return synthesise(task, endpoint(server, **settings), folder / "answers.jsonl")


def endpoint(server: CompletionServer | str, **settings: Any) -> Endpoint:
    base_url = server if isinstance(server, str) else server.base_url
    return Endpoint(**{"base_url": base_url, "model": "m", "first_wait_s": 0.02, **settings})


def first(n: int, reply: Reply) -> Answer:
    """The first n requests get this reply, later ones an answer."""
    return lambda number, document: reply if number < n else Reply(answer=queries_of(document))


def test_every_document_gets_its_queries_in_the_order_of_the_documents(tmp_path: Path) -> None:
    with CompletionServer(key=KEY) as server:
        done = run(server, tmp_path, api_key=KEY, temperature=0.3, max_tokens=99)
    assert [pair.doc_id for pair in done.pairs] == [f"d{at}" for at in range(6) for _ in range(3)]
    assert done.pairs[0].anchor == "number0 tells about"
    assert done.pairs[0].positive == documents(1)[0].full_text
    assert len({pair.query_id for pair in done.pairs}) == len(done.pairs)
    assert (done.requests, done.failed, done.rejected) == (6, {}, {})
    assert done.usage == Usage(prompt_tokens=600, completion_tokens=120)
    sent = server.requests[0].value
    assert (sent["model"], sent["temperature"], sent["max_tokens"]) == ("m", 0.3, 99)
    assert "JSON list of 3 strings" in sent["messages"][0]["content"]


def test_a_wrong_key_costs_one_request_and_is_not_printed(tmp_path: Path) -> None:
    with (
        CompletionServer(key=KEY) as server,
        pytest.raises(EndpointRefused, match=r"HTTP 401.*--llm-api-key-env") as refused,
    ):
        run(server, tmp_path, n_documents=50, api_key="sk-wrong", concurrency=8)
    assert len(server.requests) == 1
    assert "sk-wrong" not in str(refused.value)
    assert "sk-wrong" not in repr(endpoint(server, api_key="sk-wrong"))


def test_a_key_that_is_withdrawn_on_the_way_stops_the_run_and_loses_nothing(
    tmp_path: Path,
) -> None:
    gone = Reply(status=403, body='{"error": {"message": "key revoked"}}')

    def answer(number: int, document: str) -> Reply:
        if number >= 10:
            return gone
        # One is still on its way when the next is refused.
        return Reply(answer=queries_of(document), delay_s=0.3 if number == 8 else 0.0)

    with CompletionServer(answer) as server:
        with pytest.raises(EndpointRefused, match="key revoked"):
            run(server, tmp_path, n_documents=50, concurrency=4)
        assert len(server.requests) <= 10 + 4
        server.answer = first(0, gone)
        server.requests.clear()
        done = run(server, tmp_path, n_documents=50)
    assert (done.answered_before, len(server.requests)) == (10, 40)


def test_nobody_waits_for_a_turn_after_a_refusal(tmp_path: Path) -> None:
    def answer(number: int, document: str) -> Reply:
        if number == 1:
            return Reply(status=429, body="{}", headers={"Retry-After": "100"})
        if number == 2:
            return Reply(status=403, body="{}", delay_s=0.5)
        return Reply(answer=queries_of(document))

    began = time.monotonic()
    with CompletionServer(answer) as server, pytest.raises(EndpointRefused, match="HTTP 403"):
        run(server, tmp_path, concurrency=2)
    assert time.monotonic() - began < 100
    assert len(server.requests) == 3


def test_an_unknown_model_or_path_stops_at_once(tmp_path: Path) -> None:
    with CompletionServer() as server:
        missing = Reply(status=404, body='{"error": {"message": "model m does not exist"}}')
        server.answer = first(99, missing)
        with pytest.raises(EndpointRefused, match=r"model m does not exist.*has a model 'm'"):
            run(server, tmp_path)
        with pytest.raises(EndpointRefused, match="often ends in /v1"):
            run(server.base_url.removesuffix("/v1"), tmp_path)
        assert len(server.requests) == 2


def test_an_account_without_credit_is_not_waited_for(tmp_path: Path) -> None:
    body = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    with (
        CompletionServer(first(99, Reply(status=429, body=body))) as server,
        pytest.raises(EndpointRefused, match="quota is used up"),
    ):
        run(server, tmp_path)
    assert len(server.requests) == 1


def test_too_many_requests_waits_as_long_as_the_server_asks(tmp_path: Path) -> None:
    full = Reply(status=429, body="{}", headers={"Retry-After": "1"})

    def answer(number: int, document: str) -> Reply:
        return full if number == 1 else Reply(answer=queries_of(document))

    with CompletionServer(answer) as server:
        done = run(server, tmp_path, n_documents=3, concurrency=1)
    assert (len(done.pairs), done.requests) == (9, 4)
    at = [request.at_s for request in server.requests]
    assert at[2] - at[1] >= 1.0
    assert server.documents[2] == server.documents[1]


def test_a_wait_given_as_a_date_is_understood_and_one_past_the_limit_ends_the_run(
    tmp_path: Path,
) -> None:
    later = formatdate(time.time() + 3_600, usegmt=True)
    full = Reply(status=429, body="{}", headers={"Retry-After": later})
    with (
        CompletionServer(
            lambda number, document: full if number >= 2 else first(0, full)(0, document)
        ) as server,
        pytest.raises(EndpointUnavailable, match=r"asks to wait 3,\d\d\d s.*same command again"),
    ):
        run(server, tmp_path, n_documents=9, concurrency=1)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "broken",
    [
        Reply(status=500, body='{"error": {"message": "oops"}}'),
        Reply(status=503, body="<html>busy</html>", content_type="text/html"),
        Reply(body='{"choices": [{"mess'),
        Reply(body="<html>a proxy</html>", content_type="text/html"),
        Reply(body='{"id": "x", "choices": []}'),
        Reply(answer='["late", "answer"]', delay_s=0.4),
    ],
    ids=["500", "503", "cut body", "html", "no choices", "time-out"],
)
def test_a_hiccup_is_repeated_and_leaves_no_gap(tmp_path: Path, broken: Reply) -> None:
    with CompletionServer(first(2, broken)) as server:
        done = run(server, tmp_path, timeout_s=0.2)
    assert len(done.pairs) == 18
    assert done.requests == len(server.requests) == 6 + 2


def test_waits_grow_from_try_to_try(tmp_path: Path) -> None:
    with CompletionServer(first(4, Reply(status=500, body="{}"))) as server:
        run(server, tmp_path, n_documents=1, first_wait_s=0.1)
    at = [request.at_s for request in server.requests]
    gaps = [later - earlier for earlier, later in pairwise(at)]
    for gap, longest_s in zip(gaps, (0.1, 0.2, 0.4, 0.8), strict=True):
        assert longest_s / 2 <= gap <= longest_s + 0.15


def test_nobody_at_the_address_says_so_after_three_tries(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EndpointUnavailable, match=r"no connection.*Check that the server runs"):
        run(address, tmp_path)


def test_a_server_that_goes_down_for_good_ends_the_run_and_keeps_the_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_calls, "TRIES", 2)

    def answer(number: int, document: str) -> Reply:
        down = Reply(status=500, body="{}")
        return Reply(answer=queries_of(document)) if number < 4 else down

    with CompletionServer(answer) as server:
        with pytest.raises(EndpointUnavailable, match=r"5 requests in a row.*same command again"):
            run(server, tmp_path, n_documents=40, concurrency=1)
        assert len(server.requests) == 4 + 5 * 2
        task = SynthesisTask(documents=documents(40))
        assert estimate(task, endpoint(server), tmp_path / "answers.jsonl").answered == 4


def test_a_document_the_server_cannot_take_is_reported_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    def answer(_number: int, document: str) -> Reply:
        if document.startswith("number0"):
            return Reply(status=400, body='{"error": {"message": "content filter"}}')
        return Reply(answer=queries_of(document))

    with CompletionServer(answer) as server:
        done = run(server, tmp_path)
    assert done.failed == {"d0": "content filter"}
    assert len(done.pairs) == 15


def test_a_setting_the_server_cannot_take_costs_three_requests(tmp_path: Path) -> None:
    picky = Reply(status=400, body='{"error": {"message": "temperature must be 1"}}')
    with (
        CompletionServer(first(99, picky)) as server,
        pytest.raises(EndpointRefused, match=r"temperature must be 1.*--llm-temperature"),
    ):
        run(server, tmp_path, temperature=9.0)
    assert len(server.requests) == 3


def test_a_model_with_another_name_for_the_longest_answer_is_asked_again(tmp_path: Path) -> None:
    told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    picky = Reply(status=400, body=json.dumps({"error": {"message": told}}))
    with CompletionServer(first(1, picky)) as server:
        done = run(server, tmp_path)
    assert (done.requests, len(done.pairs)) == (7, 18)
    assert "max_tokens" not in server.requests[-1].value
    assert server.requests[-1].value["max_completion_tokens"] == 1_024


def test_an_unreadable_answer_is_asked_for_once_more_and_then_reported(tmp_path: Path) -> None:
    def answer(_number: int, document: str) -> Reply:
        if document.startswith("number1"):
            return Reply(answer="I am sorry, I cannot do that.")
        return Reply(answer=queries_of(document))

    with CompletionServer(answer) as server:
        done = run(server, tmp_path, n_documents=3)
        assert done.failed == {
            "d1": "no queries in the answer, twice: 'I am sorry, I cannot do that.'"
        }
        assert done.requests == 4
        assert run(server, tmp_path, n_documents=3).requests == 2  # only what is missing


def test_no_queries_at_all_is_an_error(tmp_path: Path) -> None:
    cut = Reply(answer="", finish_reason="length")
    with (
        CompletionServer(first(99, cut)) as server,
        pytest.raises(TrainingError, match=r"no usable query for any of 2.*--llm-max-tokens"),
    ):
        run(server, tmp_path, n_documents=2)


def test_cut_empty_and_repeated_queries_are_left_out_and_counted(tmp_path: Path) -> None:
    long_text = "a document with a good many words in it, so that a query can be copied out of it"
    answers = {
        "number0": Reply(
            answer='["whole query", "", "Whole  Query", "cut off he', finish_reason="length"
        ),
        "number1": Reply(answer='["whole query", "own query", "two", "three", "four"]'),
        "number2": Reply(answer=json.dumps([long_text, "x" * 500, "?!..", "good one"])),
    }
    task = SynthesisTask(documents=(*documents(2), JudgedDocument("d2", "number2", long_text)))

    def answer(_number: int, document: str) -> Reply:
        return answers[document[:7]]

    with CompletionServer(answer) as server:
        done = synthesise(task, endpoint(server), tmp_path / "answers.jsonl")
    assert [pair.anchor for pair in done.pairs] == [
        "whole query", "own query", "two", "three", "good one",
    ]  # fmt: skip
    assert done.rejected == {
        "empty": 2, "duplicate": 2, "more than asked for": 1,
        "copied from the document": 1, "too long": 1,
    }  # fmt: skip


def test_documents_that_read_the_same_share_one_request(tmp_path: Path) -> None:
    twins = tuple(JudgedDocument(doc_id, "", "the same words here") for doc_id in ("a", "b"))
    with CompletionServer() as server:
        done = synthesise(SynthesisTask(documents=twins), endpoint(server), tmp_path / "answers")
    assert (done.requests, done.documents, done.failed) == (1, 2, {})
    assert {pair.doc_id for pair in done.pairs} == {"a"}  # a query has one document


def test_an_answer_is_asked_again_when_what_decides_it_has_changed(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with CompletionServer() as server:
        asked = endpoint(server)
        task = SynthesisTask(documents=documents(2))
        assert synthesise(task, asked, answers).requests == 2
        assert synthesise(task, asked, answers).requests == 0
        assert synthesise(task, replace(asked, timeout_s=9.0), answers).requests == 0
        for other in (replace(asked, model="n"), replace(asked, temperature=0.1)):
            assert synthesise(task, other, answers).requests == 2
        for changed in (
            replace(task, n_queries=2),
            replace(task, instructions="Write queries."),
            replace(task, documents=(JudgedDocument("d0", "", "edited text of it"),) * 1),
        ):
            assert synthesise(changed, asked, answers).requests == len(changed.documents)


def test_the_estimate_sends_nothing_and_counts_only_what_is_missing(tmp_path: Path) -> None:
    answers = tmp_path / "answers.jsonl"
    with CompletionServer() as server:
        few = SynthesisTask(documents=documents(2))
        synthesise(few, endpoint(server), answers)
        server.requests.clear()
        found = estimate(SynthesisTask(documents=documents(10)), endpoint(server), answers)
        assert server.requests == []
    assert (found.documents, found.answered, found.requests) == (10, 2, 8)
    assert found.usage.completion_tokens == 8 * 3 * 20
    assert 8 * 150 < found.usage.prompt_tokens < 8 * 400
    assert found.usage.cost(1.0, 2.0) == pytest.approx(
        (found.usage.prompt_tokens + 2 * found.usage.completion_tokens) / 1e6
    )
    assert found.usage.cost(None, 2.0) is None


def test_an_endpoint_that_counts_no_tokens_is_told_apart_from_a_free_one(tmp_path: Path) -> None:
    def answer(_number: int, document: str) -> Reply:
        return Reply(answer=queries_of(document), usage=None)

    with CompletionServer(answer) as server:
        assert run(server, tmp_path, n_documents=2).usage == Usage(uncounted_requests=2)


def test_requests_keep_to_the_rate_and_the_concurrency(tmp_path: Path) -> None:
    def answer(_number: int, document: str) -> Reply:
        return Reply(answer=queries_of(document), delay_s=0.1)

    with CompletionServer(answer) as server:
        run(server, tmp_path, n_documents=8, requests_per_min=1_200, concurrency=8)
        at = [request.at_s for request in server.requests]
        assert at[-1] - at[0] >= 7 * 0.05 - 0.02
        assert 1 < server.most_at_once <= 4
        server.most_at_once = 0
        run(server, tmp_path / "again", n_documents=9, concurrency=3)
        assert server.most_at_once == 3


def test_a_kill_loses_no_more_than_the_requests_in_flight(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from tests.integration.test_synthesis_server import run
run(sys.argv[1], Path(sys.argv[2]), n_documents=40, concurrency=2)
"""

    def answer(_number: int, document: str) -> Reply:
        return Reply(answer=queries_of(document), delay_s=0.03)

    with CompletionServer(answer) as server:
        arguments = [sys.executable, "-c", script, server.base_url, str(tmp_path)]
        process = subprocess.Popen(arguments, cwd=Path(__file__).parents[2])
        while len(server.requests) < 12:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        sent_before = len(server.requests)
        with (tmp_path / "answers.jsonl").open("ab") as file:
            file.write(b'{"key": "torn')  # as a kill in the middle of a write leaves it
        done = run(server, tmp_path, n_documents=40)
        assert len(done.pairs) == 120
        assert sent_before + done.requests <= 40 + 2
        assert run(server, tmp_path, n_documents=40).requests == 0
