"""The product as its users meet it: real processes, real signals, tiny real models."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import httpx
import pytest

from reindexer.service_address import ServiceAddress
from tests import warm_processes
from tests.tiny_models import WORD_LIST, make_tiny_model

DIM = 32
WORDS = WORD_LIST.split()


@pytest.fixture(scope="session")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of the same dimension and of different vector spaces."""
    folder = tmp_path_factory.mktemp("models")
    return (
        make_tiny_model(folder / "alpha", kind="static", seed=1, dim=DIM),
        make_tiny_model(folder / "beta", kind="static", seed=2, dim=DIM),
    )


@dataclass
class Installation:
    """One data directory and the command line to work on it."""

    data_dir: Path

    def run(self, *args: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = self._start(*args, stdout=out, stderr=err)
            process.join(timeout_s)
            assert process.exitcode is not None, f"{args} did not end within {timeout_s:.0f} s"
            return subprocess.CompletedProcess(
                args, process.exitcode, out.read_text(), err.read_text()
            )

    def json(self, *args: str, timeout_s: float = 300) -> Any:
        done = self.run(*args, "--json", timeout_s=timeout_s)
        assert done.returncode == 0, f"{args}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def _start(self, *args: str, **files: Path) -> BaseProcess:
        arguments = ["--data-dir", str(self.data_dir), *args]
        return warm_processes.start_verb(arguments, environment=os.environ, **files)

    def serve(self) -> BaseProcess:
        process = self._start("--quiet", "serve", "--port", "0")
        deadline = time.monotonic() + 90
        while not self.is_ready():
            assert process.is_alive(), "the service ended while it started"
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
def service(installation: Installation) -> Iterator[Callable[[], BaseProcess]]:
    """Starts `serve`; whatever was started is stopped at the end of the test."""
    started: list[BaseProcess] = []

    def start() -> BaseProcess:
        started.append(installation.serve())
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.join(60)


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
