from __future__ import annotations

import random
from dataclasses import replace

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
    method=st.sampled_from(["rrf", "convex"]),
    rrf_k=st.integers(min_value=0, max_value=100),
    dense_span=st.floats(min_value=0.01, max_value=2),
    lexical_weight=WEIGHTS,
    dense_weight=WEIGHTS,
)


def convex(lexical_weight: float, *, dense_span: float = 0.5) -> FusionRecipe:
    return FusionRecipe(
        method="convex",
        lexical_weight=lexical_weight,
        dense_weight=1 - lexical_weight,
        dense_span=dense_span,
    )


def fused_by(
    lexical: Leg, dense: Leg, recipe: FusionRecipe, k: int, *, depth: int = EVERYTHING
) -> list[Fused]:
    return fuse(lexical, dense, recipe, k, depth=depth)


def test_the_score_is_the_sum_of_weight_over_rrf_k_plus_rank() -> None:
    recipe = FusionRecipe(rrf_k=60, lexical_weight=2.0, dense_weight=0.5)
    fused = fused_by(leg_of("a", "b"), leg_of("b", "c"), recipe, 10)
    assert fused == [
        Fused("b", 2.0 / 62 + 0.5 / 61, 2, 1),
        Fused("a", 2.0 / 61, 1, None),
        Fused("c", 0.5 / 62, None, 2),
    ]


