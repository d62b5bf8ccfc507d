"""What is asked for at random is read before somebody waits for it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from search.file_cache import read_ahead_apart
from search.processes import children_of
from tests import running_service
from tests.cached_files import forget, share_cached
from tests.word_directory import WordDirectory

WAIT_S = 60.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the file cache")


def test_another_process_reads_a_file_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "corpus.db"
    file.write_bytes(os.urandom(16 << 20))

    def share_read() -> float:
        forget([file])
        read_ahead_apart([file], threading.Event())
        return share_cached([file])

    # The system may take some of it out again; what is never read is never there.
    assert any(share_read() == 1 for _ in range(5))


def test_a_database_keeps_its_locks_while_it_is_read(tmp_path: Path) -> None:
    """Opened and closed by this process, the file would have none any more."""
    file = tmp_path / "corpus.db"
    ours = sqlite3.connect(file, isolation_level=None)
    ours.execute("CREATE TABLE documents (id TEXT)")
    ours.execute("BEGIN IMMEDIATE")

    read_ahead_apart([file], threading.Event())
    write = "import sqlite3, sys; sqlite3.connect(sys.argv[1], 0).execute('BEGIN IMMEDIATE')"
    theirs = subprocess.run([sys.executable, "-c", write, file], capture_output=True, text=True)
    assert "database is locked" in theirs.stderr
    ours.close()


def test_reading_ends_when_it_is_told_to(tmp_path: Path) -> None:
    never_ends = tmp_path / "corpus.db"
    os.mkfifo(never_ends)
    stop = threading.Event()
    reading = threading.Thread(target=read_ahead_apart, args=([never_ends], stop))
    reading.start()
    reading.join(0.5)
    assert reading.is_alive()

    stop.set()
    reading.join(WAIT_S)
    assert not reading.is_alive()


def test_ctrl_c_while_it_reads_shows_nobody_a_traceback(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    never_ends = tmp_path / "corpus.db"
    os.mkfifo(never_ends)
    before = set(children_of(os.getpid()))
    reading = threading.Thread(target=read_ahead_apart, args=([never_ends], threading.Event()))
    reading.start()
    reading.join(0.5)
    (reader,) = set(children_of(os.getpid())) - before
    os.kill(reader, signal.SIGINT)  # as the terminal does to everybody in the foreground
    reading.join(WAIT_S)

    assert not reading.is_alive()
    assert capfd.readouterr().err == ""


def test_a_service_reads_its_corpus_ahead(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[Path]] = []
    monkeypatch.setattr(
        "reindexer.service.read_ahead_apart", lambda files, _stop: asked.append(files)
    )

    with running_service.RunningService(directory):
        pass
    assert asked == [[directory.database.file]]
    assert asked[0][0].stat().st_size > 0
