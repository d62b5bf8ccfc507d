"""The losses a version can be trained with, and their forms that need less memory.

- mnrl: each anchor against the positives (and negatives) of its whole batch; InfoNCE, van den Oord
  et al. 2018, Henderson et al. 2017.
- cached-mnrl: the same gradient from small pieces of a large batch; GradCache, Gao et al. 2021.
- triplet: one positive against one negative; Schroff et al. 2015.
- cosent: pairs in the order of their scores; Su 2022.
- gist: mnrl without the texts that a second model holds for further positives; Solatorio 2024.

Each can be wrapped for several lengths of one vector: Matryoshka, Kusupati et al. 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses as upstream

from training.errors import RecipeInvalid
from training.training_recipe import LossName

SCALE = 20.0  # 1 / temperature of the softmax over cosines
TRIPLET_MARGIN = 0.2  # cosine distance


def make_loss(
    name: LossName,
    model: SentenceTransformer,
    *,
    dims: Sequence[int],
    mini_batch_size: int | None = None,
    guide: SentenceTransformer | None = None,
    gather: bool = False,
) -> torch.nn.Module:
    """The loss over the model.

    dims: lengths to train, full first; one alone is no Matryoshka. mini_batch_size: pairs held in
    memory at once, for the cached forms; None for the plain ones. gather: every process of a
    distributed run tells its anchors apart from the texts of all of them.

    Raises RecipeInvalid when the model cannot be trained with that loss.
    """
    try:
        loss = _plain_loss(name, model, mini_batch_size, guide, gather)
    except ValueError as error:
        raise RecipeInvalid(
            f"the {name} loss cannot train this model: {error} Try --loss mnrl"
        ) from error
    return upstream.MatryoshkaLoss(model, loss, list(dims)) if len(dims) > 1 else loss


def can_be_cached(name: LossName, *, is_static: bool) -> bool:
    """Whether the loss has a form with the same gradient that holds less in memory."""
    return not is_static and name in ("mnrl", "cached-mnrl", "gist")


def _plain_loss(
    name: LossName,
    model: SentenceTransformer,
    mini_batch_size: int | None,
    guide: SentenceTransformer | None,
    gather: bool,
) -> torch.nn.Module:
    shared: dict[str, Any] = {"gather_across_devices": gather}
    match name:
        case "mnrl" | "cached-mnrl":
            shared |= {"scale": SCALE, "similarity_fct": exact_cosine}
            if mini_batch_size is None:
                return upstream.MultipleNegativesRankingLoss(model, **shared)
            return upstream.CachedMultipleNegativesRankingLoss(
                model, mini_batch_size=mini_batch_size, **shared
            )
        case "gist":
            assert guide is not None
            # A text that the guide finds nearly as close as the positive is left out.
            shared |= {"temperature": 1 / SCALE, "margin_strategy": "relative", "margin": 0.05}
            if mini_batch_size is None:
                return upstream.GISTEmbedLoss(model, guide, **shared)
            return upstream.CachedGISTEmbedLoss(
                model, guide, mini_batch_size=mini_batch_size, **shared
            )
        case "triplet":
            return upstream.TripletLoss(
                model,
                distance_metric=upstream.TripletDistanceMetric.COSINE,
                triplet_margin=TRIPLET_MARGIN,
            )
        case "cosent":
            return upstream.CoSENTLoss(model, scale=SCALE)


def exact_cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """(n, m) cosines in fp32 also where 16-bit numbers are computed with: times the scale, their
    three digits would be too few. one: (n, dim), other: (m, dim)."""
    with torch.autocast(one.device.type, enabled=False):
        return util.cos_sim(one.float(), other.float())
