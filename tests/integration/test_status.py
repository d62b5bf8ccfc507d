"""What `status` reads: quick, without the engines, and the same as the catalog says."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reindexer.journal import BUILD_LEASE, Build, Journal
from reindexer.settings import Settings
from reindexer.status import read_status
from reindexer.status_screen import state_text
from search.corpus import Corpus
from search.database import Database, open_database
from search.documents import Document
from search.errors import DatabaseUnavailable
from search.generations import Catalog
from search.processes import process_name
from search.recipe import Recipe, SplitterRecipe

LIVE_FIELDS = {"generation", "model", "documents", "watermark", "lag_docs"}
BUILD_FIELDS = {
    "build_id", "generation", "model", "state", "docs_done", "docs_total", "docs_per_s", "eta_s",
    "lag_docs", "retries", "reason", "started_at", "updated_at",
}  # fmt: skip
SEARCHER_FIELDS = {"name", "generation", "prepared", "seen_at"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    data_dir = tmp_path / "50% of #1?"
    data_dir.mkdir()
    return Settings(data_dir=data_dir)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = open_database(settings.sql_url)
    yield database
    database.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database)


@pytest.fixture
def corpus(database: Database) -> Corpus:
    corpus = Corpus(database)
    corpus.put([Document.of(doc_id=f"d{number}", text=f"text {number}") for number in range(10)])
    corpus.put([Document.of(doc_id="d0", text="edited")])
    corpus.delete(["d1"])
    return corpus


def record(catalog: Catalog, model: str) -> str:
    splitter = SplitterRecipe(max_tokens=128, overlap_tokens=16)
    return catalog.record(Recipe(model=model, fingerprint=model, dim=8, splitter=splitter)).name


def go_live(catalog: Catalog, journal: Journal, name: str, watermark: int) -> None:
    for state in ("catching_up", "verifying", "ready"):
        catalog.move(name, state)
    with journal.lease("sync") as lease:
        catalog.advance(name, watermark, lease="sync", token=lease.token)
    catalog.request_cut_over(name, catalog.pointers().live, token=1, seconds=60)
    catalog.cut_over(name, expected_live=catalog.pointers().live, kind="cut_over", token=1)


def running_build(catalog: Catalog, journal: Journal, model: str = "support@2") -> Build:
    build = journal.record_build(record(catalog, model), start_head=12, docs_total=9)
    with journal.lease("checkpoint") as lease:
        journal.checkpoint(
            build, 8, lease="checkpoint", token=lease.token,
            docs_done=6, docs_per_s=2.0, passages=7, encoded=7,
        )  # fmt: skip
    return journal.build_of(build.generation)


def only_build(settings: Settings) -> dict[str, Any]:
    (build,) = read_status(settings)["builds"]
    assert isinstance(build, dict)
    return build


def test_before_anything_was_done_status_is_empty_and_makes_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "none")

    status = read_status(settings)

    assert (status["live"], status["standby"]) == (None, None)
    assert (status["builds"], status["searchers"]) == ([], [])
    assert not settings.data_dir.exists()


def test_status_says_the_same_as_corpus_and_catalog(
    settings: Settings, corpus: Corpus, catalog: Catalog, journal: Journal
) -> None:
    go_live(catalog, journal, record(catalog, "support@1"), 10)
    go_live(catalog, journal, record(catalog, "support@2"), 11)
    catalog.processes.heartbeat(
        process_name(), address="http://a", generation="docs@2", prepared=None, problem=None
    )

    status = read_status(settings)

    live, standby = catalog.live(), catalog.standby()
    assert live is not None
    assert standby is not None
    for found, expected in ((status["live"], live), (status["standby"], standby)):
        assert set(found) >= LIVE_FIELDS
        assert found["generation"] == expected.name
        assert found["model"] == expected.recipe.model
        assert found["watermark"] == expected.watermark
        assert found["documents"] == corpus.count(expected.watermark)
        assert found["lag_docs"] == corpus.lag(expected.watermark)
    assert status["corpus"] == {"documents": corpus.count(), "head_seq": corpus.head()}
    (searcher,) = status["searchers"]
    assert set(searcher) >= SEARCHER_FIELDS
    assert (searcher["name"], searcher["generation"]) == (process_name(), "docs@2")


@pytest.mark.usefixtures("corpus")
def test_a_running_build_shows_its_progress(
    settings: Settings, catalog: Catalog, journal: Journal
) -> None:
    build = running_build(catalog, journal)

    with journal.lease(BUILD_LEASE):
        shown = only_build(settings)

    assert set(shown) >= BUILD_FIELDS
    assert (shown["build_id"], shown["generation"]) == (build.build_id, build.generation)
    assert (shown["model"], shown["state"], shown["step"]) == ("support@2", "running", "building")
    assert (shown["docs_done"], shown["docs_total"], shown["docs_per_s"]) == (6, 9, 2.0)
    assert shown["eta_s"] == 1.5
    assert shown["lag_docs"] == 4


@pytest.mark.usefixtures("corpus")
def test_nobody_is_told_that_no_time_is_left_while_the_index_is_built(
    settings: Settings, catalog: Catalog, journal: Journal
) -> None:
    build = running_build(catalog, journal)
    catalog.move(build.generation, "catching_up")
    with journal.lease(BUILD_LEASE):
        shown = only_build(settings)
    assert (shown["step"], shown["eta_s"]) == ("catching_up", None)
    assert state_text(shown) == "catching up, index"


@pytest.mark.usefixtures("corpus")
def test_a_build_whose_process_died_shows_as_stopped(
    settings: Settings, database: Database, catalog: Catalog, journal: Journal
) -> None:
    running_build(catalog, journal)
    program = (
        "import sys, time\n"
        "from reindexer.journal import Journal\n"
        "from search.database import open_database\n"
        "lease = Journal(open_database(sys.argv[1])).lease('build')\n"
        "print('taken', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, database.url], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = only_build(settings)
        child.kill()
        child.wait()
        dead = only_build(settings)

    assert alive["state"] == "running"
    assert (dead["state"], dead["eta_s"]) == ("stopped", None)
    assert "reindexer resume" in dead["reason"]


@pytest.mark.usefixtures("corpus")
def test_the_next_build_does_not_bring_a_stopped_one_back_to_life(
    settings: Settings, catalog: Catalog, journal: Journal
) -> None:
    stopped = running_build(catalog, journal, "support@1")
    running = running_build(catalog, journal, "support@2")

    with journal.lease(BUILD_LEASE):
        shown = {build["build_id"]: build["state"] for build in read_status(settings)["builds"]}

    assert shown == {running.build_id: "running", stopped.build_id: "stopped"}


@pytest.mark.usefixtures("corpus")
def test_a_paused_build_keeps_its_reason(
    settings: Settings, catalog: Catalog, journal: Journal
) -> None:
    build = running_build(catalog, journal)
    journal.update_build(build.build_id, state="failed", reason="the disk is full")

    shown = only_build(settings)

    assert (shown["state"], shown["reason"]) == ("failed", "the disk is full")


def test_dead_searchers_are_not_shown(settings: Settings, catalog: Catalog) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "from search.processes import process_name; print(process_name())"],
        stdout=subprocess.PIPE,
    ) as child:
        name = child.communicate()[0].decode().strip()
    catalog.processes.heartbeat(name, address="a", generation=None, prepared=None, problem=None)
    catalog.processes.heartbeat(
        "elsewhere:1:1", address="b", generation=None, prepared=None, problem="full"
    )

    (searcher,) = read_status(settings)["searchers"]

    assert (searcher["name"], searcher["problem"]) == ("elsewhere:1:1", "full")


def test_status_is_read_while_somebody_writes(settings: Settings, database: Database) -> None:
    with database.write():
        began = time.monotonic()
        read_status(settings)

    assert time.monotonic() - began < 1


def test_a_file_that_is_no_database_is_an_error_of_ours(settings: Settings) -> None:
    (settings.data_dir / "reindexer.db").write_bytes(b"not a database, but long enough " * 40)

    with pytest.raises(DatabaseUnavailable, match=r"reindexer\.db: .*; run `reindexer doctor`"):
        read_status(settings)


def test_status_imports_no_engine(settings: Settings, catalog: Catalog) -> None:
    record(catalog, "support@1")
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from reindexer.settings import Settings\n"
        "from reindexer.status import read_status\n"
        "read_status(Settings(data_dir=Path(sys.argv[1])))\n"
        "heavy = {'sqlalchemy', 'torch', 'numpy', 'qdrant_edge', 'bm25s', 'alembic', 'fastapi'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(settings.data_dir)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == "[]"
