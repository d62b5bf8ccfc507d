"""What a user types, as functions: each is done again after a kill and then does what is left."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.build_process import build_of
from reindexer.cutover import cut_over
from reindexer.ingest import ingest
from reindexer.journal import BUILD_LEASE, SYNC_LEASE
from reindexer.prune import plan_prune, prune
from reindexer.recipes import generation_for
from reindexer.selftest.word_directory import WordDirectory
from reindexer.sources.opening import open_source
from reindexer.sync import sync_once

INGEST_BATCH = 50  # documents a transaction, so that there are several
SOURCE = "selftest"
TRAINING_EPOCHS = 4.0


def ingest_file(data: WordDirectory, path: str) -> None:
    """Everything in the file, and nothing that is not."""
    ingest(data.corpus, open_source(path, name=SOURCE), delete_missing=True, batch=INGEST_BATCH)


def register(data: WordDirectory, folder: str) -> None:
    data.registry.register(folder, name="static")


def build(data: WordDirectory, model: str) -> str:
    """A generation of this model, built as far as its gate; returns its name."""
    with data.journal.lease(BUILD_LEASE, wait_s=5.0) as lease:
        generation = generation_for(data, data.word_recipe(model))
        data.journal.start_run(build_of(data, generation))
        job = BuildJob(generation=generation.name, token=lease.token, settings={})
        run_to_its_end(data, BuildRun(data, job, apart_from=0), generation.name)
    return generation.name


def go_live(data: WordDirectory, generation: str) -> None:
    """Cut over to it, or roll back to it."""
    live, standby = data.catalog.live(), data.catalog.standby()
    if live is not None and live.name == generation:
        return
    is_back = standby is not None and standby.name == generation
    cut_over(data, generation, kind="rollback" if is_back else "cut_over")


def sync(data: WordDirectory, _argument: str = "") -> None:
    with data.journal.lease(SYNC_LEASE, wait_s=5.0) as lease:
        sync_once(data, lease)


def tidy(data: WordDirectory, _argument: str = "") -> None:
    prune(data, plan_prune(data))


def can_train() -> bool:
    """Whether what `pip install reindexer[train]` brings is there."""
    return all(importlib.util.find_spec(name) for name in ("accelerate", "datasets"))


def train(data: WordDirectory, pairs: str) -> None:
    """The newest static model, tuned on these pairs; torch takes seconds to import."""
    from training.finetune import fine_tune
    from training.outcome import TrainingTask
    from training.training_recipe import TrainingRecipe

    fine_tune(
        TrainingTask(
            recipe=TrainingRecipe(epochs=TRAINING_EPOCHS, batch_size=16, dtype="fp32"),
            pairs_file=pairs,
            base=data.registry.resolve("static"),
            name="tuned",
        ),
        registry=data.registry,
        work=data.path / "training",
        device="cpu",
        encoder_dtype="fp32",
        on_note=lambda _note: None,
    )


VERBS: Mapping[str, Callable[[WordDirectory, str], object]] = {
    "ingest": ingest_file,
    "register": register,
    "build": build,
    "go live": go_live,
    "sync": sync,
    "prune": tidy,
    "train": train,
}
