"""Two rankings become one: by reciprocal ranks, or by a weighted mean of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from search.recipe import FusionRecipe

PLAIN_RRF = FusionRecipe()


class Scored(Protocol):
    """What one leg says about a document; `LexicalHit` and `DenseHit` are such."""

    @property
    def doc_id(self) -> str: ...

    @property
    def score(self) -> float: ...


class Fused(NamedTuple):
    """A document's place in the fused ranking."""

    doc_id: str
    score: float
    lexical_rank: int | None  # from 1; None: that leg did not return it
    dense_rank: int | None


def fuse(
    lexical: Sequence[Scored], dense: Sequence[Scored], recipe: FusionRecipe, k: int, *, depth: int
) -> list[Fused]:
    """The k best documents of both legs, best first, ties by doc_id.

    A document's score is the sum of weight * value over the legs that returned it. A leg of weight
    0 has no say, and documents that only it returned are left out, unless the other leg returned
    nothing at all.

    Method rrf: value = 1 / (rrf_k + rank) (Cormack, Clarke and Büttcher 2009).

    Method convex: value = how far the score is above what a document that the leg did not return
    can have at most, in units of the query's best BM25 score, or of `dense_span` for a cosine (a
    variant of Bruch, Gai and Ingber 2023). That most is the score of the leg's last document, or 0
    for BM25 when there were fewer documents than asked for: the others share no word with the
    query.

    lexical, dense: each document once, best first; equal scores may stand in any order. depth: how
    many each leg was asked for.
    """
    lexical_leg, dense_leg = _legs(lexical, dense, recipe, depth)
    scores = dict(lexical_leg.added)
    for doc_id, added in dense_leg.added.items():
        scores[doc_id] = scores.get(doc_id, 0.0) + added
    best = sorted(scores)  # two sorts on plain keys are quicker than one on pairs
    best.sort(key=scores.__getitem__, reverse=True)
    return [
        Fused(doc_id, scores[doc_id], lexical_leg.ranks.get(doc_id), dense_leg.ranks.get(doc_id))
        for doc_id in best[:k]
    ]


def contributions(
    lexical: Sequence[Scored],
    dense: Sequence[Scored],
    recipe: FusionRecipe,
    doc_ids: Sequence[str],
    *,
    depth: int,
) -> dict[str, dict[str, float]]:
    """By doc_id, what each leg added to the score that `fuse` gave it."""
    lexical_leg, dense_leg = _legs(lexical, dense, recipe, depth)
    return {
        doc_id: {
            "lexical": lexical_leg.added.get(doc_id, 0.0),
            "dense": dense_leg.added.get(doc_id, 0.0),
        }
        for doc_id in doc_ids
    }


class _Leg(NamedTuple):
    """A leg as the recipe sees it; both mappings by doc_id."""

    ranks: dict[str, int]  # from 1
    added: dict[str, float]  # weight * value; empty when it has no say


def _legs(
    lexical: Sequence[Scored], dense: Sequence[Scored], recipe: FusionRecipe, depth: int
) -> tuple[_Leg, _Leg]:
    lexical_ranks, dense_ranks = _ranks(lexical), _ranks(dense)
    lexical_weight, dense_weight = recipe.lexical_weight, recipe.dense_weight
    if not dense:  # then the other leg decides, whatever its weight
        lexical_weight = lexical_weight or 1.0
    elif not lexical:
        dense_weight = dense_weight or 1.0
    lexical_added: dict[str, float] = {}
    dense_added: dict[str, float] = {}
    if recipe.method == "rrf":
        if lexical_weight:
            lexical_added = _reciprocal(lexical_ranks, lexical_weight, recipe.rrf_k)
        if dense_weight:
            dense_added = _reciprocal(dense_ranks, dense_weight, recipe.rrf_k)
    else:
        if lexical and lexical_weight:
            others = lexical[-1].score if len(lexical) >= depth else 0.0
            lexical_added = _above(others, lexical, lexical_weight / lexical[0].score)
        if dense and dense_weight:
            dense_added = _above(dense[-1].score, dense, dense_weight / recipe.dense_span)
    return _Leg(lexical_ranks, lexical_added), _Leg(dense_ranks, dense_added)


def _reciprocal(ranks: dict[str, int], weight: float, rrf_k: int) -> dict[str, float]:
    return {doc_id: weight / (rrf_k + rank) for doc_id, rank in ranks.items()}


def _above(others: float, hits: Sequence[Scored], weight: float) -> dict[str, float]:
    return {hit.doc_id: weight * (hit.score - others) for hit in hits}


def _ranks(hits: Sequence[Scored]) -> dict[str, int]:
    """Rank from 1 by doc_id; hits of one score are ranked by doc_id."""
    if len({hit.score for hit in hits}) < len(hits):
        hits = sorted(hits, key=lambda hit: (-hit.score, hit.doc_id))
    return dict(zip([hit.doc_id for hit in hits], range(1, len(hits) + 1), strict=True))
