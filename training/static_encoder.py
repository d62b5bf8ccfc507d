"""A model version that is a table of token vectors: a text's row is their mean.

Without torch: a process answers a second after its start, and a query costs a third of what torch's
calls would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors import safe_open

from training.errors import EncodingFailed, ModelDamaged, ModelUnsupported
from training.model_files import find_modules
from training.model_version import ModelVersion
from training.tokenizer import TokenizedTexts
from training.version_encoder import FloatMatrix, LocalEncoder, Turn

MAX_BATCH_TOKENS = 16_384  # whose vectors are in memory at once
_TABLE = "embedding.weight"
_SHORTEST = 1e-12  # a mean of length 0 is divided by something


class StaticEncoder(LocalEncoder):
    """A table of token vectors in memory."""

    device = "cpu"
    dtype = "fp32"
    workers = 1  # the tokenizer, which takes longer, has threads of its own

    def __init__(self, version: ModelVersion, *, max_batch_tokens: int | None = None) -> None:
        """Verify the files and load them. Raises ModelDamaged, ModelUnsupported."""
        version.verify()
        self.version = version
        self._budget = max_batch_tokens or MAX_BATCH_TOKENS
        folder = _table_folder(version)
        if folder is None:
            raise ModelUnsupported(f"model {version} is more than a table of token vectors")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
                self._table = tensors.get_tensor(_TABLE).astype(np.float32, copy=False)
        except Exception as error:  # tokenizers raises bare Exceptions
            raise ModelDamaged(
                f"model {version} in {version.path} cannot be loaded: {type(error).__name__}: "
                f"{error}; register {version.base} again"
            ) from error
        if self._table.ndim != 2 or len(self._table) < tokenizer.get_vocab_size():
            raise ModelDamaged(
                f"model {version} has vectors of shape {self._table.shape} for "
                f"{tokenizer.get_vocab_size():,} tokens; register {version.base} again"
            )
        self._read_with(tokenizer, special_tokens=False)

    def _encode_whole(self, tokenized: TokenizedTexts, turn: Turn = nullcontext) -> FloatMatrix:
        rows = np.zeros((len(tokenized), self.dim), dtype=np.float32)
        for texts in self._batches(tokenized):
            with turn():
                rows[texts] = self._means(tokenized, texts)
        return rows

    def _batches(self, tokenized: TokenizedTexts) -> Iterator[NDArray[np.int64]]:
        """Texts that have any token, in their order, within the budget or one at a time."""
        texts = np.flatnonzero(tokenized.lengths)
        ends = tokenized.offsets[texts + 1]
        start = 0
        while start < len(texts):
            until = tokenized.offsets[texts[start]] + self._budget
            end = max(start + 1, int(np.searchsorted(ends, until, side="right")))
            yield texts[start:end]
            start = end

    def _means(self, tokenized: TokenizedTexts, texts: NDArray[np.int64]) -> FloatMatrix:
        """(len(texts), dim)."""
        sums = np.empty((len(texts), self._table.shape[1]), dtype=np.float32)
        for row, text in zip(sums, texts.tolist(), strict=True):  # `add.reduceat` takes 20 times it
            np.add.reduce(self._table.take(tokenized.row(text), axis=0), axis=0, out=row)
        means = (sums / tokenized.lengths[texts, None].astype(np.float32))[:, : self.dim]
        lengths = np.sqrt(np.einsum("nd,nd->n", means, means))
        if not np.isfinite(lengths).all():
            index = int(texts[np.flatnonzero(~np.isfinite(lengths))[0]])
            raise EncodingFailed(
                f"text {index} got a vector that is not finite; register {self.version.base} again",
                index=index,
            )
        rows: FloatMatrix = means / np.maximum(lengths, _SHORTEST)[:, None]
        return rows


def is_table(version: ModelVersion) -> bool:
    """Whether a StaticEncoder can open it: token vectors, their mean, and nothing else."""
    return _table_folder(version) is not None


def _table_folder(version: ModelVersion) -> Path | None:
    if not version.is_static or version.trust_remote_code:
        return None
    try:
        modules, _, _ = find_modules(version.path)
        (kind, folder), *others = modules
        if kind != "StaticEmbedding" or any(other != "Normalize" for other, _ in others):
            return None
        with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
            is_plain = _TABLE in tensors.keys() and (  # noqa: SIM118 (not a mapping)
                tensors.get_slice(_TABLE).get_dtype() in ("F32", "F16")
            )
    except Exception:  # damaged: whoever loads it says how
        return None
    return folder if is_plain else None
