from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.dense import DenseHit
from search.fusion import Fused, contributions, fuse
from search.recipe import FusionRecipe

Leg = list[DenseHit]
EVERYTHING = 100
PLAIN = FusionRecipe()


def leg_of(*doc_ids: str) -> Leg:
    """Best first, all scores different."""
    return [hit(doc_id, 1 - place / 1_000) for place, doc_id in enumerate(doc_ids)]


def hit(doc_id: str, score: float) -> DenseHit:
    return DenseHit(doc_id=doc_id, score=score, number=0, start=0, end=0, seq=1)


DOC_IDS = st.lists(st.sampled_from([f"d{number}" for number in range(20)]), unique=True)
LEGS = DOC_IDS.map(lambda doc_ids: leg_of(*doc_ids))
TIED_LEGS = st.dictionaries(
    st.sampled_from([f"d{number}" for number in range(20)]), st.sampled_from([0.1, 0.2, 0.3])
).map(lambda scores: [hit(*item) for item in sorted(scores.items(), key=lambda item: -item[1])])
WEIGHTS = st.floats(min_value=0.01, max_value=10)
RECIPES = st.builds(
    FusionRecipe,
    rrf_k=st.integers(min_value=0, max_value=100),
    lexical_weight=WEIGHTS,
    dense_weight=WEIGHTS,
)


def test_the_score_is_the_sum_of_weight_over_rrf_k_plus_rank() -> None:
    recipe = FusionRecipe(rrf_k=60, lexical_weight=2.0, dense_weight=0.5)
    fused = fuse(leg_of("a", "b"), leg_of("b", "c"), recipe, 10)
    assert fused == [
        Fused("b", 2.0 / 62 + 0.5 / 61, 2, 1),
        Fused("a", 2.0 / 61, 1, None),
        Fused("c", 0.5 / 62, None, 2),
    ]


def test_documents_of_one_score_stand_by_doc_id() -> None:
    fused = fuse(leg_of("z", "m"), leg_of("a", "n"), PLAIN, 10)
    assert [place.doc_id for place in fused] == ["a", "z", "m", "n"]


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES)
def test_neither_leg_comes_first(lexical: Leg, dense: Leg, recipe: FusionRecipe) -> None:
    swapped = FusionRecipe(
        rrf_k=recipe.rrf_k,
        lexical_weight=recipe.dense_weight,
        dense_weight=recipe.lexical_weight,
    )
    assert fuse(lexical, dense, recipe, EVERYTHING) == [
        Fused(doc_id, score, dense_rank, lexical_rank)
        for doc_id, score, lexical_rank, dense_rank in fuse(dense, lexical, swapped, EVERYTHING)
    ]


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES, data=st.data())
def test_a_better_rank_in_a_leg_never_costs_a_document_its_place(
    lexical: Leg, dense: Leg, recipe: FusionRecipe, data: st.DataObject
) -> None:
    if len(lexical) < 2:
        return
    at = data.draw(st.integers(min_value=1, max_value=len(lexical) - 1))
    doc_ids = [hit.doc_id for hit in lexical]
    doc_ids[at - 1], doc_ids[at] = doc_ids[at], doc_ids[at - 1]

    def place(leg: Leg) -> int:
        fused = fuse(leg, dense, recipe, EVERYTHING)
        return [item.doc_id for item in fused].index(lexical[at].doc_id)

    assert place(leg_of(*doc_ids)) <= place(lexical)


@given(lexical=TIED_LEGS, dense=TIED_LEGS, seed=st.integers())
def test_the_order_of_equal_scores_in_a_leg_does_not_matter(
    lexical: Leg, dense: Leg, seed: int
) -> None:
    def reordered(leg: Leg) -> Leg:
        return sorted(random.Random(seed).sample(leg, len(leg)), key=lambda hit: -hit.score)

    once = fuse(lexical, dense, PLAIN, EVERYTHING)
    assert fuse(reordered(lexical), reordered(dense), PLAIN, EVERYTHING) == once


@given(leg=LEGS, recipe=RECIPES)
def test_with_one_leg_empty_the_other_keeps_its_order(leg: Leg, recipe: FusionRecipe) -> None:
    doc_ids = [hit.doc_id for hit in leg]
    assert [place.doc_id for place in fuse(leg, [], recipe, EVERYTHING)] == doc_ids
    assert [place.doc_id for place in fuse([], leg, recipe, EVERYTHING)] == doc_ids


@given(lexical=LEGS, dense=LEGS, k=st.integers(min_value=1, max_value=30))
def test_k_cuts_the_ranking_and_changes_nothing_else(lexical: Leg, dense: Leg, k: int) -> None:
    assert fuse(lexical, dense, PLAIN, k) == fuse(lexical, dense, PLAIN, EVERYTHING)[:k]


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES)
def test_every_document_of_both_legs_is_there_once(
    lexical: Leg, dense: Leg, recipe: FusionRecipe
) -> None:
    fused = [place.doc_id for place in fuse(lexical, dense, recipe, EVERYTHING)]
    assert sorted(fused) == sorted({hit.doc_id for hit in [*lexical, *dense]})


def test_a_leg_of_weight_zero_has_no_say() -> None:
    fused = fuse(leg_of("a", "b"), leg_of("c", "b"), FusionRecipe(dense_weight=0.0), 10)
    assert fused == [Fused("a", 1 / 61, 1, None), Fused("b", 1 / 62, 2, 2)]


def test_two_empty_legs_give_nothing() -> None:
    assert fuse([], [], PLAIN, 10) == []


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES)
def test_what_the_legs_added_adds_up(lexical: Leg, dense: Leg, recipe: FusionRecipe) -> None:
    for place in fuse(lexical, dense, recipe, EVERYTHING):
        assert sum(contributions(place, recipe).values()) == pytest.approx(place.score)
