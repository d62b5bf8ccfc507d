"""A second vector space from a base model and the corpus alone: whitened embeddings.

Su et al. 2021, "Whitening Sentence Representations for Better Semantics and Faster Retrieval":
subtract the mean of the corpus' vectors and scale its principal directions towards equal variance.
No training, no judgments; the model gets one more linear layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize
from transformers.utils import logging as transformers_logging

from training.registry import ModelVersion


def save_whitened(
    version: ModelVersion, vectors: NDArray[np.float32], folder: Path, *, strength: float = 0.5
) -> Path:
    """Save `version` with a whitening layer fitted to `vectors`, and return the folder.

    vectors: (n, dim) rows of the base model over the corpus. strength: 0 only centres, 1 gives all
    directions equal variance; in between, directions of little variance, which are mostly noise,
    are not blown up.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    covariance = np.cov(vectors - mean, rowvar=False, dtype=np.float64)
    variance, directions = np.linalg.eigh(covariance)
    scale = np.maximum(variance, variance.max() * 1e-4) ** (-strength / 2)
    matrix = (directions * scale) @ directions.T  # symmetric, so that axes keep their meaning
    matrix /= np.linalg.norm(matrix, ord=2)

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = SentenceTransformer(str(version.path), device="cpu")
    dim = version.dim
    layer = Dense(dim, dim, bias=True, activation_function=torch.nn.Identity())
    with torch.no_grad():
        layer.linear.weight.copy_(torch.from_numpy(matrix.astype(np.float32)))
        layer.linear.bias.copy_(torch.from_numpy((-mean @ matrix).astype(np.float32)))
    modules = [module for module in model if not isinstance(module, Normalize)]
    SentenceTransformer(modules=[*modules, layer, Normalize()], device="cpu").save_pretrained(
        str(folder), create_model_card=False, safe_serialization=True
    )
    return folder
