"""A trained version: what it keeps of its base, what proves it, and what a kill does not change."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.judged_world import JudgedWorld, make_judged_world
from tests.tiny_models import Kind, make_tiny_model
from training.dev_scores import DevScores
from training.encoder import Encoder
from training.errors import PairsInvalid, QueriesOverlap, TrainingBusy, TrainingFailed
from training.finetune import fine_tune
from training.metrics import PerQuery
from training.model_version import ModelVersion
from training.outcome import TrainingOutcome, TrainingTask
from training.registry import ModelRegistry
from training.training_recipe import TrainingRecipe
from training.training_run import open_run

QUICK = TrainingRecipe(epochs=1, batch_size=16, dtype="fp32")
# A table of token vectors learns within seconds what a transformer would need minutes for.
LEARNS = TrainingRecipe(epochs=25, batch_size=32, learning_rate=0.1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> JudgedWorld:
    return make_judged_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> JudgedWorld:
    """A few steps an epoch: for what does not depend on what is learned."""
    return make_judged_world(tmp_path_factory.mktemp("little"), documents=100, tested=20)


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models wait for each other's threads more than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def a_base(registry: ModelRegistry, kind: Kind = "mean", **settings: Any) -> ModelVersion:
    folder = registry.root.parent / f"base-{kind}"
    return registry.register(make_tiny_model(folder, kind=kind, **settings), name="base")


def train(
    registry: ModelRegistry,
    world: JudgedWorld,
    base: ModelVersion,
    recipe: TrainingRecipe = QUICK,
    **more: Any,
) -> TrainingOutcome:
    options = {
        key: more.pop(key)
        for key in ("fresh", "cache_dir", "on_progress", "on_note")
        if key in more
    }
    task = TrainingTask(
        **{
            "recipe": recipe,
            "pairs_file": world.pairs,
            "base": base,
            "name": "tuned",
            "evaluation": None,  # measuring and its report take longer than training here
            "command": "reindexer train ...",
            **more,
        }
    )
    outcome = fine_tune(
        task, registry=registry, work=registry.root.parent / "work", device="cpu",
        encoder_dtype="fp32", **options,
    )  # fmt: skip
    assert outcome is not None
    return outcome


# -- what is trained ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean", "cls", "last", "static"])
def test_every_kind_of_model_trains_and_keeps_what_it_was(
    registry: ModelRegistry, little: JudgedWorld, kind: Kind
) -> None:
    base = a_base(registry, kind, query_prompt="query: ", document_prompt="text: ")

    outcome = train(registry, little, base)

    tuned = outcome.version
    assert str(tuned) == "tuned@1"
    assert (tuned.pooling, tuned.dim, tuned.max_tokens) == (base.pooling, base.dim, base.max_tokens)
    assert (tuned.query_prompt, tuned.document_prompt) == ("query: ", "text: ")
    assert tuned.fingerprint != base.fingerprint
    vectors = Encoder(tuned, device="cpu", dtype="fp32").encode_queries(["the water is cold"])
    assert np.isfinite(vectors).all()
    assert not np.allclose(vectors, Encoder(base, device="cpu", dtype="fp32").encode_queries(
        ["the water is cold"]
    ))  # fmt: skip


def test_prompts_take_part_in_training(registry: ModelRegistry, little: JudgedWorld) -> None:
    folder = make_tiny_model(registry.root.parent / "base")
    weights = set()
    for at, prompts in enumerate(({}, {"query_prompt": "search "}, {"document_prompt": "text "})):
        base = registry.register(folder, name=f"base-{at}", **prompts)
        tuned = train(registry, little, base, name=f"tuned-{at}").version
        weights.add(tuned.files["model.safetensors"].sha256)

    assert len(weights) == 3


def test_a_version_that_learned_passes_its_gate(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    outcome = train(registry, world, a_base(registry, "static"), LEARNS, evaluation=world.judged)

    gain = outcome.metrics["difference"]["ndcg@10"]
    assert gain["mean"] > 0.2
    assert gain["low"] > 0
    assert outcome.gate.verdict == "passed"
    lineage = registry.resolve("tuned@1").lineage
    assert lineage["gate"] == "passed"
    assert (lineage["base"], lineage["pairs"]) == ("base@1", outcome.pairs)
    assert lineage["settings"]["learning_rate"] == 0.1
    assert registry.resolve("tuned@1").metrics == outcome.metrics


def test_a_version_that_is_not_clearly_better_is_registered_as_refused(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    outcome = train(registry, world, a_base(registry, "static"), evaluation=world.judged)

    assert outcome.gate.verdict == "refused"
    assert "0.02 was asked for" in outcome.gate.reason
    assert outcome.advice[0].startswith("look at the pairs")
    assert registry.resolve("tuned").lineage["gate"] == "refused"


def test_a_version_that_got_worse_says_what_to_try(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    base = train(registry, world, a_base(registry, "static"), LEARNS).version
    spoilt = dataclasses.replace(LEARNS, learning_rate=50.0, epochs=2)

    outcome = train(registry, world, base, spoilt, name="spoilt", evaluation=world.judged)

    assert outcome.metrics["difference"]["ndcg@10"]["mean"] < 0
    advice = " ".join(outcome.advice)
    assert "pairs audit" in advice
    assert "--epochs 1" in advice
    assert "--learning-rate" in advice


def test_without_judged_queries_nobody_knows_whether_it_is_better(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    outcome = train(registry, world, a_base(registry, "static"))

    assert outcome.metrics == {}
    assert outcome.gate.verdict == "refused"
    assert "nobody measured it" in outcome.gate.reason

    measured = train(registry, world, outcome.base, evaluation=world.judged)

    assert str(measured.version) == "tuned@2", "what was said about a version does not change"


def test_shorter_vectors_are_trained_and_measured_too(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    recipe = dataclasses.replace(LEARNS, matryoshka=(16, 8))

    outcome = train(registry, world, a_base(registry, "static"), recipe, evaluation=world.judged)

    assert list(outcome.metrics["dims"]) == ["32", "16", "8"]
    assert outcome.version.lineage["settings"]["matryoshka"] == [32, 16, 8]


def test_an_adapter_is_merged_before_it_is_registered(
    registry: ModelRegistry, little: JudgedWorld
) -> None:
    base = a_base(registry)

    tuned = train(registry, little, base, dataclasses.replace(QUICK, lora=True)).version

    before, after = (load_file(version.path / "model.safetensors") for version in (base, tuned))
    assert after.keys() == before.keys(), "the layers of the base, and no others"
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embeddings" in name or "LayerNorm" in name for name in changed)
    assert tuned.fingerprint != base.fingerprint


@pytest.mark.parametrize(
    "recipe",
    [
        TrainingRecipe(loss="triplet", negatives="both", epochs=1, batch_size=16, dtype="fp32"),
        TrainingRecipe(loss="cached-mnrl", mini_batch_size=4, epochs=1, batch_size=32,
                       dtype="fp32", gradient_checkpointing=True, matryoshka="auto"),
        TrainingRecipe(loss="gist", guide="base", negatives="dense", epochs=1, batch_size=16,
                       dtype="fp32"),
    ],
    ids=lambda recipe: recipe.loss,
)  # fmt: skip
def test_other_losses_train(
    registry: ModelRegistry, little: JudgedWorld, recipe: TrainingRecipe
) -> None:
    base = a_base(registry)

    outcome = train(registry, little, base, recipe, guide=base if recipe.guide else None)

    assert outcome.steps > 0
    assert outcome.version.lineage["settings"]["loss"] == recipe.loss


def test_scored_pairs_train_with_cosent(
    registry: ModelRegistry, world: JudgedWorld, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in world.pairs.read_text().splitlines()]
    scored = tmp_path / "scored.jsonl"
    scored.write_text(
        "".join(json.dumps({**row, "score": at % 3 / 2}) + "\n" for at, row in enumerate(rows))
    )

    outcome = train(registry, world, a_base(registry), dataclasses.replace(QUICK, loss="cosent"),
                    pairs_file=scored)  # fmt: skip

    assert outcome.steps > 0


# -- what proves it -------------------------------------------------------------------------------


def test_pairs_that_ask_what_the_evaluation_asks_are_dropped_and_named(
    registry: ModelRegistry, world: JudgedWorld, tmp_path: Path
) -> None:
    asked = json.loads(world.judged.joinpath("queries.jsonl").read_text().splitlines()[-1])["text"]
    leaking = tmp_path / "leaking.jsonl"
    leaking.write_text(
        world.pairs.read_text() + json.dumps({"anchor": f" {asked.upper()}", "positive": "x y z"})
    )
    notes: list[str] = []
    base = a_base(registry, "static")

    outcome = train(registry, world, base, pairs_file=leaking, evaluation=world.judged,
                    on_note=notes.append)  # fmt: skip

    assert outcome.dropped_queries == [f" {asked.upper()}"]
    assert asked.upper() in notes[0]
    with pytest.raises(QueriesOverlap, match="leave out --strict"):
        train(registry, world, base, pairs_file=leaking, evaluation=world.judged, strict=True)


def test_training_is_watched_with_held_out_pairs_and_never_with_the_test_split(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    outcome = train(registry, world, a_base(registry, "static"))

    assert outcome.facts["watched_with"] == "24 queries held out from the pairs"
    assert outcome.pairs == 240 - outcome.facts["held_out_pairs"]


def test_the_folder_s_own_dev_split_is_watched_where_there_is_one(
    registry: ModelRegistry, world: JudgedWorld, tmp_path: Path
) -> None:
    judged = tmp_path / "judged"
    judged.mkdir()
    for path in world.judged.rglob("*.*"):
        target = judged / path.relative_to(world.judged)
        target.parent.mkdir(exist_ok=True)
        target.write_text(path.read_text())
    lines = (judged / "qrels" / "test.tsv").read_text().splitlines()
    (judged / "qrels" / "dev.tsv").write_text("\n".join([lines[0], *lines[1:31]]) + "\n")
    (judged / "qrels" / "test.tsv").write_text("\n".join([lines[0], *lines[31:]]) + "\n")

    outcome = train(registry, world, a_base(registry, "static"), evaluation=judged)

    assert outcome.facts["watched_with"] == "the dev split, 30 queries"
    assert outcome.pairs == 240


def test_training_stops_when_it_does_not_get_better(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    stuck = dataclasses.replace(QUICK, learning_rate=1e-12, epochs=30, patience=2)

    outcome = train(registry, world, a_base(registry, "static"), stuck)

    assert outcome.stopped_early
    assert outcome.epochs < 10


def test_the_last_weights_are_kept_unless_earlier_ones_were_clearly_better(
    registry: ModelRegistry, world: JudgedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    three_epochs = dataclasses.replace(QUICK, epochs=3)
    base = a_base(registry, "static")
    last = train(registry, world, base, three_epochs)
    add = DevScores.add

    def falling(scores: DevScores, step: int, per_query: PerQuery) -> None:
        add(scores, step, per_query - step / 100)

    monkeypatch.setattr(DevScores, "add", falling)
    first = train(registry, world, base, three_epochs, name="fell")

    steps = [kept.version.lineage["settings"]["best_step"] for kept in (first, last)]
    assert (first.steps, last.steps, steps) == (42, 42, [14, 42])
    assert first.version.fingerprint != last.version.fingerprint


def test_the_report_lies_beside_the_weights_and_does_not_change_what_they_are(
    registry: ModelRegistry, world: JudgedWorld
) -> None:
    outcome = train(registry, world, a_base(registry, "static"), evaluation=world.judged)

    version = registry.verify("tuned@1")
    assert outcome.report == version.path / "report.html"
    assert {"report.html", "report.md", "README.md"} <= version.files.keys()
    assert "tuned@1" in (version.path / "report.md").read_text()
    without = train(registry, world, outcome.base, name="unmeasured")
    assert "report.html" not in without.version.files
    same = registry.register(version.path, name="copy", query_prompt="", document_prompt="")
    assert same.fingerprint == version.fingerprint


# -- what can go wrong ----------------------------------------------------------------------------


def test_the_base_is_measured_once_for_all_its_trainings_while_the_judgments_stay(
    registry: ModelRegistry, little: JudgedWorld, tmp_path: Path
) -> None:
    base = a_base(registry, "static")
    judged = tmp_path / "judged"
    shutil.copytree(little.judged, judged)
    stages: list[str] = []

    def measured(seed: int) -> tuple[float, bool]:
        stages.clear()
        outcome = train(
            registry, little, base, dataclasses.replace(QUICK, seed=seed), evaluation=judged,
            cache_dir=tmp_path / "cache", on_progress=lambda stage, *_: stages.append(stage),
        )  # fmt: skip
        return outcome.metrics["base"]["ndcg@10"], "evaluate the base" in stages

    first, again = measured(1), measured(2)
    qrels = judged / "qrels" / "test.tsv"
    qrels.write_text("\n".join(qrels.read_text().splitlines()[:-5]) + "\n")
    with_fewer_judgments = measured(3)

    assert first[1]
    assert again == (first[0], False)
    assert with_fewer_judgments[1]


def test_a_seed_gives_the_same_version(registry: ModelRegistry, little: JudgedWorld) -> None:
    base = a_base(registry)

    first, again, other = (
        train(registry, little, base, dataclasses.replace(QUICK, seed=seed), name=name)
        for name, seed in (("one", 1), ("two", 1), ("three", 2))
    )

    assert first.version.fingerprint == again.version.fingerprint
    assert first.version.fingerprint != other.version.fingerprint


def test_a_training_that_broke_off_goes_on_and_comes_to_the_same_version(
    registry: ModelRegistry, little: JudgedWorld
) -> None:
    base = a_base(registry)
    recipe = dataclasses.replace(QUICK, epochs=3)
    whole = train(registry, little, base, recipe, name="tuned")
    seen: list[int | None] = []

    def break_off(stage: str, done: int | None, _total: int | None, _text: str) -> None:
        if stage == "train" and done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(registry, little, base, recipe, on_progress=break_off)
    resumed = train(
        registry, little, base, recipe,
        on_progress=lambda stage, done, _total, _text: (
            seen.append(done) if stage == "train" else None
        ),
    )  # fmt: skip

    assert min(step for step in seen if step is not None) > 1, "it began again"
    assert resumed.version.fingerprint == whole.version.fingerprint
    assert not list((registry.root.parent / "work").glob("[0-9a-f]*")), "a finished run is cleaned"


def test_fresh_begins_again(registry: ModelRegistry, world: JudgedWorld) -> None:
    base = a_base(registry)
    recipe = dataclasses.replace(QUICK, epochs=3)
    steps: list[int | None] = []

    def break_off(stage: str, done: int | None, _total: int | None, _text: str) -> None:
        if stage == "train" and done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(registry, world, base, recipe, on_progress=break_off)
    train(
        registry, world, base, recipe, fresh=True,
        on_progress=lambda stage, done, _total, _text: (
            steps.append(done) if stage == "train" else None
        ),
    )  # fmt: skip

    assert steps[0] == 0


def test_the_same_training_runs_once_at_a_time(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, {"a": 1}, fresh=False),
        pytest.raises(TrainingBusy, match="another process"),
        open_run(tmp_path, {"a": 1}, fresh=False),
    ):
        pass


class LittleMemory:
    """A model's forward pass that takes so many texts and no more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, texts: int) -> None:
        from sentence_transformers import SentenceTransformer

        forward = SentenceTransformer.forward

        def limited(model: Any, features: Any, **options: Any) -> Any:
            if torch.is_grad_enabled() and model.training and len(features["input_ids"]) > texts:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
            return forward(model, features, **options)

        monkeypatch.setattr(SentenceTransformer, "forward", limited)


