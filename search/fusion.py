"""Two rankings become one: weighted reciprocal rank fusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from search.recipe import FusionRecipe


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
    lexical: Sequence[Scored], dense: Sequence[Scored], recipe: FusionRecipe, k: int
) -> list[Fused]:
    """The k best documents of both legs, best first, ties by doc_id.

    score = lexical_weight / (rrf_k + lexical_rank) + dense_weight / (rrf_k + dense_rank), where a
    leg that did not return the document adds nothing (Cormack, Clarke and Büttcher 2009). A leg of
    weight 0 has no say: documents that only it returned are left out.

    lexical, dense: each document once, best first; equal scores may stand in any order.
    """
    lexical_ranks = _ranks(lexical)
    dense_ranks = _ranks(dense)
    rrf_k, weight = recipe.rrf_k, recipe.lexical_weight
    scores: dict[str, float] = {}
    if weight:
        scores = {doc_id: weight / (rrf_k + rank) for doc_id, rank in lexical_ranks.items()}
    weight = recipe.dense_weight
    if weight:
        for doc_id, rank in dense_ranks.items():
            scores[doc_id] = scores.get(doc_id, 0.0) + weight / (rrf_k + rank)
    best = sorted(scores)  # two sorts on plain keys are quicker than one on pairs
    best.sort(key=scores.__getitem__, reverse=True)
    return [
        Fused(doc_id, scores[doc_id], lexical_ranks.get(doc_id), dense_ranks.get(doc_id))
        for doc_id in best[:k]
    ]


def contributions(place: Fused, recipe: FusionRecipe) -> dict[str, float]:
    """What each leg added to a fused score."""
    return {
        name: weight / (recipe.rrf_k + rank) if rank is not None else 0.0
        for name, weight, rank in (
            ("lexical", recipe.lexical_weight, place.lexical_rank),
            ("dense", recipe.dense_weight, place.dense_rank),
        )
    }


def _ranks(hits: Sequence[Scored]) -> dict[str, int]:
    """Rank from 1 by doc_id; hits of one score are ranked by doc_id."""
    if len({hit.score for hit in hits}) < len(hits):
        hits = sorted(hits, key=lambda hit: (-hit.score, hit.doc_id))
    return dict(zip([hit.doc_id for hit in hits], range(1, len(hits) + 1), strict=True))
