"""`reindexer serve` for a benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from reindexer.service_address import ServiceAddress
from reindexer.settings import Settings

START_S = 180.0
POLL_S = 0.01
ANSWER_S = 120.0


class Asker:
    """One client, on one connection that stays open, with little work of its own."""

    def __init__(self, url: str) -> None:
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)

    def ask(self, text: str) -> dict[str, Any]:
        body = json.dumps({"query": text})
        self._connection.request("POST", "/search", body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        assert response.status == 200, answer
        return answer

    def close(self) -> None:
        self._connection.close()


@contextmanager
def serving(settings: Settings, **variables: str) -> Iterator[tuple[str, int]]:
    """Address and pid of a service that is ready, for as long as the block lasts. variables: of its
    environment."""
    command = [sys.executable, "-m", "reindexer", "--data-dir", str(settings.data_dir)]
    process = subprocess.Popen(
        [*command, "--quiet", "serve", "--port", "0"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "REINDEXER_LOG_LEVEL": "warning", **variables},
    )
    try:
        deadline = time.monotonic() + START_S
        while (url := _ready_at(settings.data_dir)) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the service did not start")
            time.sleep(POLL_S)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait(60)


def _ready_at(data_dir: Path) -> str | None:
    address = ServiceAddress.read(data_dir)
    try:
        is_ready = address is not None and httpx.get(f"{address.url}/readyz").status_code == 200
    except httpx.HTTPError:
        return None
    return address.url if address is not None and is_ready else None
