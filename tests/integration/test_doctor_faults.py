"""The doctor finds each planted fault, says what to run next, and puts right what it may."""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from qdrant_client import QdrantClient, models

from reindexer.doctor import diagnose
from reindexer.settings import Settings
from reindexer.stored_vectors import look_through
from search import tables
from search.dense import CollectionSpec, Point
from search.dense_edge import EdgeStore
from search.dense_qdrant import QdrantStore
from search.edge_process import EdgeProcessCollection
from search.errors import StoreError
from search.vector_mark import vector_marks
from tests.installed import Installed
from tests.running_service import RunningService
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
]


@pytest.fixture
def installed(directory: WordDirectory) -> Installed:
    return Installed(directory)


def test_a_healthy_installation_has_no_problem(installed: Installed) -> None:
    findings = installed.look()

    assert installed.problems() == {}
    assert "30 vectors fit their texts and model" in findings["generation docs@2"].found
    assert "30 documents" in next(f.found for n, f in findings.items() if n.startswith("lexical"))


def test_one_foreign_vector_is_found_in_a_generation_that_says_all_the_right_things(
    installed: Installed,
) -> None:
    with _Collection(installed, "docs@1") as collection:
        points, _ = collection.stored(["d7"])
        collection.upsert(points, WordEncoder(seed=9).encode_documents(["all of d7"]))

    problems = installed.problems()

    assert set(problems) == {"generation docs@1"}
    assert "29 of 30 vectors fit their text and model" in problems["generation docs@1"].found
    assert "'d7'" in problems["generation docs@1"].found
    assert "reindexer upgrade word@1 --anew" in problems["generation docs@1"].advice
    assert problems["generation docs@1"].fix is None


