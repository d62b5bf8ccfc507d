"""What is fitted to few judged queries has to hold for all the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from search.fusion import PLAIN_RRF
from search.fusion_fit import DEPTHS, FIT_DEPTH, FusionFit, Legs, ScoredDocument, fit_fusion
from search.recipe import FusionRecipe

N_DOCUMENTS = 60
ANSWER = "answer"

Queries = Mapping[str, Legs]


def leg_of(scores: Mapping[str, float]) -> list[ScoredDocument]:
    hits = [ScoredDocument(doc_id, score) for doc_id, score in scores.items()]
    return sorted(hits, key=lambda hit: (-hit.score, hit.doc_id))


def queries_of(
    n: int, *, lexical: float, dense: float, seed: int = 0, band: float = 1.0
) -> Queries:
    """Each query has one answer among N_DOCUMENTS; a leg's strength is by how many standard
    deviations it prefers the answer. band: how wide the cosines lie."""
    rng = np.random.default_rng(seed)
    doc_ids = [ANSWER] + [f"d{number:02}" for number in range(1, N_DOCUMENTS)]
    found: dict[str, Legs] = {}
    for number in range(n):
        words, meaning = rng.standard_normal((2, N_DOCUMENTS))
        words[0] += lexical
        meaning[0] += dense
        found[f"q{number:04}"] = Legs(
            leg_of(dict(zip(doc_ids, (np.exp(words / 2) * 4).tolist(), strict=True))),
            leg_of(dict(zip(doc_ids, (0.5 + band * meaning / 10).tolist(), strict=True))),
        )
    return found


def fit(queries: Queries) -> FusionFit:
    return fit_fusion(queries, {query_id: {ANSWER: 1} for query_id in queries})


def gains(recipe: FusionRecipe, queries: Queries) -> dict[str, float]:
    """nDCG@10 of a recipe on these queries, minus that of each leg and of RRF."""
    from search.fusion import fuse

    def ndcg(candidate: FusionRecipe) -> float:
        total = 0.0
        for both in queries.values():
            fused = fuse(*both, candidate, 10, depth=candidate.depth)
            ranks = [rank for rank, place in enumerate(fused, 1) if place.doc_id == ANSWER]
            total += float(1 / np.log2(ranks[0] + 1)) if ranks else 0.0
        return total / len(queries)

    own = ndcg(recipe)
    return {
        "lexical": own - ndcg(FusionRecipe(dense_weight=0.0)),
        "dense": own - ndcg(FusionRecipe(lexical_weight=0.0)),
        "rrf": own - ndcg(PLAIN_RRF),
    }


STRENGTHS = [(2.0, 2.0), (1.0, 3.0), (3.0, 1.0), (0.0, 3.5), (3.5, 0.0), (0.5, 4.0)]


@pytest.mark.parametrize(("lexical", "dense"), STRENGTHS)
def test_fifty_queries_are_enough_not_to_fall_behind_the_better_leg(
    lexical: float, dense: float
) -> None:
    others = queries_of(300, lexical=lexical, dense=dense, seed=99)
    found = []
    for seed in range(3):
        recipe = fit(queries_of(50, lexical=lexical, dense=dense, seed=seed)).recipe
        gained = gains(recipe, others)
        found.append(min(gained["lexical"], gained["dense"]))
    assert np.mean(found) >= -0.002


def test_where_one_leg_is_weak_the_fit_beats_rank_fusion() -> None:
    recipe = fit(queries_of(50, lexical=1.0, dense=3.0)).recipe
    assert recipe.method == "convex"
    assert recipe.dense_weight > 0.5
    gained = gains(recipe, queries_of(600, lexical=1.0, dense=3.0, seed=99))
    assert gained["rrf"] > 0.05
    assert gained["dense"] > 0.01


def test_a_leg_that_only_makes_noise_loses_its_say() -> None:
    found = fit(queries_of(120, lexical=0.0, dense=3.0))
    assert found.recipe.dense_weight >= 0.9
    assert found.best_leg == "dense"
    found = fit(queries_of(120, lexical=3.0, dense=0.0))
    assert found.recipe.lexical_weight >= 0.9
    assert found.best_leg == "lexical"


def test_a_model_with_all_its_cosines_close_together_gets_the_same_weight() -> None:
    wide = fit(queries_of(80, lexical=2.0, dense=2.0)).recipe
    narrow = fit(queries_of(80, lexical=2.0, dense=2.0, band=0.1)).recipe
    assert narrow.dense_weight == wide.dense_weight
    assert narrow.dense_span == pytest.approx(wide.dense_span / 10)


def test_rank_fusion_stays_where_scores_mislead() -> None:
    """Each leg is sure of a wrong document; the answer is second in both."""
    queries = {}
    for number in range(60):
        fillers = {f"d{at}": 0.1 - at / 1_000 for at in range(20)}
        queries[f"q{number}"] = Legs(
            leg_of({f"wrong-{number}": 9.0, ANSWER: 0.2, **fillers}),
            leg_of({f"false-{number}": 0.9, ANSWER: 0.12, **fillers}),
        )
    found = fit(queries)
    assert found.recipe == PLAIN_RRF
    assert found.chosen == "rrf"
    assert found.gain_over("rrf").mean == 0


def test_the_legs_are_asked_for_more_documents_only_where_that_surely_helps() -> None:
    assert fit(queries_of(60, lexical=2.0, dense=2.0)).recipe.depth == DEPTHS[0]

    # The answer is well placed in both legs, and beyond the first 100 documents of both.
    words = {f"w{at}": 0.5 - at / 4_000 for at in range(150)}
    meaning = {f"m{at}": 0.5 - min(at, 99) / 990 for at in range(150)}
    legs = Legs(leg_of({**words, ANSWER: 0.45}), leg_of({**meaning, ANSWER: 0.399, "last": 0.3}))
    queries = {f"q{number}": legs for number in range(60)}
    assert fit(queries).recipe.depth == FIT_DEPTH


def test_what_is_reported_was_measured_on_queries_that_were_left_out() -> None:
    """The validated figure is below the best one that knows the queries, and near the true one."""
    true, validated, known = [], [], []
    others = queries_of(400, lexical=1.5, dense=1.5, seed=99)
    for seed in range(4):
        found = fit(queries_of(50, lexical=1.5, dense=1.5, seed=seed))
        validated.append(found.gain_over("rrf").mean)
        known.append(max(found.by_dense_weight.values()) - found.means()["rrf"])
        true.append(gains(found.recipe, others)["rrf"])
    assert np.mean(validated) < np.mean(known)
    assert abs(np.mean(validated) - np.mean(true)) < 0.03


def test_the_same_queries_give_the_same_fit() -> None:
    queries = queries_of(60, lexical=1.0, dense=2.0)
    backwards = dict(reversed(queries.items()))
    assert fit(queries).recipe == fit(backwards).recipe
    assert fit(queries).query_ids == tuple(sorted(queries))


def test_queries_without_a_relevant_document_say_nothing() -> None:
    queries = queries_of(60, lexical=1.0, dense=2.0)
    qrels = {query_id: {ANSWER: 1} for query_id in queries}
    alone = fit_fusion(queries, qrels)
    more = queries_of(80, lexical=1.0, dense=2.0)
    qrels |= {query_id: {ANSWER: 0} for query_id in more if query_id not in queries}
    assert fit_fusion({**more, **queries}, qrels).recipe == alone.recipe
    with pytest.raises(ValueError, match="found 1 queries with a relevant"):
        fit_fusion(queries, {"q0000": {ANSWER: 1}, "q0001": {ANSWER: 0}})


def test_a_leg_that_finds_nothing_breaks_nothing() -> None:
    queries = queries_of(60, lexical=0.0, dense=3.0)
    silent = {query_id: Legs([], legs.dense) for query_id, legs in queries.items()}
    assert fit(silent).means()["lexical"] == fit(silent).means()["dense"] > 0
