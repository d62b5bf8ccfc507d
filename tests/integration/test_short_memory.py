"""A process that may not have the memory that it needs ends, where it still can with a reason, and
the same command goes on where there is more."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.processes import Stillness
from tests import warm_processes
from tests.word_directory import WordDirectory

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

N_BUILT = 2_000
STILL_S = 2.0  # what `upgrade` waits 120 s for


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


def _run(folder: Path, more_bytes: int, how: str) -> None:
    """Runs in a process of its own, which has imported what is large by then."""
    import torch  # noqa: F401

    from reindexer.build import APART_FROM, BuildRun, run_to_its_end
    from reindexer.build_job import BuildJob
    from reindexer.journal import BUILD_LEASE

    with WordDirectory(folder / "data") as data, data.journal.lease(BUILD_LEASE) as lease:
        if more_bytes:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + more_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        job = BuildJob(generation="docs@1", token=lease.token, settings={})
        run = BuildRun(data, job, apart_from=0 if how == "apart" else APART_FROM)
        code = run_to_its_end(data, run, "docs@1")
    os._exit(code)


def _build(folder: Path, more_bytes: int, how: str) -> int | None:
    """The exit code, or None of one that hung, and was ended as `upgrade` ends it."""
    child = warm_processes.start(_run, folder, more_bytes, how)
    assert child.pid is not None
    stillness, deadline = Stillness(child.pid), time.monotonic() + WAIT_S
    while child.exitcode is None:
        if stillness.seconds() > STILL_S:
            child.kill()
            child.join()
            return None
        assert time.monotonic() < deadline, "it neither ends nor is still"
        child.join(0.05)
    return child.exitcode


@pytest.mark.parametrize("how", ["here", "apart"])
def test_a_build_with_too_little_memory_ends_and_goes_on(tmp_path: Path, how: str) -> None:
    """With 120 MB the embedded engine may find none for the text of its own error, and hang."""
    with WordDirectory(tmp_path / "data") as data:
        data.put_many(f"d{number}" for number in range(N_BUILT))
        name = data.record("word384@1").name
        data.journal.record_build(name, start_head=data.corpus.head(), docs_total=N_BUILT)
        for more_mb in (120, 420):
            code = _build(tmp_path, more_mb * 1_000_000, how)

            assert code is None or code == 1 or code < 0, (more_mb, code)
            if code == 1:
                reason = data.journal.build_of(name).reason or ""
                assert reason, more_mb
                assert "damaged" not in reason, (more_mb, reason)
                assert "upgrade" not in reason, (more_mb, reason)  # nothing has to be built anew
            assert data.catalog.get(name).state in ("building", "catching_up", "verifying"), more_mb

        assert _build(tmp_path, 0, how) == 0
        assert data.catalog.get(name).state == "ready"
        generation = data.catalog.get(name)
        collection = data.store.open(generation.collection, generation.recipe.fingerprint)
        stored = [point.doc_id for page in collection.scan_points() for point in page]
        assert sorted(stored) == sorted(f"d{number}" for number in range(N_BUILT))
        collection.close()
