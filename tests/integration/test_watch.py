"""`status --watch`: a live screen on a terminal, lines in a pipe, from the database or the API."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reindexer.journal import BUILD_LEASE
from reindexer.settings import Settings
from reindexer.status import read_status
from reindexer.watch import Throughput
from search.processes import process_name
from search.query_times import QueryLoad
from tests.word_directory import WordDirectory

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOURS = re.compile(r"\x1b\[[0-9;]*3[0-7][;m]")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """docs@1 is live, docs@2 is being built at half its pace, and this process serves."""
    with WordDirectory(tmp_path_factory.mktemp("watch") / "data") as directory:
        directory.put_many(f"d{number}" for number in range(20))
        directory.go_live(directory.build("word@1"))
        build = directory.journal.record_build(
            directory.record("word@2").name, start_head=20, docs_total=20
        )
        stages = json.dumps({"encode": 9.0, "write": 1.0})
        with serving(directory), directory.journal.lease(BUILD_LEASE) as lease:
            directory.journal.checkpoint(
                build, 8, lease=BUILD_LEASE, token=lease.token,
                docs_done=8, docs_per_s=2.0, passages=8, encoded=8, pace=0.5,
                pace_reason="p99 62 ms > 50 ms on box:7", stages=stages,
            )  # fmt: skip
            yield directory


@contextlib.contextmanager
def serving(directory: WordDirectory) -> Iterator[None]:
    """A process whose heart beats."""
    load = QueryLoad(queries_per_s=31.2, p50_ms=4.1, p99_ms=62.4)
    stop = threading.Event()

    def beat() -> None:
        while True:
            directory.catalog.processes.heartbeat(
                process_name(),
                address="http://127.0.0.1:8321",
                generation="docs@1",
                prepared="docs@2",
                problem=None,
                load=load,
            )
            if stop.wait(1.0):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    stop.set()
    thread.join()


@pytest.fixture
def status(directory: WordDirectory) -> dict[str, Any]:
    return read_status(directory.settings)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "reindexer", *arguments]


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, arguments: list[str], *, columns: int, **environment: str) -> None:
        parent, child = pty.openpty()
        settings = {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"}
        self._output = b""
        self._parent = parent
        self.process = subprocess.Popen(
            command(*arguments),
            stdin=child,
            stdout=child,
            stderr=child,
            env={**os.environ, **settings, **environment},
            start_new_session=True,
        )
        os.close(child)

    @property
    def text(self) -> str:
        return self._output.decode()

    @property
    def lines(self) -> list[str]:
        return ESCAPES.sub("", self.text.replace("\r", "\n")).splitlines()

    def wait_for(self, wanted: str, *, times: int = 1) -> None:
        deadline = time.monotonic() + 60
        while ESCAPES.sub("", self.text).count(wanted) < times:
            assert time.monotonic() < deadline, self.text
            ready, _, _ = select.select([self._parent], [], [], 0.1)
            if ready:
                with contextlib.suppress(OSError):
                    self._output += os.read(self._parent, 65_536)

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(20)
        os.close(self._parent)
        return code


@contextlib.contextmanager
def on_terminal(arguments: list[str], *, columns: int = 80, **more: str) -> Iterator[Terminal]:
    terminal = Terminal(arguments, columns=columns, **more)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def test_at_80_columns_everything_is_there_and_ctrl_c_ends_it(directory: WordDirectory) -> None:
    with on_terminal(
        ["--data-dir", str(directory.path), "status", "--watch", "--interval", "0.2"]
    ) as terminal:
        terminal.wait_for("Ctrl-C ends this", times=2)
        lines = terminal.lines
        code = terminal.end()

    screen = "\n".join(lines)
    assert code == 0
    assert max(map(len, lines)) <= 80
    for expected in (
        "docs@1  word@1, 20 documents, in step",
        "docs@2  word@2, running",
        "40 %  8/20  2.0/s  6.0 s left",
        "50 % of full speed: p99 62 ms > 50 ms on box:7",
        "encode 90 %, write 10 %",
        "31.2",
        "62.4",
        "cut over docs@1",
    ):
        assert expected in screen, expected
    assert COLOURS.search(terminal.text)


def test_no_color_is_respected(directory: WordDirectory) -> None:
    with on_terminal(
        ["--data-dir", str(directory.path), "status", "--watch"], columns=120, NO_COLOR="1"
    ) as terminal:
        terminal.wait_for("Ctrl-C ends this")
        code = terminal.end()

    assert code == 0
    assert not COLOURS.search(terminal.text)


def test_in_a_pipe_it_is_a_line_now_and_then(directory: WordDirectory) -> None:
    with subprocess.Popen(
        command("--data-dir", str(directory.path), "status", "--watch", "--interval", "0.2"),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0

    for line in lines:
        assert re.fullmatch(
            r"\d\d:\d\d:\d\d build docs@2: 8/20 40\.0%; 2\.0/s; eta 6\.0 s; running \(building\); "
            r"pace 50 %: p99 62 ms > 50 ms on box:7; live docs@1 lag 0",
            line,
        ), line


# -- over the API ----------------------------------------------------------------------------------


class StatusServer:
    """Answers GET /status, until it is stopped; the same port can be used again."""

    def __init__(self, status: dict[str, Any], port: int = 0, *, key: str | None = None) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = key is None or self.headers["Authorization"] == f"Bearer {key}"
                body = json.dumps(status if known else {"detail": "an API key is needed"}).encode()
                self.send_response(200 if known else 401)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: Any) -> None: ...

        self._server = http.server.HTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_over_the_api_the_figures_are_the_same_and_it_comes_back_by_itself(
    status: dict[str, Any],
) -> None:
    server = StatusServer(status)
    with on_terminal(["status", "--watch", "--url", server.url, "--interval", "0.2"]) as terminal:
        terminal.wait_for("40 %  8/20  2.0/s")
        server.stop()
        terminal.wait_for("These figures are old")
        again = StatusServer({**status, "builds": []}, server.port)
        terminal.wait_for("Ctrl-C ends this", times=terminal.lines.count("Ctrl-C ends this.") + 2)
        code = terminal.end()
        again.stop()

    assert code == 0
    assert "does not answer" in "\n".join(terminal.lines)


def test_a_service_that_asks_for_a_key_gets_it(status: dict[str, Any]) -> None:
    server = StatusServer(status, key="rk_one_two")
    arguments = ["status", "--json", "--url", server.url]
    refused = subprocess.run(command(*arguments), capture_output=True, text=True, check=False)
    answered = subprocess.run(
        command(*arguments),
        env={**os.environ, "REINDEXER_KEY": "rk_one_two"},
        capture_output=True,
        text=True,
        check=False,
    )
    server.stop()

    assert refused.returncode == 1
    assert "--key" in refused.stderr
    assert json.loads(answered.stdout) == status


def test_a_service_that_is_not_there_is_an_error_at_once() -> None:
    done = subprocess.run(
        command("status", "--watch", "--url", "http://127.0.0.1:1"),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "the service at http://127.0.0.1:1 does not answer" in done.stderr


# -- what is plotted -------------------------------------------------------------------------------


def test_throughput_counts_a_leap_for_all_the_time_it_took() -> None:
    seen = Throughput()
    for second, total in enumerate([0, 0, 0, 0, 100, 100, 200, 200]):
        seen.see(float(second), total)

    assert seen.rates(6.0, 3) == pytest.approx([25, 25, 50])
    assert seen.rates(7.0, 7)[-1] == pytest.approx(50)  # the leap under way: as the last one
    assert seen.rates(60.0, 60)[-1] == 0  # it takes too long to be under way


def test_throughput_does_not_count_what_was_done_before_it_looked() -> None:
    seen = Throughput()
    for second, total in enumerate([5_000, 5_100, 5_100, 5_200]):
        seen.see(float(second), total)

    assert max(seen.rates(3.0, 10)) == pytest.approx(50)


def test_the_status_that_is_typed_stays_light(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from reindexer.cli import cli\n"
        "cli.main(['--data-dir', sys.argv[1], 'status'], standalone_mode=False)\n"
        "heavy = {'rich', 'httpx', 'sqlalchemy', 'numpy', 'torch', 'prometheus_client'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(Settings(data_dir=tmp_path / "none").data_dir)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "[]"
