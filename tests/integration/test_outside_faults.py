"""What fails outside of us: the disk, the database. Nothing is lost, and it is said what happened.

Elsewhere: a store that fails (test_store_faults), clocks and leases (test_journal), two workers,
two builds and two cut-overs at once (test_jobs, test_worker, test_catalog), kills (acceptance).
"""

from __future__ import annotations

import contextlib
import resource
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from reindexer.backup import make_backup
from reindexer.errors import ReindexerError
from search import database as database_module
from search.corpus import Corpus
from search.database import open_database
from search.documents import Document
from search.errors import DatabaseUnavailable, SearchError
from tests.postgresql_server import postgresql_server
from tests.word_directory import WordDirectory
from training.errors import TrainingError

OURS = (SearchError, ReindexerError, TrainingError)


@contextlib.contextmanager
def full_disk(largest_bytes: int) -> Iterator[None]:
    """No file of this process can grow beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def documents(count: int) -> list[Document]:
    return [Document.of(doc_id=f"n{n}", text=f"new {n} " + "x" * 2_000) for n in range(count)]


def test_a_corpus_on_a_full_disk_stores_all_or_nothing_and_goes_on(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data", run_worker=False) as data:
        data.put_many(f"d{n}" for n in range(10))
        head, count = data.corpus.head(), data.corpus.count()

        with full_disk(50_000), pytest.raises(DatabaseUnavailable):
            data.corpus.put(documents(2_000))

        assert (data.corpus.head(), data.corpus.count()) == (head, count)
        data.corpus.put(documents(50))
        assert data.corpus.count() == count + 50


def test_a_backup_on_a_full_disk_is_none_and_the_next_one_is_whole(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data", run_worker=False) as data:
        data.corpus.put(documents(300))
        place = tmp_path / "backups"

        with full_disk(20_000), pytest.raises(OURS):
            make_backup(data, str(place))

        assert list(place.glob("backups/*")) == []
        assert make_backup(data, str(place)).backup.documents == 300


def test_a_database_that_stays_locked_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WordDirectory(tmp_path / "data", run_worker=False) as data:
        data.put("a", "text")
    monkeypatch.setattr(database_module, "LOCK_WAIT_S", 0.1)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "reindexer.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with WordDirectory(tmp_path / "data", run_worker=False) as data:
            with pytest.raises(DatabaseUnavailable, match="locked"):
                data.put("b", "text")
            other.rollback()
            data.put("b", "text")
            assert data.corpus.count() == 2


def test_a_database_that_ended_every_session_is_used_again() -> None:
    with postgresql_server() as url:
        database = open_database(url)
        corpus = Corpus(database)
        corpus.put([Document.of(doc_id="a", text="before")])
        with psycopg.connect(url, autocommit=True) as other:  # what a restart does to us
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )

        with contextlib.suppress(DatabaseUnavailable):  # at most the first one notices
            corpus.put([Document.of(doc_id="b", text="meanwhile")])
        corpus.put([Document.of(doc_id="c", text="after")])

        assert {"a", "c"} <= corpus.get_many(["a", "b", "c"]).keys()
        assert corpus.head() >= 2
        database.close()