def test_one_foreign_vector_among_thousands_is_found(tmp_path: Path) -> None:
    """The one in 100,000, and in how many seconds, is for benchmarks/doctor.py."""
    n, dim, rng = 10_000, 64, np.random.default_rng(0)
    collection = EdgeStore(tmp_path).create(
        "docs-1", CollectionSpec(generation="docs@1", fingerprint="f", dim=dim)
    )
    for start in range(0, n, 5_000):
        vectors = rng.standard_normal((5_000, dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        hashes = [f"text {start + row}" for row in range(5_000)]
        marks = vector_marks("f", hashes, vectors).tolist()
        if start == 5_000:
            vectors[777] = np.roll(vectors[777], 1)  # the one
        collection.upsert(
            [
                Point(
                    doc_id=f"d{start + row}",
                    number=0,
                    count=1,
                    seq=start + row + 1,
                    content_hash="0" * 32,
                    text_hash=hashes[row],
                    start=0,
                    end=1,
                    metadata={},
                    mark=marks[row],
                )
                for row in range(5_000)
            ],
            vectors,
        )

    found = look_through(collection, "f")
    collection.close()

    assert found.n == n
    assert (found.foreign.count, found.foreign.doc_ids) == (1, ("d5777",))
    assert (found.misshapen.count, found.unmarked.count) == (0, 0)


def test_a_collection_of_another_model_than_the_catalog_says_is_found(
    installed: Installed,
) -> None:
    generation = installed.directory.catalog.get("docs@1")
    installed.directory.store.drop(generation.collection)
    spec = generation.recipe.collection_spec("docs@1")
    other = CollectionSpec(**{**spec.to_json(), "fingerprint": "e" * 64})
    installed.directory.store.create(generation.collection, other).close()

    problems = installed.problems()

    assert set(problems) == {"generation docs@1"}
    assert "of another model than the catalog says" in problems["generation docs@1"].found


def test_a_missing_document_is_found(installed: Installed) -> None:
    with _Collection(installed, "docs@2") as collection:
        collection.remove_older({"d7": 10**9})

    assert "1 missing" in installed.problems()["generation docs@2"].found


def test_a_half_deleted_generation_is_found_and_its_deletion_finished(
    installed: Installed,
) -> None:
    catalog = installed.directory.catalog
    catalog.move("docs@1", "retired")
    catalog.move("docs@1", "pruned")  # and there the process died

    found = installed.problems()["leftovers"]
    done = installed.repair()

    assert "docs-1: an earlier prune of docs@1 was interrupted" in found.found
    assert "reindexer doctor --fix" in found.advice
    assert done == {"leftovers": "dropped docs-1"}
    assert installed.problems() == {}
    assert installed.directory.store.names() == ["docs-2"]


def test_nothing_that_a_prune_has_not_begun_is_dropped(installed: Installed) -> None:
    installed.directory.catalog.move("docs@1", "retired")

    assert installed.repair() == {}
    assert installed.directory.store.names() == ["docs-1", "docs-2"]


def test_a_damaged_lexical_file_is_found_and_made_again(installed: Installed) -> None:
    path = next(installed.lexical_path.glob("changes-*"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    path.write_bytes(content)

    (name,) = installed.problems()
    advice = installed.problems()[name].advice
    done = installed.repair()

    assert name.startswith("lexical index")
    assert "reindexer sync" in advice
    assert done == {name: "made again from 30 documents"}
    assert installed.problems() == {}


def test_a_collection_that_a_service_has_lost_is_found(installed: Installed) -> None:
    """Its process is gone, and another cannot open what it left."""
    with RunningService(installed.directory) as running:
        opened = running.service.manager.current
        assert opened is not None
        assert isinstance(opened.collection, EdgeProcessCollection)
        assert opened.collection.pid is not None
        folder = installed.settings.data_dir / "collections" / opened.collection.name
        (folder / "collection.json").rename(folder / "elsewhere")
        os.kill(opened.collection.pid, signal.SIGKILL)
        with pytest.raises(StoreError):
            opened.collection.count()
        found = [installed.look(deep=deep)["generation docs@2"] for deep in (False, True)]
        (folder / "elsewhere").rename(folder / "collection.json")

    for finding in found:
        assert finding.state == "problem"
        assert "has no" in finding.found
        assert "reindexer upgrade" in finding.found


def test_a_lexical_index_that_a_service_holds_is_left_to_it(installed: Installed) -> None:
    (installed.lexical_path / "CURRENT").write_text("nonsense")
    with installed.directory.journal.lease("sync"):
        (done,) = installed.repair().values()

    assert done.startswith("not done: the lease 'sync' is held")


@pytest.mark.parametrize(
    "what",
    [
        "events.at",
        "generations.state_at",
        "builds.updated_at",
        "searchers.seen_at",
        "leases.expires_at",
    ],
)
def test_a_clock_that_went_back_is_found(installed: Installed, what: str) -> None:
    table, _, column = what.partition(".")
    installed.directory.catalog.processes.heartbeat(
        "host:1:1", address="here", generation=None, prepared=None, problem=None
    )
    installed.directory.journal.record_build("docs@2", start_head=0, docs_total=0)
    with installed.directory.database.write() as connection:
        connection.execute(
            sa.update(tables.metadata.tables[table]).values({column: time.time() + 3_600})
        )

    problem = installed.problems()["clock"]

    assert re.search(r" by (1 h|59 min)", problem.found)
    assert "timedatectl" in problem.advice


def test_a_full_disk_is_found(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a quota shows it: there is room, and nothing can be written."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("reindexer.doctor_files.os.fsync", full)

    problem = installed.problems()["disk"]

    assert "a file could not be written: No space left on device" in problem.found
    assert "reindexer prune" in problem.advice


def test_looking_leaves_nothing_behind(installed: Installed) -> None:
    before = sorted(path.name for path in installed.directory.path.iterdir())

    installed.look()

    assert sorted(path.name for path in installed.directory.path.iterdir()) == before


# -- a store that others use too -------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """The same installation with its vectors on a server."""
    client = QdrantClient(":memory:")
    monkeypatch.setattr(
        "reindexer.data_directory.DataDirectory.store",
        property(lambda _data: QdrantStore(client=client, ready_poll_s=0.001)),
    )
    with WordDirectory(tmp_path / "data") as directory:
        yield Installed(directory)
    client.close()


def test_a_stale_alias_is_found_and_moved(server: Installed) -> None:
    server.directory.store.set_alias("docs-1")

    found = server.problems()["alias"]
    done = server.repair()

    assert found.found == "it points at docs-1, live is docs@2 in docs-2"
    assert "reindexer doctor --fix" in found.advice
    assert done == {"alias": "the alias points at docs-2"}
    assert server.problems() == {}


def test_a_server_that_lacks_what_is_needed_is_found(
    server: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        QdrantClient,
        "info",
        lambda _client: models.VersionInfo(title="qdrant", version="1.13.2"),
    )

    problem = server.problems()["store"]

    assert "is version 1.13.2; 1.16 or newer is needed" in problem.found
    assert "reindexer settings" in problem.advice


def test_a_database_that_cannot_do_what_is_needed_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WordDirectory(tmp_path / "data"):
        pass
    monkeypatch.setattr("reindexer.doctor.sqlite3.sqlite_version_info", (3, 31, 1))

    findings = {f.name: f for f in diagnose(Settings(data_dir=tmp_path / "data"))}

    assert findings["database"].state == "problem"
    assert "3.35 is needed" in findings["database"].found


class _Collection:
    """A generation's collection, open for as long as the block lasts."""

    def __init__(self, installed: Installed, name: str) -> None:
        generation = installed.directory.catalog.get(name)
        self._open = installed.directory.store.open(
            generation.collection, generation.recipe.fingerprint
        )

    def __enter__(self) -> Any:
        return self._open

    def __exit__(self, *_error: object) -> None:
        self._open.close()