def test_documents_of_one_score_stand_by_doc_id() -> None:
    fused = fused_by(leg_of("z", "m"), leg_of("a", "n"), PLAIN, 10)
    assert [place.doc_id for place in fused] == ["a", "z", "m", "n"]


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES)
def test_neither_leg_comes_first(lexical: Leg, dense: Leg, recipe: FusionRecipe) -> None:
    recipe = replace(recipe, method="rrf")
    swapped = FusionRecipe(
        rrf_k=recipe.rrf_k,
        lexical_weight=recipe.dense_weight,
        dense_weight=recipe.lexical_weight,
    )
    assert fused_by(lexical, dense, recipe, EVERYTHING) == [
        Fused(doc_id, score, dense_rank, lexical_rank)
        for doc_id, score, lexical_rank, dense_rank in fused_by(dense, lexical, swapped, EVERYTHING)
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
        fused = fused_by(leg, dense, recipe, EVERYTHING)
        return [item.doc_id for item in fused].index(lexical[at].doc_id)

    assert place(leg_of(*doc_ids)) <= place(lexical)


@given(lexical=TIED_LEGS, dense=TIED_LEGS, seed=st.integers())
def test_the_order_of_equal_scores_in_a_leg_does_not_matter(
    lexical: Leg, dense: Leg, seed: int
) -> None:
    def reordered(leg: Leg) -> Leg:
        return sorted(random.Random(seed).sample(leg, len(leg)), key=lambda hit: -hit.score)

    once = fused_by(lexical, dense, PLAIN, EVERYTHING)
    assert fused_by(reordered(lexical), reordered(dense), PLAIN, EVERYTHING) == once


@given(leg=LEGS, recipe=RECIPES)
def test_with_one_leg_empty_the_other_keeps_its_order(leg: Leg, recipe: FusionRecipe) -> None:
    doc_ids = [hit.doc_id for hit in leg]
    assert [place.doc_id for place in fused_by(leg, [], recipe, EVERYTHING)] == doc_ids
    assert [place.doc_id for place in fused_by([], leg, recipe, EVERYTHING)] == doc_ids


@given(lexical=LEGS, dense=LEGS, k=st.integers(min_value=1, max_value=30))
def test_k_cuts_the_ranking_and_changes_nothing_else(lexical: Leg, dense: Leg, k: int) -> None:
    assert fused_by(lexical, dense, PLAIN, k) == fused_by(lexical, dense, PLAIN, EVERYTHING)[:k]


@given(lexical=LEGS, dense=LEGS, recipe=RECIPES)
def test_every_document_of_both_legs_is_there_once(
    lexical: Leg, dense: Leg, recipe: FusionRecipe
) -> None:
    fused = [place.doc_id for place in fused_by(lexical, dense, recipe, EVERYTHING)]
    assert sorted(fused) == sorted({hit.doc_id for hit in [*lexical, *dense]})


def test_a_leg_of_weight_zero_has_no_say() -> None:
    fused = fused_by(leg_of("a", "b"), leg_of("c", "b"), FusionRecipe(dense_weight=0.0), 10)
    assert fused == [Fused("a", 1 / 61, 1, None), Fused("b", 1 / 62, 2, 2)]


def test_two_empty_legs_give_nothing() -> None:
    assert fused_by([], [], PLAIN, 10) == []


@given(lexical=TIED_LEGS, dense=TIED_LEGS, recipe=RECIPES, depth=st.integers(1, 40))
def test_what_the_legs_added_adds_up(
    lexical: Leg, dense: Leg, recipe: FusionRecipe, depth: int
) -> None:
    fused = fused_by(lexical, dense, recipe, EVERYTHING, depth=depth)
    doc_ids = [place.doc_id for place in fused]
    added = contributions(lexical, dense, recipe, doc_ids, depth=depth)
    for place in fused:
        assert sum(added[place.doc_id].values()) == pytest.approx(place.score)


# -- the weighted mean of scores -------------------------------------------------------------------

LEXICAL = [hit("a", 8.0), hit("b", 6.0), hit("c", 2.0)]
DENSE = [hit("b", 0.9), hit("d", 0.8), hit("a", 0.7)]


def test_scores_count_from_the_last_document_of_their_leg() -> None:
    fused = fused_by(LEXICAL, DENSE, convex(0.25), 10, depth=3)
    assert [place.doc_id for place in fused] == ["b", "a", "d", "c"]
    scores = {place.doc_id: place.score for place in fused}
    assert scores == pytest.approx(
        {
            "b": 0.25 * (6 - 2) / 8 + 0.75 * (0.9 - 0.7) / 0.5,
            "a": 0.25 * (8 - 2) / 8,
            "d": 0.75 * (0.8 - 0.7) / 0.5,
            "c": 0.0,
        }
    )


def test_bm25_counts_from_0_when_the_leg_has_given_all_it_has() -> None:
    """The only document that has the query's rare word must not lose its score for being last."""
    (only,) = fused_by([hit("code", 5.0)], [], convex(0.25), 10, depth=3)
    assert only.score == 0.25
    fused = fused_by([hit("code", 5.0)], DENSE, convex(0.5), 10, depth=3)
    assert fused[0].doc_id == "code"


@given(lexical=TIED_LEGS, dense=TIED_LEGS, depth=st.integers(1, 40), lexical_weight=st.floats(0, 1))
def test_what_scale_a_models_cosines_have_does_not_matter(
    lexical: Leg, dense: Leg, depth: int, lexical_weight: float
) -> None:
    """Some models give everything a cosine above 0.7: the same ranking in a narrow band."""
    narrow = [hit(item.doc_id, 0.75 + item.score / 4) for item in dense]
    once = fused_by(lexical, dense, convex(lexical_weight, dense_span=0.5), 50, depth=depth)
    again = fused_by(lexical, narrow, convex(lexical_weight, dense_span=0.125), 50, depth=depth)
    scores = {place.doc_id: place.score for place in once}
    assert {place.doc_id: place.score for place in again} == pytest.approx(scores)


@given(lexical=LEGS, dense=LEGS, depth=st.integers(1, 40))
def test_a_weight_of_1_is_that_leg_alone(lexical: Leg, dense: Leg, depth: int) -> None:
    for weight, leg in ((1.0, lexical or dense), (0.0, dense or lexical)):
        fused = fused_by(lexical, dense, convex(weight), EVERYTHING, depth=depth)
        assert [place.doc_id for place in fused] == [item.doc_id for item in leg]


def test_a_leg_without_a_say_answers_when_the_other_has_nothing() -> None:
    for recipe in (convex(0.0), FusionRecipe(lexical_weight=0.0)):
        assert [place.doc_id for place in fused_by(LEXICAL, [], recipe, 10)] == ["a", "b", "c"]
    for recipe in (convex(1.0), FusionRecipe(dense_weight=0.0)):
        assert [place.doc_id for place in fused_by([], DENSE, recipe, 10)] == ["b", "d", "a"]
