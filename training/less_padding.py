"""A batch in pieces of similar length: on a CPU, padding is computed like everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

ROWS = 8  # texts of a piece: large enough for a CPU, small enough to be of one length
WORTH_IT = 0.9  # of the padded tokens, at most, must be left

Forward = Callable[..., dict[str, Any]]


class ForwardByLength:
    """A model's forward pass over its batch's texts in order of length, `ROWS` at a time.

    The rows come back in the order that they were given in. Sampling order, batch and gradient are
    as without it; only dropout draws other masks. Texts padded on the left are left alone, since
    cutting there would move their positions.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, features: dict[str, Any], **options: Any) -> dict[str, Any]:
        mask = features.get("attention_mask")
        if mask is None or mask.ndim != 2 or not bool(mask[:, 0].all()):
            return self._forward(features, **options)
        lengths = mask.sum(dim=1)
        order = torch.argsort(lengths, descending=True, stable=True)
        pieces = torch.split(order, ROWS)
        widths = [int(lengths[piece[0]]) for piece in pieces]
        left = sum(len(piece) * width for piece, width in zip(pieces, widths, strict=True))
        if left > WORTH_IT * mask.numel():
            return self._forward(features, **options)
        rows = torch.cat(
            [
                self._forward(_cut(features, mask, piece, width), **options)["sentence_embedding"]
                for piece, width in zip(pieces, widths, strict=True)
            ]
        )
        return {**features, "sentence_embedding": rows[torch.argsort(order)]}


def _cut(
    features: dict[str, Any], mask: torch.Tensor, rows: torch.Tensor, width: int
) -> dict[str, Any]:
    """The features of some rows, without the columns that only longer texts need."""
    piece: dict[str, Any] = {}
    for name, value in features.items():
        if not isinstance(value, torch.Tensor) or value.shape[:1] != mask.shape[:1]:
            piece[name] = value
        elif value.shape[:2] == mask.shape:
            piece[name] = value[rows, :width]
        else:
            piece[name] = value[rows]
    return piece
