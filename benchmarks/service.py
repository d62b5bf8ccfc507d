"""`reindexer serve` for a benchmark."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from reindexer.service_address import ServiceAddress
from reindexer.settings import Settings

START_S = 180.0
POLL_S = 0.01


@contextmanager
def serving(settings: Settings) -> Iterator[tuple[str, int]]:
    """Address and pid of a service that is ready, for as long as the block lasts."""
    command = [sys.executable, "-m", "reindexer", "--data-dir", str(settings.data_dir)]
    process = subprocess.Popen(
        [*command, "--quiet", "serve", "--port", "0"],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "REINDEXER_LOG_LEVEL": "warning"},
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
