"""The product as its users meet it: real processes, real signals, tiny real models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from reindexer.service_address import ServiceAddress
from tests.tiny_models import WORD_LIST, make_tiny_model

DIM = 32
WORDS = WORD_LIST.split()


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of the same dimension and of different vector spaces."""
    folder = tmp_path_factory.mktemp("models")
    return (
        make_tiny_model(folder / "alpha", kind="mean", seed=1, dim=DIM),
        make_tiny_model(folder / "beta", kind="mean", seed=2, dim=DIM),
    )


@dataclass
class Installation:
    """One data directory and the command line to work on it."""

    data_dir: Path

    def run(self, *args: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*args), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def json(self, *args: str, timeout_s: float = 120) -> Any:
        done = self.run(*args, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "reindexer", "--data-dir", str(self.data_dir), *args]

    def serve(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            self.command("--quiet", "serve", "--port", "0"), stdout=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 90
        while not self.is_ready():
            assert process.poll() is None, "the service ended while it started"
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.05)
        return process

    def address(self) -> ServiceAddress:
        address = ServiceAddress.read(self.data_dir)
        assert address is not None
        return address

    def is_ready(self) -> bool:
        address = ServiceAddress.read(self.data_dir)
        if address is None:
            return False
        try:
            return httpx.get(f"{address.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    os.environ.pop("REINDEXER_DATA_DIR", None)
    return Installation(tmp_path / "data")


@pytest.fixture
def service(installation: Installation) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts `serve`; whatever was started is stopped at the end of the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        started.append(installation.serve())
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(60)


def text_of(number: int, version: int = 0) -> str:
    """Words that the tiny tokenizer knows, different for each document and version."""
    return " ".join(
        WORDS[(number * 7 + version * 13 + step * (number % 11 + 1)) % len(WORDS)]
        for step in range(12)
    )


def write_jsonl(path: Path, documents: dict[str, str]) -> Path:
    path.write_text(
        "".join(
            json.dumps(
                {"_id": doc_id, "text": text, "title": "", "metadata": {"n": int(doc_id[1:])}}
            )
            + "\n"
            for doc_id, text in documents.items()
        ),
        encoding="utf-8",
    )
    return path
