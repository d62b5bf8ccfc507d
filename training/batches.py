"""Batches of tokenized texts: cut by a token budget, laid out as the model reads them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.tokenizer import TokenizedTexts

MIN_EVEN = 0.5  # of the budget; an even batch with less in it is filled up with shorter rows


def cut_batches(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], budget: int, *, even: bool = False
) -> list[NDArray[np.int64]]:
    """Batches of rows whose padded tokens stay within the budget, one row at least.

    lengths: tokens of each row, never growing. even: end a batch where the length changes, if it is
    half full by then. Rows of one length need no mask, and attention without one is faster.
    """
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(rows):
        size = max(1, budget // int(lengths[start]))
        end = start + size
        if even and end < len(rows) and lengths[end - 1] < lengths[start]:
            window = lengths[start:end]
            last = int(np.searchsorted(-window, -window[-1]))  # rows longer than the shortest
            end = start + last if last >= MIN_EVEN * size else end
        batches.append(rows[start:end])
        start = end
    return batches


def padded_features(
    tokenized: TokenizedTexts, rows: NDArray[np.int64], device: torch.device, *, pad_id: int
) -> dict[str, Any]:
    """What a transformer reads: (len(rows), longest) token ids, and a mask where it is needed.

    Padded on the right also for decoders that ask for the left: the pooling finds the last token by
    the mask, and no position moves with the texts that happen to be in the batch.
    """
    lengths = tokenized.lengths[rows]
    width = int(lengths.max())
    ids = np.full((len(rows), width), pad_id, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for line, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        ids[line, :length] = tokenized.row(int(row))
        mask[line, :length] = 1
    features: dict[str, Any] = {"input_ids": on_device(ids, device), "modality": "text"}
    if int(lengths.min()) < width:  # attention without a mask is faster
        features["attention_mask"] = on_device(mask, device)
    if tokenized.prompt_tokens:
        features["prompt_length"] = tokenized.prompt_tokens  # for poolings that leave it out
    return features


def flat_features(
    tokenized: TokenizedTexts, rows: NDArray[np.int64], device: torch.device
) -> dict[str, Any]:
    """What a static model reads: the ids of all texts one after another, and where each begins."""
    chosen = tokenized.select(rows.tolist())
    return {
        "input_ids": on_device(chosen.ids, device),
        "offsets": on_device(chosen.offsets[:-1].astype(np.int32), device),
    }


def on_device(values: NDArray[Any], device: torch.device) -> torch.Tensor:
    """A copy there; on its way to a GPU it does not hold up whoever sends it."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
