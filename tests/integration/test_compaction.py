"""When the live generation is built once more, and that its vectors are copied as they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from reindexer import compaction
from reindexer.compaction import wear
from reindexer.errors import GateRefused
from reindexer.journal import BUILD_LEASE
from reindexer.vector_copy import copy_vectors
from search.dense import DenseCollection
from search.edge_collection import EdgeCollection
from search.errors import NoLiveGeneration
from tests.word_directory import WordDirectory

Indexed = Callable[[float], None]


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> Indexed:
    """How much of any collection the ANN index covers: it takes 20,000 passages to wear one."""

    def set_to(share: float) -> None:
        monkeypatch.setattr(EdgeCollection, "indexed", lambda _self: share)

    return set_to


def live_with(directory: WordDirectory, n_documents: int) -> str:
    directory.put_many(f"d{number}" for number in range(n_documents))
    name = directory.build("word@1")
    directory.go_live(name)
    return name


def stored(collection: DenseCollection) -> dict[str, tuple[object, list[float]]]:
    found = {}
    for points, vectors in collection.scan():
        for point, vector in zip(points, vectors, strict=True):
            found[point.id] = (point, [round(float(value), 5) for value in vector])
    return found


def test_nothing_has_worn_before_something_is_live(directory: WordDirectory) -> None:
    with pytest.raises(NoLiveGeneration, match="nothing has worn"):
        wear(directory)


def test_a_compaction_is_due_when_the_index_has_worn(
    directory: WordDirectory, indexed: Indexed
) -> None:
    name = live_with(directory, 3)
    indexed(0.95)
    assert not wear(directory).is_due

    indexed(0.5)
    found = wear(directory)
    assert (found.generation, found.indexed, found.is_due) == (name, 0.5, True)


def test_a_compaction_never_ends_the_way_back_to_the_model_before(
    directory: WordDirectory, indexed: Indexed
) -> None:
    live_with(directory, 3)
    directory.go_live(directory.build("word@2"))
    indexed(0.5)

    found = wear(directory)

    assert not found.is_due
    assert found.waits_for is not None
    assert "docs@1 to be pruned" in found.waits_for


def test_a_compaction_that_would_fill_the_disk_waits_for_room(
    directory: WordDirectory, indexed: Indexed, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = live_with(directory, 3)
    indexed(0.5)
    monkeypatch.setattr(directory, "free_disk_bytes", lambda: 1_000)

    found = wear(directory)
    assert not found.is_due
    assert found.waits_for is not None
    assert "room on the disk: a generation of word@1 takes about" in found.waits_for
    with pytest.raises(GateRefused, match="Nothing was begun, searches go on"):
        compaction.compact(directory)
    assert [generation.name for generation in directory.catalog.all()] == [name]


def test_the_copy_has_every_passage_as_it_was_and_later_changes_are_left_to_replay(
    directory: WordDirectory,
) -> None:
    name = live_with(directory, 30)
    live = directory.catalog.get(name)
    head = directory.corpus.head()
    with directory.journal.lease(BUILD_LEASE) as lease:
        generation, build = compaction._begun(directory, live)
        directory.put("d1", "something else by now")  # not yet in the live collection
        copy_vectors(directory, live, generation, build, lease, lambda _message: None)

    copied = directory.catalog.get(generation.name)
    assert (copied.watermark, copied.recipe) == (head, live.recipe)
    assert directory.corpus.lag(copied.watermark) == 1
    done = directory.journal.build_of(generation.name)
    assert (done.encoded, done.reused, done.docs_done) == (0, 30, 29)
    fingerprint = live.recipe.fingerprint
    with (
        closing(directory.store.open(live.collection, fingerprint)) as before,
        closing(directory.store.open(copied.collection, fingerprint)) as after,
    ):
        assert stored(after) == stored(before)


@pytest.mark.parametrize("state", ["building", "ready"])
def test_a_compaction_that_was_killed_is_taken_up_again(
    directory: WordDirectory, state: str
) -> None:
    live = directory.catalog.get(live_with(directory, 3))
    first = directory.catalog.record(live.recipe)  # and it was killed before its build was there
    if state == "ready":  # and it was killed before the switch
        for passed in ("catching_up", "verifying", "ready"):
            directory.catalog.move(first.name, passed)

    again, build = compaction._begun(directory, live)

    assert (again.name, build.generation) == (first.name, first.name)
    assert compaction._begun(directory, live)[1] == build
