"""The cheapest path: what a new generation takes over instead of encoding it, counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from reindexer import build_process
from reindexer.build_process import build_of
from reindexer.data_directory import DataDirectory
from reindexer.journal import BUILD_LEASE, SYNC_LEASE, Build
from reindexer.plan import describe, plan_upgrade
from reindexer.recipes import recipe_for
from reindexer.replay import Replay, ReplayProgress
from reindexer.settings import Settings
from reindexer.stored_vectors import look_through
from reindexer.sync import sync_once
from reindexer.vector_copy import _begins, copy_source, copy_vectors
from search.documents import Document
from search.generations import Generation
from search.recipe import Recipe, SplitterRecipe
from search.splitter import Splitter
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory
from training.model_version import int8_fingerprint

N_DOCUMENTS = 30


@pytest.fixture
def encoded(directory: WordDirectory) -> list[int]:
    """How many passages every call encoded, from the moment that something is live."""
    directory.put_many(f"d{number}" for number in range(N_DOCUMENTS))
    directory.go_live(directory.build("word@1"))
    calls: list[int] = []
    directory._on_encoded = calls.append
    return calls


def begin(directory: WordDirectory, recipe: Recipe) -> tuple[Generation, Build]:
    """A build as far as its child process would find it."""
    generation = directory.catalog.record(recipe)
    build = build_of(directory, generation)
    with directory.journal.lease(BUILD_LEASE) as lease:
        build = build_process._copied(directory, generation, build, lease, lambda _build: None)
    return directory.catalog.get(generation.name), build


def replay_rest(directory: WordDirectory, generation: Generation, build: Build) -> ReplayProgress:
    """What the child process does with it then."""
    encoder = directory.load_encoder(generation.recipe.model)
    spec = generation.recipe.collection_spec(generation.name)
    with closing(directory.store.create(generation.collection, spec)) as collection:
        return Replay(
            corpus=directory.corpus,
            collection=collection,
            encoder=cast(Any, encoder),
            splitter=Splitter(generation.recipe.splitter, encoder),
            window=64,
            checkpoint=lambda _progress: None,
        ).run(generation.watermark, directory.corpus.head(), fresh_until=build.start_head)


def contents(
    directory: DataDirectory, generation: Generation
) -> dict[str, tuple[int, list[float]]]:
    recipe = generation.recipe
    with closing(directory.store.open(generation.collection, recipe.fingerprint)) as collection:
        return {
            point.id: (point.seq, [round(float(value), 4) for value in vector])
            for points, vectors in collection.scan()
            for point, vector in zip(points, vectors, strict=True)
        }


@pytest.mark.parametrize(
    "changed",
    [{"quantization": "int8"}, {"hnsw_m": 8}, {"hnsw_ef_construct": 64}],
    ids=lambda changed: next(iter(changed)),
)
def test_another_index_over_the_same_vectors_encodes_nothing(
    directory: WordDirectory, encoded: list[int], changed: dict[str, Any]
) -> None:
    live = directory.catalog.live()
    assert live is not None
    generation, build = begin(directory, replace(live.recipe, **changed))

    progress = replay_rest(directory, generation, build)

    assert (sum(encoded), progress.encoded) == (0, 0)
    assert (build.encoded, build.reused, build.docs_done) == (0, N_DOCUMENTS, N_DOCUMENTS)
    assert contents(directory, generation) == contents(directory, live)


def test_what_changed_since_the_copied_generation_is_replayed_and_nothing_else(
    directory: WordDirectory, encoded: list[int]
) -> None:
    """Also in the place of what was there before: a document with fewer passages, or none."""
    live = directory.catalog.live()
    assert live is not None
    directory.put("d1", "something else by now")
    directory.corpus.delete(["d2"])
    generation, build = begin(directory, replace(live.recipe, hnsw_m=8))
    assert generation.watermark == build.start_head == live.watermark

    replay_rest(directory, generation, build)

    assert sum(encoded) == 1
    with directory.journal.lease(SYNC_LEASE) as lease:
        sync_once(directory, lease)
    assert contents(directory, generation) == contents(directory, live)


def test_an_edit_encodes_only_the_passages_that_are_new(
    directory: WordDirectory, encoded: list[int]
) -> None:
    paragraphs = [" ".join(f"w{place}x{number}" for number in range(60)) for place in range(6)]
    directory.put("long", "\n\n".join(paragraphs))
    with directory.journal.lease(SYNC_LEASE) as lease:
        sync_once(directory, lease)
        passages = sum(encoded)
        encoded.clear()
        directory.put("long", "\n\n".join([*paragraphs[:-1], paragraphs[-1][:-1] + "y"]))
        report = sync_once(directory, lease)
    assert passages > 6
    assert 1 <= sum(encoded) <= 2  # the last word, which two passages may share
    assert report.encoded == sum(encoded)


@pytest.mark.parametrize("model", ["word@2", "word24@1"])
def test_another_model_is_encoded_whatever_its_dimensions(
    directory: WordDirectory, encoded: list[int], model: str
) -> None:
    del encoded
    assert copy_source(directory, directory.word_recipe(model)) is None


def test_other_passages_are_encoded(directory: WordDirectory, encoded: list[int]) -> None:
    del encoded
    recipe = replace(directory.word_recipe("word@1"), hnsw_m=8)
    cut_otherwise = SplitterRecipe(max_tokens=8, overlap_tokens=0)
    assert copy_source(directory, recipe) is not None
    assert copy_source(directory, replace(recipe, splitter=cut_otherwise)) is None


def test_a_copy_ends_when_somebody_asks_for_it(
    directory: WordDirectory, encoded: list[int]
) -> None:
    del encoded
    live = directory.catalog.live()
    assert live is not None
    generation = directory.catalog.record(replace(live.recipe, hnsw_m=8))
    build = build_of(directory, generation)
    directory.journal.update_build(build.build_id, wanted="pause")
    with directory.journal.lease(BUILD_LEASE) as lease:
        stopped = build_process._copied(directory, generation, build, lease, lambda _build: None)
    assert stopped.state == "paused"
    assert directory.catalog.watermark(generation.name) == 0  # made again by `resume`


# -- Matryoshka ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDirectory]:
    """32 dimensions are live; the same model that keeps 16 of them, as `short`."""
    folder = tmp_path_factory.mktemp("nested")
    model = make_tiny_model(folder / "model", kind="static", dim=32)
    with DataDirectory(Settings(data_dir=folder / "data", device="cpu")) as data:
        full = data.registry.register(str(model), name="full")
        data.registry.register(str(model), name="short", truncate_dim=16)
        data.corpus.put([Document.of(doc_id=f"d{n}", text=f"passage number {n}") for n in range(8)])
        generation = data.catalog.record(recipe_for(data, full))
        encoder = data.encoder(generation)
        spec = generation.recipe.collection_spec(generation.name)
        head = data.corpus.head()
        with (
            data.journal.lease(BUILD_LEASE) as lease,
            closing(data.store.create(generation.collection, spec)) as collection,
        ):
            Replay(
                corpus=data.corpus,
                collection=collection,
                encoder=encoder,
                splitter=Splitter(generation.recipe.splitter, encoder),
                window=64,
                checkpoint=lambda progress: data.catalog.advance(
                    generation.name, progress.watermark, lease=BUILD_LEASE, token=lease.token
                ),
            ).run(0, head, fresh_until=head)
        for state in ("catching_up", "verifying", "ready"):
            data.catalog.move(generation.name, state)
        data.catalog.keep_verification(generation.name, {"passed": True})
        data.catalog.request_cut_over(generation.name, None, token=1, seconds=60)
        data.catalog.cut_over(generation.name, expected_live=None, kind="cut_over", token=1)
        yield data


def test_plan_says_that_vectors_are_copied(nested: DataDirectory) -> None:
    plan = plan_upgrade(nested, "short@1")
    assert (plan.strategy, plan.copies_from, plan.dim) == ("copy", "docs@1", 16)
    assert describe(plan)["build"].startswith("copy the vectors of docs@1")


def test_shorter_rows_of_the_same_model_are_cut_and_not_encoded(nested: DataDirectory) -> None:
    recipe = recipe_for(nested, nested.registry.resolve("short@1"))
    source = copy_source(nested, recipe)
    assert source is not None
    generation = nested.catalog.record(recipe)
    with nested.journal.lease(BUILD_LEASE) as lease:
        build = copy_vectors(nested, source, generation, build_of(nested, generation), lease)

    assert (build.encoded, build.reused) == (0, 8)
    encoder = nested.load_encoder("short@1")
    with closing(nested.store.open(generation.collection, recipe.fingerprint)) as collection:
        found = look_through(collection, recipe.fingerprint)
        assert (found.n, str(found.misshapen), str(found.foreign), str(found.unmarked)) == (
            8, "", "", "",
        )  # fmt: skip
        points, vectors = collection.stored([f"d{n}" for n in range(8)])
    changes = nested.corpus.get_many([point.doc_id for point in points])
    documents = [cast(Document, changes[point.doc_id].document) for point in points]
    texts = [document.text for document in documents]
    np.testing.assert_allclose(vectors, encoder.encode_documents(texts), atol=1e-5)


def test_a_copy_stays_in_the_numbers_of_its_source(nested: DataDirectory) -> None:
    """Nothing is loaded here, so a static model stands for one that is computed in integers."""
    live = nested.catalog.live()
    assert live is not None
    floats = recipe_for(nested, nested.registry.resolve("short@1"))
    integers, long_integers = (
        replace(recipe, fingerprint=int8_fingerprint(recipe.fingerprint))
        for recipe in (floats, live.recipe)
    )
    version = nested.registry.resolve("short@1")
    assert _begins(nested, live.recipe, floats, version)
    assert _begins(nested, long_integers, integers, version)
    assert not _begins(nested, live.recipe, integers, version)
    assert not _begins(nested, long_integers, floats, version)


def test_longer_rows_than_there_are_have_to_be_encoded(nested: DataDirectory) -> None:
    live = nested.catalog.live()
    assert live is not None
    longer = replace(live.recipe, dim=64, fingerprint="another")
    assert copy_source(nested, longer) is None
