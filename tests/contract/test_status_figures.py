"""`status` reads the same figures through a plain driver on either database."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from reindexer.journal import BUILD_LEASE, Journal
from reindexer.settings import Settings
from reindexer.status import read_status
from search.corpus import Corpus
from search.database import Database
from search.documents import Document
from search.errors import DatabaseUnavailable
from search.generations import Catalog
from search.processes import process_name
from search.recipe import Recipe, SplitterRecipe


def test_status_says_the_same_as_corpus_catalog_and_journal(database: Database) -> None:
    corpus, catalog, journal = Corpus(database), Catalog(database), Journal(database)
    corpus.put([Document.of(doc_id=f"d{number}", text="text") for number in range(20)])
    corpus.delete(["d3", "d4"])
    splitter = SplitterRecipe(max_tokens=128, overlap_tokens=16)
    recipe = Recipe(model="support@1", fingerprint="f", dim=8, splitter=splitter)
    live, building = catalog.record(recipe), catalog.record(recipe)
    for state in ("catching_up", "verifying", "ready"):
        catalog.move(live.name, state)
    build = journal.record_build(building.name, start_head=22, docs_total=18)
    with journal.lease(BUILD_LEASE) as lease:
        catalog.advance(live.name, 21, lease=BUILD_LEASE, token=lease.token)
        journal.checkpoint(build, 5, lease=BUILD_LEASE, token=lease.token, docs_done=4)
        catalog.request_cut_over(live.name, None, token=1, seconds=60)
        catalog.cut_over(live.name, expected_live=None, kind="cut_over", token=1)
        catalog.processes.heartbeat(
            process_name(), address="a", generation=live.name, prepared=None, problem=None
        )

        status = read_status(Settings(database_url=database.url))

    assert status["live"]["generation"] == live.name
    assert status["live"]["watermark"] == 21
    assert status["live"]["documents"] == corpus.count(21) == 18
    assert status["live"]["lag_docs"] == corpus.lag(21) == 1
    assert status["standby"] is None
    (shown,) = status["builds"]
    assert (shown["build_id"], shown["generation"]) == (build.build_id, building.name)
    assert (shown["state"], shown["docs_done"], shown["docs_total"]) == ("running", 4, 18)
    assert shown["lag_docs"] == corpus.lag(5)
    assert [searcher["name"] for searcher in status["searchers"]] == [process_name()]
    assert status["corpus"] == {"documents": 18, "head_seq": 22}


def test_a_database_without_tables_has_an_empty_status(empty_database_url: str) -> None:
    status = read_status(Settings(database_url=empty_database_url))

    assert (status["live"], status["builds"], status["corpus"]["head_seq"]) == (None, [], 0)


def test_a_server_that_is_not_there_is_an_error_of_ours() -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/x"

    with pytest.raises(DatabaseUnavailable) as caught:
        read_status(Settings(database_url=url))

    assert "hunter2" not in str(caught.value)


def test_tables_of_another_release_are_no_empty_status(database: Database) -> None:
    if not database.is_sqlite:
        pytest.skip("PostgreSQL may hold tables of others: what is missing there counts as empty")
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE searchers"))

    with pytest.raises(DatabaseUnavailable, match=r"no such table: searchers; expected the tables"):
        read_status(Settings(database_url=database.url))
