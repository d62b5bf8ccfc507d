"""Clients that ask several serving processes in turn, at full rate, each a process of its own.

with Clients(urls, queries, count=3) as clients:
    ...
clients.answers, clients.failures
"""

from __future__ import annotations

import http.client
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a client got for a query, and when."""

    at: float  # when it asked, on the monotonic clock that all processes share
    took_s: float
    url: str
    query: int  # which of the queries
    generation: str = ""
    model: str = ""
    dense: tuple[tuple[str, float], ...] = ()  # (doc_id, dense score) of the hits of that leg
    degraded: bool = False
    failure: str = ""  # what went wrong instead

    @property
    def until(self) -> float:
        return self.at + self.took_s


class Clients:
    """Ask from the begin of the `with` block to its end; the answers are there afterwards."""

    def __init__(
        self,
        urls: Sequence[str],
        queries: Sequence[str],
        *,
        count: int,
        pause_s: float = 0.0,
        modes: Sequence[str] = ("hybrid", "dense"),
        explain: bool = True,
    ) -> None:
        """pause_s: of a client between two queries. explain: or there are no dense scores."""
        self._order = {
            "urls": list(urls),
            "queries": list(queries),
            "modes": list(modes),
            "pause_s": pause_s,
            "explain": explain,
        }
        self._count = count
        self.answers: list[Answered] = []
        self.failures: list[Answered] = []

    def __enter__(self) -> Self:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.acceptance.clients"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            for _ in range(self._count)
        ]
        for number, process in enumerate(self._processes):
            assert process.stdin is not None
            process.stdin.write(json.dumps({**self._order, "first": number}).encode() + b"\n")
            process.stdin.flush()
        for process in self._processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"asking\n"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._processes:
            assert process.stdout is not None
            for line in process.stdout:
                value = json.loads(line)
                dense = tuple((doc_id, score) for doc_id, score in value.pop("dense"))
                answered = Answered(**value, dense=dense)
                (self.failures if answered.failure else self.answers).append(answered)
            process.stdout.close()
            assert process.wait() == 0, "a client broke down"

    def between(self, begin: float, end: float) -> list[Answered]:
        """Answers that a client waited for at some moment between the two."""
        return [answer for answer in self.answers if answer.until >= begin and answer.at <= end]


# -- the process -----------------------------------------------------------------------------------


class _Client:
    """One connection to each process, kept open."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._connections = {url: self._connection(url) for url in urls}

    def ask(self, url: str, query: int, body: bytes) -> Answered:
        at = time.monotonic()
        try:
            connection = self._connections[url]
            connection.request("POST", "/search", body, {"content-type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connections[url].close()  # and opened again by the next request
            return Answered(
                at=at, took_s=time.monotonic() - at, url=url, query=query, failure=repr(error)
            )
        took_s = time.monotonic() - at
        if response.status != 200:
            failure = f"{response.status}: {content[:300]!r}"
            return Answered(at=at, took_s=took_s, url=url, query=query, failure=failure)
        answer = json.loads(content)
        return Answered(
            at=at,
            took_s=took_s,
            url=url,
            query=query,
            generation=answer["generation"],
            model=answer["model"],
            dense=tuple(
                (hit["doc_id"], hit["dense_score"])
                for hit in answer["hits"]
                if hit.get("dense_score") is not None
            ),
            degraded=bool(answer.get("degraded")),
        )

    def _connection(self, url: str) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    client = _Client(order["urls"])
    modes, queries, urls = order["modes"], order["queries"], order["urls"]
    bodies = {
        (query, mode): json.dumps(
            {"query": text, "mode": mode, "k": 5, "explain": order["explain"]}
        ).encode()
        for query, text in enumerate(queries)
        for mode in modes
    }
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    sys.stdout.write("asking\n")
    sys.stdout.flush()
    answers = []
    for number in itertools.count(order["first"]):
        if stop.is_set():
            break
        query = number % len(queries)
        mode = modes[number // len(queries) % len(modes)]
        answers.append(client.ask(urls[number % len(urls)], query, bodies[query, mode]))
        if order["pause_s"]:
            time.sleep(order["pause_s"])
    for answer in answers:
        sys.stdout.write(json.dumps(asdict(answer)) + "\n")


if __name__ == "__main__":
    main()
