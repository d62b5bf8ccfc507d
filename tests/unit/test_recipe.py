from __future__ import annotations

import json
from dataclasses import replace

import pytest

from search.recipe import FittedOn, FusionRecipe, Recipe, SplitterRecipe

RECIPE = Recipe(
    model="support@4",
    fingerprint="f" * 64,
    dim=384,
    splitter=SplitterRecipe(max_tokens=256, overlap_tokens=32),
    filter_fields={"year": "number"},
)
FITTED = FusionRecipe(
    method="convex",
    lexical_weight=0.35,
    dense_weight=0.65,
    dense_span=0.28,
    depth=200,
    fitted=FittedOn(
        queries=120, judgments_sha256="a" * 64, at=1.5, ndcg_at_10=0.783, rrf_ndcg_at_10=0.718
    ),
)


@pytest.mark.parametrize("fusion", [FusionRecipe(), FITTED])
def test_a_recipe_comes_back_as_it_was_stored(fusion: FusionRecipe) -> None:
    recipe = replace(RECIPE, fusion=fusion)
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_a_recipe_of_before_fusions_were_fitted_still_opens() -> None:
    stored = json.loads(RECIPE.to_json())
    stored["fusion"] = {"rrf_k": 60, "lexical_weight": 1.0, "dense_weight": 1.0}
    assert Recipe.from_json(json.dumps(stored)) == RECIPE


@pytest.mark.parametrize(
    ("fusion", "words"),
    [
        (FusionRecipe(), "reciprocal rank fusion"),
        (FITTED, "0.35 BM25 + 0.65 dense, depth 200, fitted on 120 queries"),
        (FusionRecipe(method="convex", lexical_weight=0.0), "dense alone"),
        (FusionRecipe(method="convex", dense_weight=0.0), "BM25 alone"),
    ],
)
def test_a_fusion_in_words(fusion: FusionRecipe, words: str) -> None:
    assert fusion.in_words == words
