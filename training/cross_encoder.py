"""A model that reads a query and a text together and scores how well they fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from sentence_transformers import CrossEncoder

from training.device import resolve_device
from training.errors import ModelUnsupported
from training.model_sources import find_model

BATCH_PAIRS = 32
_SCORING_HEADS = ("ForSequenceClassification", "ForCausalLM")


class PairScorer:
    """A sentence-transformers CrossEncoder with safetensors weights and no code of its own."""

    def __init__(self, ref: str, *, device: str = "auto", max_tokens: int = 512) -> None:
        """ref: a folder, a hub id, or package:NAME. Raises ModelNotFound, ModelUnsupported."""
        folder = find_model(ref)
        _check_head(folder, ref)
        try:
            self._model = CrossEncoder(
                str(folder),
                device=str(resolve_device(device)),
                local_files_only=True,
                max_length=max_tokens,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
        except Exception as error:  # whatever a folder that is no such model makes it raise
            raise ModelUnsupported(
                f"{ref} cannot be loaded as a cross-encoder: {type(error).__name__}: {error}; "
                "expected one such as cross-encoder/ms-marco-MiniLM-L6-v2"
            ) from error
        if self._model.num_labels != 1:
            raise ModelUnsupported(
                f"{ref} gives {self._model.num_labels} scores for a pair, expected one; name a "
                "cross-encoder that was trained to rank"
            )

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[float]:
        """One score a pair of texts; higher fits better."""
        found = self._model.predict(
            list(texts), batch_size=BATCH_PAIRS, show_progress_bar=False, convert_to_numpy=True
        )
        return [float(score) for score in found]


def _check_head(folder: Path, ref: str) -> None:
    """An encoder would be given a head of random weights, and its scores would mean nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        architectures = [str(name) for name in config["architectures"]]
    except (OSError, ValueError, KeyError, TypeError):
        architectures = []
    if not any(name.endswith(_SCORING_HEADS) for name in architectures):
        found = ", ".join(architectures) or "no config.json that names an architecture"
        raise ModelUnsupported(
            f"{ref} is no cross-encoder: found {found}, expected one with a head that scores, such "
            "as cross-encoder/ms-marco-MiniLM-L6-v2"
        )
