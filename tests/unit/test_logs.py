"""Logs: one event a line, with what is known, readable by people and by machines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from reindexer import logs
from search.request_ids import REQUEST_ID


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    names = ["", logs.ACCESS_LOGGER, *logs.OWN_LOGGERS]
    before = {name: logging.getLogger(name).level for name in names}
    root = logging.getLogger()
    handlers, factory = list(root.handlers), logging.getLogRecordFactory()
    yield
    root.handlers[:] = handlers
    logging.setLogRecordFactory(factory)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def last_event(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    text = capsys.readouterr().err
    assert text.endswith("\n")
    event = json.loads(text.splitlines()[-1])
    assert isinstance(event, dict)
    return event


def test_an_event_has_time_level_logger_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logging.getLogger("search.serving").info("answering from %s now", "docs@2")

    event = last_event(capsys)

    assert str(event.pop("time")).endswith("Z")
    assert event == {
        "level": "info",
        "logger": "search.serving",
        "message": "answering from docs@2 now",
    }


def test_an_event_carries_what_is_known_where_it_was_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json")
    token = REQUEST_ID.set("r-1")
    with logs.known(generation="docs@2"), logs.known(build_id=7):
        logging.getLogger("reindexer.build").warning("slow", extra={"took_ms": 12})
    REQUEST_ID.reset(token)
    inside = last_event(capsys)
    logging.getLogger("reindexer.build").warning("outside")
    outside = last_event(capsys)

    assert inside["request_id"] == "r-1"
    assert (inside["generation"], inside["build_id"], inside["took_ms"]) == ("docs@2", 7, 12)
    assert not {"request_id", "generation", "build_id"} & set(outside)


def test_whatever_is_in_a_message_an_event_stays_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("json")
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("search.app").exception('two\nlines and a "quote"')

    lines = capsys.readouterr().err.splitlines()

    assert len(lines) == 1
    event = json.loads(lines[0])
    assert event["message"] == 'two\nlines and a "quote"'
    assert "ValueError: first" in event["trace"]


def test_secrets_of_keys_do_not_get_into_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logging.getLogger("search.app").warning("key %s failed", "rk_abc123_verysecret99")

    assert "verysecret99" not in capsys.readouterr().err


def test_for_people_it_is_a_readable_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")
    with logs.known(generation="docs@2"):
        logging.getLogger("search.serving").warning("cannot follow")

    text = capsys.readouterr().err

    assert text.rstrip().endswith("WARNING search.serving: cannot follow  generation=docs@2")


def test_other_libraries_are_heard_from_warnings_on(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logging.getLogger("httpx").info("chatter")
    logging.getLogger("search.serving").debug("detail")
    logging.getLogger("httpx").warning("trouble")

    lines = capsys.readouterr().err.splitlines()

    assert [json.loads(line)["message"] for line in lines] == ["trouble"]


@pytest.mark.parametrize(("access", "expected"), [(False, 0), (True, 1)])
def test_requests_are_logged_when_asked_for(
    capsys: pytest.CaptureFixture[str], access: bool, expected: int
) -> None:
    logs.configure("json", "warning", access=access)
    logging.getLogger(logs.ACCESS_LOGGER).info("GET /search 200")

    assert len(capsys.readouterr().err.splitlines()) == expected


def test_auto_is_json_unless_stderr_is_a_terminal() -> None:
    """The tests' stderr is a file."""
    logs.configure("auto")

    assert logs.current_format() == "json"


def test_threads_do_not_mix_their_lines() -> None:
    program = (
        "import logging, threading\n"
        "from reindexer import logs\n"
        "logs.configure('json')\n"
        "log = logging.getLogger('search.x')\n"
        "def work(n):\n"
        "    with logs.known(generation=f'docs@{n}'):\n"
        "        for _ in range(200): log.info('n%s', n)\n"
        "threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    events = [json.loads(line) for line in done.stderr.splitlines()]

    assert len(events) == 800
    assert all(event["generation"] == f"docs@{event['message'][1:]}" for event in events)


def test_known_fields_belong_to_their_thread(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    with logs.known(generation="docs@2"):
        thread = threading.Thread(target=lambda: logging.getLogger("search").warning("elsewhere"))
        thread.start()
        thread.join()

    assert "generation" not in last_event(capsys)


def test_a_complaint_is_told_when_it_begins_changes_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    complaint = logs.Complaint(logging.getLogger("reindexer"), "it waits")
    with caplog.at_level(logging.INFO):
        for reason in ("full", "full", "locked", "locked"):
            complaint.tell(OSError(reason))
        complaint.end()
        complaint.end()

    assert caplog.messages == ["it waits: full", "it waits: locked", "it waits: no longer"]
