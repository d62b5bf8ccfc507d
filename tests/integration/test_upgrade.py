"""Which generation an upgrade works on, and what it leaves when it is stopped early."""

from __future__ import annotations

import dataclasses
import sys
import time

import pytest

from reindexer.build_process import run_build
from reindexer.errors import BuildFailed, LeaseHeld
from reindexer.journal import BUILD_LEASE, Build
from reindexer.recipes import filter_fields, same_recipe
from reindexer.upgrade import cancel, pause
from search.documents import Change, Document
from search.errors import WrongState
from search.recipe import Recipe, SplitterRecipe
from tests.word_directory import WordDirectory

RECIPE = Recipe(
    model="support@1",
    fingerprint="f",
    dim=8,
    splitter=SplitterRecipe(max_tokens=128, overlap_tokens=16),
)


def change(**metadata: object) -> Change:
    document = Document.of(doc_id="a", text="text", metadata=metadata)
    return Change(seq=1, doc_id="a", content_hash=document.content_hash, document=document)


def test_recipes_that_give_the_same_vectors_and_postings_are_the_same() -> None:
    assert same_recipe(RECIPE, dataclasses.replace(RECIPE, model="renamed@7"))
    assert same_recipe(RECIPE, dataclasses.replace(RECIPE, filter_fields={"year": "number"}))
    assert same_recipe(RECIPE, Recipe.from_json(RECIPE.to_json()))


@pytest.mark.parametrize(
    "difference",
    [
        {"fingerprint": "e"},
        {"dim": 4},
        {"hnsw_m": 32},
        {"quantization": "int8"},
        {"splitter": SplitterRecipe(max_tokens=64, overlap_tokens=16)},
    ],
)
def test_recipes_that_differ_in_what_they_give_are_not(difference: dict[str, object]) -> None:
    assert not same_recipe(RECIPE, dataclasses.replace(RECIPE, **difference))  # type: ignore[arg-type]


def test_fields_with_values_of_one_kind_are_indexed() -> None:
    found = filter_fields(
        [
            change(year=1999, kind="a", open=True, mixed=1, tags=["x", "y"]),
            change(year=2.5, kind="b", open=False, mixed="one"),
            Change(seq=2, doc_id="b", content_hash="", document=None),
        ]
    )

    assert found == {"year": "number", "kind": "keyword", "open": "boolean", "tags": "keyword"}


def test_a_generation_whose_build_was_never_recorded_can_be_cancelled(
    directory: WordDirectory,
) -> None:
    """A process was killed right after it had recorded the generation."""
    generation = directory.record("word@1")

    build = cancel(directory)

    assert (build.generation, build.state) == (generation.name, "cancelled")
    assert directory.catalog.get(generation.name).state == "failed"


def test_a_pause_reaches_the_build_that_is_running(directory: WordDirectory) -> None:
    older, newer = (
        directory.journal.record_build(directory.record(model).name, start_head=0, docs_total=0)
        for model in ("word@1", "word@2")
    )
    with directory.journal.lease(BUILD_LEASE):
        directory.journal.start_run(older)

        assert pause(directory).build_id == older.build_id

        with pytest.raises(LeaseHeld, match=f"a build of {older.generation} is running"):
            cancel(directory, newer.generation)

    assert directory.journal.build_of(older.generation).wanted == "pause"
    assert directory.journal.build_of(newer.generation).wanted is None


def test_with_no_build_running_there_is_nothing_to_pause(directory: WordDirectory) -> None:
    directory.journal.record_build(directory.record("word@1").name, start_head=0, docs_total=0)

    with pytest.raises(WrongState, match="no build is running, so there is nothing to pause"):
        pause(directory)


@pytest.mark.parametrize(("wanted", "state"), [("pause", "paused"), ("cancel", "cancelled")])
def test_a_build_that_does_not_hear_is_stopped_within_2_s_all_the_same(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch, wanted: str, state: str
) -> None:
    """As while the graph is finished, when not one thread of its process runs."""
    deaf = directory.path / "deaf"
    deaf.write_text("#!/bin/sh\ntrap '' TERM INT\nsleep 60\n")
    deaf.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(deaf))
    directory.put_many(f"d{number}" for number in range(10))
    generation = directory.record("word@1")
    asked_at: list[float] = []

    def ask(build: Build) -> None:
        if not asked_at:
            asked_at.append(time.monotonic())
            directory.journal.update_build(build.build_id, wanted=wanted)

    with (
        directory.journal.lease(BUILD_LEASE) as lease,
        pytest.raises(BuildFailed, match=f"is {state} at 0 of 10 documents"),
    ):
        run_build(directory, generation, lease, evaluation=None, on_progress=ask)

    assert time.monotonic() - asked_at[0] < 2
    assert directory.journal.build_of(generation.name).state == state
