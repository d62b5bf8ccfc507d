"""Texts of a batch one after another instead of padded to the longest (varlen attention).

sentence-transformers packs texts by itself where flash attention is installed; this gives the same
to batches that are tokenized beforehand.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from training.batches import on_device
from training.model_version import EncoderDtype
from training.tokenizer import TokenizedTexts

log = logging.getLogger(__name__)

FLASH = "flash_attention_2"


def packs_texts(model: SentenceTransformer, device: torch.device, dtype: EncoderDtype) -> bool:
    """Switch the model to varlen attention where device, number format, model and installed
    packages allow; returns whether batches are to be packed."""
    if device.type != "cuda" or dtype == "fp32":
        return False
    transformer: Any = model[0]
    before = getattr(getattr(transformer, "config", None), "_attn_implementation", None)
    try:
        transformer.model.set_attn_implementation(FLASH)
        transformer.unpad_inputs = None  # looks again at what the model can do
        if transformer.can_flatten_inputs:
            return True
    except Exception as error:  # not installed, or not for this model; each library says otherwise
        log.info("no varlen attention (%s); texts are padded", error)
    if before is not None and hasattr(transformer.model, "set_attn_implementation"):
        transformer.model.set_attn_implementation(before)
    return False


def first_position(model: SentenceTransformer) -> int:
    """Position of a text's first token: 0, or what models of RoBERTa's family count from."""
    return int(getattr(model[0], "_flatten_position_offset", 0))


def packed_features(
    tokenized: TokenizedTexts, rows: NDArray[np.int64], device: torch.device, *, first: int
) -> dict[str, Any]:
    """What a transformer with varlen attention reads: (1, n_tokens) ids, and where texts begin."""
    chosen = tokenized.select(rows.tolist())
    lengths = chosen.lengths
    longest = int(lengths.max())
    starts = np.repeat(chosen.offsets[:-1], lengths)
    positions = np.arange(len(chosen.ids)) - starts + first
    text = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)
    ends = on_device(chosen.offsets.astype(np.int32), device)
    features: dict[str, Any] = {
        "input_ids": on_device(chosen.ids.astype(np.int64), device).unsqueeze(0),
        "position_ids": on_device(positions.astype(np.int64), device).unsqueeze(0),
        "seq_idx": on_device(text, device).unsqueeze(0),
        "cu_seq_lens_q": ends,
        "cu_seq_lens_k": ends,
        "max_length_q": longest,
        "max_length_k": longest,
        "modality": "text",
    }
    if tokenized.prompt_tokens:
        features["prompt_length"] = tokenized.prompt_tokens
    return features
