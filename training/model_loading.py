"""Loading a model version from its folder: the seam to sentence-transformers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tokenizers
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from training.errors import ModelDamaged, ModelUnsupported
from training.registry import ModelVersion


def load_model(version: ModelVersion) -> SentenceTransformer:
    """The version's modules on the CPU in fp32. Raises ModelDamaged, ModelUnsupported."""
    if version.is_remote:
        raise ModelUnsupported(
            f"model {version} is loaded elsewhere ({version.base}): there are no weights here to "
            "train or to compare; take a version that has some, as `reindexer models list` shows"
        )
    try:
        with _quiet_transformers():
            model = SentenceTransformer(
                str(version.path),
                device="cpu",
                trust_remote_code=version.trust_remote_code,
                local_files_only=True,
                model_kwargs={"dtype": torch.float32, "use_safetensors": True},
            )
    except Exception as error:
        raise ModelDamaged(
            f"model {version} in {version.path} cannot be loaded: {type(error).__name__}: {error}. "
            f"Its files are those that were registered; save {version.base} again with a current "
            "sentence-transformers and register that"
        ) from error
    found = model.get_embedding_dimension()
    if found is not None and found < version.dim:
        raise ModelDamaged(
            f"model {version} makes rows of {found} dimensions, its manifest says {version.dim}; "
            f"register {version.base} again"
        )
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar for reading weights."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def backend_tokenizer(model: SentenceTransformer, version: ModelVersion) -> tokenizers.Tokenizer:
    """The tokenizer of a loaded model. Raises ModelUnsupported."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise ModelUnsupported(
            f"model {version} has a tokenizer of type {type(tokenizer).__name__}; expected one "
            "that saves a tokenizer.json"
        )
    return backend