def test_out_of_memory_goes_on_with_smaller_pieces_and_says_so(
    registry: ModelRegistry, little: JudgedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = a_base(registry)
    LittleMemory(monkeypatch, texts=4)
    notes: list[str] = []

    outcome = train(registry, little, base, on_note=notes.append)

    said = [note for note in notes if "out of memory" in note]
    assert said == [
        "out of memory on cpu; going on with the cached loss with 8 of 16 pairs at a time, which "
        "gives the same gradient",
        "out of memory on cpu; going on with the cached loss with 4 of 16 pairs at a time, which "
        "gives the same gradient",
    ]
    assert len(outcome.version.lineage["settings"]["for_want_of_memory"]) == 2


def test_a_loss_without_a_cached_form_takes_smaller_batches(
    registry: ModelRegistry, world: JudgedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = a_base(registry)
    LittleMemory(monkeypatch, texts=8)
    notes: list[str] = []
    recipe = dataclasses.replace(QUICK, loss="triplet", negatives="bm25")

    outcome = train(registry, world, base, recipe, on_note=notes.append)

    assert any("2 batches of 8 pairs a step" in note for note in notes)
    assert outcome.steps > 0


def test_what_does_not_fit_at_all_says_what_to_do(
    registry: ModelRegistry, little: JudgedWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = a_base(registry)
    LittleMemory(monkeypatch, texts=0)

    with pytest.raises(TrainingFailed, match=r"--max-tokens 128.*--lora"):
        train(registry, little, base)


def test_wrong_columns_show_the_rename_to_make(
    registry: ModelRegistry, world: JudgedWorld, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "a b", "passage_text": "c d"}\n')

    with pytest.raises(PairsInvalid, match="anchor"):
        train(registry, world, a_base(registry, "static"), pairs_file=wrong)
