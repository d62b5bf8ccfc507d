"""Metadata beside the vectors is the corpus's, or the gate refuses and the doctor says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient

from reindexer.build_process import build_of
from reindexer.doctor import diagnose
from reindexer.findings import Finding
from reindexer.journal import BUILD_LEASE
from reindexer.opening import Opener
from reindexer.replay import Replay
from reindexer.selftest.digest import differences, take_digest
from reindexer.vector_copy import copy_vectors
from reindexer.verify import Check, verify_stored, verify_structure
from reindexer.verify_metadata import same_metadata
from search.dense import DenseCollection
from search.dense_qdrant import QdrantStore
from search.documents import Document, Value
from tests.word_directory import WordDirectory

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
]
LONG = "one two three four five six seven eight nine ten " * 8  # three passages or more
# Of every kind, with floats that the embedded engine gives back a little off.
METADATA: Mapping[str, Any] = {
    "language": "en", "year": 2020, "exact": 0.1, "odd.%name": True, "tags": ["a", 2, False],
    "large": 2**63 - 1, "none": [], **{f"long {n}": 0.7 + n / 3**9 for n in range(20)},
}  # fmt: skip

Change = Callable[[Mapping[str, Value]], Mapping[str, Value]]


@pytest.fixture(params=["edge", "qdrant"])
def directory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WordDirectory]:
    """With its vectors in either store."""
    client = QdrantClient(":memory:")
    if request.param == "qdrant":
        monkeypatch.setattr(
            "reindexer.data_directory.DataDirectory.store",
            property(lambda _data: QdrantStore(client=client, ready_poll_s=0.001)),
        )
    with WordDirectory(tmp_path / "data") as directory:
        directory.corpus.put(
            [
                Document.of(doc_id=f"d{n}", text=f"all of d{n}", metadata={**METADATA, "number": n})
                for n in range(30)
            ]
        )
        directory.put("long", LONG, metadata=METADATA)
        directory.put("plain", "no metadata at all")
        yield directory
    client.close()


def opened(directory: WordDirectory, name: str) -> closing[DenseCollection]:
    """A generation's collection, for as long as the block lasts."""
    generation = directory.catalog.get(name)
    return closing(directory.store.open(generation.collection, generation.recipe.fingerprint))


def plant(collection: DenseCollection, doc_ids: list[str], change: Change) -> None:
    """In the last point of each document: other metadata, and everything else as it was."""
    points, vectors = collection.stored(doc_ids)
    rows = [row for row, point in enumerate(points) if point.number == point.count - 1]
    changed = [replace(points[row], metadata=change(points[row].metadata)) for row in rows]
    collection.upsert(changed, vectors[rows])


def written(directory: WordDirectory, name: str, doc_ids: list[str], change: Change) -> None:
    with opened(directory, name) as collection:
        plant(collection, doc_ids, change)


def refused(directory: WordDirectory, name: str) -> dict[str, Check]:
    """By the gate."""
    opener = Opener(directory, writable=False)
    searched = opener.open(name)
    watermark = directory.catalog.watermark(name)
    checks = verify_structure(directory.corpus, searched, watermark=watermark)
    searched.close()
    opener.close()
    return {check.name: check for check in checks if not check.passed}


def problem(directory: WordDirectory, name: str) -> Finding | None:
    """That the doctor finds with a generation."""
    found = {finding.name: finding for finding in diagnose(directory.settings)}
    finding = found[f"generation {name}"]
    return finding if finding.state != "ok" else None


PLANTED: dict[str, Change] = {
    "none left": lambda _metadata: {},
    "one field changed": lambda metadata: {**metadata, "year": 2021},
    "one field lost": lambda metadata: {k: v for k, v in metadata.items() if k != "tags"},
    "one field more": lambda metadata: {**metadata, "zone": "a"},
    "a number as text": lambda metadata: {**metadata, "year": "2020"},
    "a truth as a number": lambda metadata: {**metadata, "odd.%name": 1},
    "a float": lambda metadata: {**metadata, "exact": 0.1000001},
    "an item of a list": lambda metadata: {**metadata, "tags": ("a", 2, True)},
}


def failed(directory: WordDirectory, name: str, collection: DenseCollection) -> dict[str, Check]:
    """What gate and doctor share, which opens no model."""
    generation = directory.catalog.get(name)
    checks = verify_stored(
        directory.corpus, collection, generation.recipe, watermark=generation.watermark
    )
    return {check.name: check for check in checks if not check.passed}


