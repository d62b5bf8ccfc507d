"""A process that may not have the memory that it needs ends, where it still can with a reason, and
the same command goes on where there is more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

N_DOCUMENTS = 6_000
WAIT_S = 120.0
# The limit is set when all is loaded: a library that cannot even be loaded ends its process as it
# likes. argv: bytes that may be added, or 0 for no limit, then the command's own.
PROGRAM = """
import resource, sys
from pathlib import Path

import orjson
import sqlalchemy.dialects.sqlite

import reindexer.cli_documents, reindexer.data_directory, reindexer.ingest, search.corpus
from reindexer.cli import cli

more_bytes = int(sys.argv[1])
if more_bytes:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main(sys.argv[2:])
"""


def _ingest(folder: Path, more_bytes: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(more_bytes), "--data-dir", str(folder / "data")]
    command += ["ingest", str(folder / "rows.jsonl"), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WAIT_S)


@pytest.mark.parametrize("more_mb", [4, 30])
def test_an_ingest_with_too_little_memory_ends_and_goes_on(tmp_path: Path, more_mb: int) -> None:
    """With 4 MB it is Python that finds none; with 30 it may be a library, which ends the process
    by a signal."""
    text = "word " * 3_000
    (tmp_path / "rows.jsonl").write_text(
        "".join(f'{{"id": "d{n}", "text": "{text}{n}"}}\n' for n in range(N_DOCUMENTS))
    )

    short = _ingest(tmp_path, more_mb * 1_000_000)

    assert short.returncode == 1 or (more_mb == 30 and short.returncode < 0), short.stderr
    if short.returncode == 1:
        assert "Error: memory is short: give this process more" in short.stderr
        assert "Traceback" not in short.stderr

    whole = _ingest(tmp_path, 0)

    assert whole.returncode == 0, whole.stderr
    report = json.loads(whole.stdout)
    assert report["added"] + report["unchanged"] == report["head_seq"] == N_DOCUMENTS


def test_the_engine_ends_its_process_where_it_finds_no_memory_and_prints_no_backtrace() -> None:
    """Printing one needs memory, and its lock is held already: a build hung so for as long as
    anybody looked."""
    tell = "import atexit, os; atexit.register(lambda: print(os.environ['RUST_BACKTRACE']))"
    finished = subprocess.run(
        [sys.executable, "-c", f"{tell}; from reindexer.cli import main; main()", "--version"],
        env={**os.environ, "RUST_BACKTRACE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert finished.stdout.splitlines()[-1] == "0"
