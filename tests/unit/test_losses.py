"""Losses, and the settings that choose among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses as upstream

from tests.tiny_models import WORD_LIST, Kind, make_tiny_model
from training.errors import RecipeInvalid
from training.less_padding import ForwardByLength
from training.losses import can_be_cached, exact_cosine, make_loss
from training.memory_plan import MemoryPlan
from training.training_recipe import TrainingRecipe, schedule

ANCHORS = ["the water is cold", "a dog and a cat", "money in the bank", "apple and corn"]
POSITIVES = ["cold rain in winter", "the cat is an animal", "the bank keeps money", "food"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    return SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "static", kind="static")
    return SentenceTransformer(str(folder), device="cpu")


def gradient(model: SentenceTransformer, loss: torch.nn.Module) -> torch.Tensor:
    """Of the token vectors, on the texts above."""
    model.eval()  # no dropout, so that two passes compute the same
    model.zero_grad()
    features: list[dict[str, Any]] = [model.preprocess(ANCHORS), model.preprocess(POSITIVES)]
    loss(features, torch.empty(0)).backward()
    table = next(model.parameters())
    assert table.grad is not None
    return table.grad.clone()


@pytest.mark.parametrize("dims", [(32,), (32, 16, 8)])
def test_the_cached_loss_has_the_gradient_of_the_plain_one(
    model: SentenceTransformer, dims: tuple[int, ...]
) -> None:
    plain = gradient(model, make_loss("mnrl", model, dims=dims))
    cached = gradient(model, make_loss("cached-mnrl", model, dims=dims, mini_batch_size=1))

    assert plain.abs().max() > 0
    torch.testing.assert_close(cached, plain, rtol=1e-3, atol=1e-5)


def test_shorter_vectors_change_what_is_learned(model: SentenceTransformer) -> None:
    whole = gradient(model, make_loss("mnrl", model, dims=(32,)))
    nested = gradient(model, make_loss("mnrl", model, dims=(32, 8)))

    assert not torch.allclose(whole, nested)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mnrl", upstream.MultipleNegativesRankingLoss),
        ("triplet", upstream.TripletLoss),
        ("cosent", upstream.CoSENTLoss),
        ("gist", upstream.GISTEmbedLoss),
    ],
)
def test_each_name_is_the_loss_it_says(
    model: SentenceTransformer, name: Any, kind: type[torch.nn.Module]
) -> None:
    guide = model if name == "gist" else None

    assert isinstance(make_loss(name, model, dims=(32,), guide=guide), kind)
    nested = make_loss(name, model, dims=(32, 16), guide=guide)
    assert isinstance(nested, upstream.MatryoshkaLoss)
    assert isinstance(nested.loss, kind)


def test_cosines_keep_their_digits_under_autocast() -> None:
    one, other = torch.randn(5, 64), torch.randn(7, 64)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = exact_cosine(one.bfloat16(), other.bfloat16())

    expected = torch.nn.functional.cosine_similarity(
        one.bfloat16().float()[:, None], other.bfloat16().float()[None], dim=2
    )
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
def test_a_batch_in_pieces_of_similar_length_has_the_same_rows(tmp_path: Path, kind: Kind) -> None:
    whole = SentenceTransformer(
        str(make_tiny_model(tmp_path / "m", kind=kind)), device="cpu"
    ).eval()
    words = WORD_LIST.split()
    texts = [" ".join(words[: 1 + 5 * at % 97]) for at in range(30)]
    expected = whole(whole.preprocess(texts))["sentence_embedding"]
    seen: list[tuple[int, ...]] = []
    forward = whole.forward

    def watched(features: Any) -> Any:
        seen.append(tuple(features["input_ids"].shape))
        return forward(features)

    found = ForwardByLength(watched)(whole.preprocess(texts))["sentence_embedding"]

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if kind != "last":  # padded on the left
        assert len(seen) == 4
        assert seen[-1][1] < seen[0][1] / 2


def test_a_loss_that_cannot_train_a_model_says_so(
    model: SentenceTransformer, static: SentenceTransformer
) -> None:
    with pytest.raises(RecipeInvalid, match="Try --loss mnrl"):
        make_loss("gist", static, dims=(32,), guide=model)
    assert not can_be_cached("mnrl", is_static=True)


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "arcface"}, "expected mnrl, cached-mnrl"),
        ({"batch_size": 1}, "2 or more"),
        ({"epochs": 0}, "above 0"),
        ({"learning_rate": float("nan")}, "such as 5e-5"),
        ({"loss": "gist"}, "--guide"),
        ({"guide": "base"}, "--guide is for --loss gist"),
        ({"loss": "cosent", "negatives": "dense"}, "scored pairs"),
        ({"negatives": "random"}, "same-document"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeInvalid, match=message):
        TrainingRecipe(**settings)


def test_dimensions_come_from_the_model_or_as_given() -> None:
    assert TrainingRecipe().dims(384) == (384,)
    assert TrainingRecipe(matryoshka="auto").dims(384) == (384, 256, 128, 64)
    assert TrainingRecipe(matryoshka=(64, 256)).dims(384) == (384, 256, 64)
    assert TrainingRecipe().dims(384, truncate_dim=128) == (384, 128), "what the base is cut to"
    with pytest.raises(RecipeInvalid, match="from 1 to 384"):
        TrainingRecipe(matryoshka=(512,)).dims(384)


@pytest.mark.parametrize(
    ("pairs", "epochs"),
    [(50, 4), (827, 3), (1_686, 3), (2_000, 2), (5_700, 2), (10_000, 1), (10**6, 1)],
)
def test_small_sets_are_gone_over_more_often(pairs: int, epochs: int) -> None:
    assert schedule(TrainingRecipe(), pairs, width=384).epochs == epochs


@pytest.mark.parametrize(("n_negatives", "epochs"), [(0, 9), (1, 6)])
def test_a_table_of_token_vectors_makes_about_so_many_steps(n_negatives: int, epochs: int) -> None:
    found = schedule(TrainingRecipe(), 1_000, width=None, n_negatives=n_negatives)

    assert (found.batch_size, found.epochs) == (125, epochs)


@pytest.mark.parametrize(
    ("width", "learning_rate"),
    [(32, 1e-4), (384, 1e-4), (512, 7.5e-5), (768, 5e-5), (4_096, 9.375e-6)],
)
def test_narrow_transformers_take_larger_steps(width: int, learning_rate: float) -> None:
    found = schedule(TrainingRecipe(), 1_000, width=width)

    assert found.learning_rate == pytest.approx(learning_rate)
    adapted = schedule(TrainingRecipe(lora=True), 1_000, width=width)
    assert adapted.learning_rate == pytest.approx(3e-4)


def test_negatives_take_the_place_of_steps() -> None:
    found = schedule(TrainingRecipe(), 827, width=384, n_negatives=1)

    assert found.epochs == 2


def test_what_is_asked_for_is_kept() -> None:
    recipe = TrainingRecipe(epochs=0.5, batch_size=64, learning_rate=1e-4)

    found = schedule(recipe, 6_400, width=None, processes=2)

    assert (found.epochs, found.batch_size, found.learning_rate) == (0.5, 64, 1e-4)
    assert found.steps == 25


def test_memory_is_saved_step_by_step_until_nothing_is_left() -> None:
    plan: MemoryPlan | None = MemoryPlan()
    sizes = []
    while plan is not None:
        sizes.append((plan.mini_batch_size, plan.gradient_checkpointing))
        plan = plan.smaller(16, can_be_cached=True, mini=32)

    assert sizes == [(None, False), (8, False), (4, False), (2, False), (1, False), (1, True)]


def test_a_plan_is_gone_on_with(tmp_path: Path) -> None:
    plan = MemoryPlan().smaller(16, can_be_cached=False, mini=32)
    assert plan is not None
    plan.write(tmp_path / "memory.json")

    assert MemoryPlan.read(tmp_path / "memory.json", TrainingRecipe(), can_be_cached=False) == plan