def test_one_point_with_other_metadata_is_found(directory: WordDirectory) -> None:
    name = directory.build("word@1")
    document = directory.corpus.get("long")
    assert document is not None
    with opened(directory, name) as collection:
        assert failed(directory, name, collection) == {}

        for what, change in PLANTED.items():
            plant(collection, ["long"], change)
            found = failed(directory, name, collection)
            assert set(found) == {"metadata"}, what
            assert found["metadata"].found == "1 documents with other metadata"
            assert found["metadata"].detail == "1 differ, such as 'long'"
            plant(collection, ["long"], lambda _metadata: document.metadata)

        assert failed(directory, name, collection) == {}


def test_a_build_that_writes_no_metadata_is_refused(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = Replay._point
    monkeypatch.setattr(Replay, "_point", lambda *at: replace(point(*at), metadata={}))

    found = refused(directory, directory.build("word@1"))

    assert set(found) == {"metadata"}
    assert "filters read" in found["metadata"].expected
    assert found["metadata"].found == "31 documents with other metadata"


def test_what_changed_after_the_watermark_is_not_held_against_a_generation(
    directory: WordDirectory,
) -> None:
    name = directory.build("word@1")
    directory.put("d7", "all of d7", metadata={"number": 77})

    with opened(directory, name) as collection:
        assert failed(directory, name, collection) == {}


def test_the_doctor_finds_other_metadata_and_a_compaction_puts_it_right(
    directory: WordDirectory,
) -> None:
    directory.go_live(directory.build("word@1"))
    assert problem(directory, "docs@1") is None

    written(directory, "docs@1", ["d7", "d8"], PLANTED["one field changed"])
    found = problem(directory, "docs@1")
    assert found is not None
    assert "metadata: 2 documents with other metadata (2 differ, such as 'd7'" in found.found
    assert "reindexer compact" in found.advice

    source = directory.catalog.get("docs@1")
    copy = directory.catalog.record(source.recipe)
    with directory.journal.lease(BUILD_LEASE) as lease:
        copy_vectors(directory, source, copy, build_of(directory, copy), lease)
    with opened(directory, copy.name) as collection:
        assert failed(directory, copy.name, collection) == {}


def test_a_standby_with_other_metadata_is_to_be_built_again(directory: WordDirectory) -> None:
    for model in ("word@1", "word@2"):
        directory.go_live(directory.build(model))

    written(directory, "docs@1", ["d7"], PLANTED["none left"])

    found = problem(directory, "docs@1")
    assert found is not None
    assert "reindexer upgrade word@1" in found.advice
    assert problem(directory, "docs@2") is None


def test_two_installations_that_differ_in_metadata_have_other_digests(
    directory: WordDirectory,
) -> None:
    directory.go_live(directory.build("word@1"))
    before = take_digest(directory)

    for what in ("none left", "one field changed"):
        written(directory, "docs@1", ["long"], PLANTED[what])
        (different,) = differences(take_digest(directory), before)
        assert different.startswith("docs@1: 1 different"), what


def test_counting_stops_where_enough_is_known(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.verify_metadata.READ_AGAIN", 10)
    monkeypatch.setattr("reindexer.verify_metadata.ENOUGH", 10)
    name = directory.build("word@1")
    with opened(directory, name) as collection:
        plant(collection, [f"d{n}" for n in range(30)], PLANTED["none left"])
        found = failed(directory, name, collection)["metadata"].found

    assert found == "at least 10 documents with other metadata"


@pytest.mark.parametrize(
    ("found", "expected", "same"),
    [
        ({"a": 0.1 + 0.2}, {"a": 0.3}, True),
        ({"a": 5e-324}, {"a": 0.0}, True),
        ({"a": 0.3}, {"a": 0.3000001}, False),
        ({"a": 2**53}, {"a": 2**53 + 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": "1"}, False),
        ({"a": (1, 0.1 + 0.2)}, {"a": (1, 0.3)}, True),
        ({"a": (1, 2)}, {"a": (2, 1)}, False),
        ({"a": (1,)}, {"a": 1}, False),
        ({"a": 1}, {"b": 1}, False),
    ],
)
def test_metadata_are_the_same_where_a_filter_sees_no_difference(
    found: Mapping[str, Value], expected: Mapping[str, Value], same: bool
) -> None:
    assert same_metadata(found, expected) is same
    assert same_metadata(expected, found) is same
