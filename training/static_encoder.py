"""A model version that is a table of token vectors: a text's row is their mean.

The shape of `training.encoder.Encoder`, without torch: a process answers a second after its start,
and a query costs a tenth of what torch's calls would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

import numpy as np
import tokenizers
from numpy.typing import NDArray
from safetensors import safe_open

from training.errors import EncodingFailed, ModelDamaged, ModelUnsupported
from training.model_files import find_modules
from training.model_version import ModelVersion
from training.tokenizer import TextTokenizer, TokenizedTexts

FloatMatrix = NDArray[np.float32]  # (n, dim), rows of length 1
Turn = Callable[[], AbstractContextManager[object]]

MAX_BATCH_TOKENS = 16_384  # whose vectors are in memory at once
_TABLE = "embedding.weight"
_SHORTEST = 1e-12  # a mean of length 0 is divided by something


class StaticEncoder:
    """A table of token vectors in memory. All methods may be called from several threads."""

    device = "cpu"
    dtype: Literal["fp32"] = "fp32"
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
        self._queries, self._documents = (
            TextTokenizer(
                tokenizer, prompt=prompt, max_tokens=version.max_tokens, special_tokens=False
            )
            for prompt in (version.query_prompt, version.document_prompt)
        )

    @property
    def fingerprint(self) -> str:
        return self.version.fingerprint

    @property
    def dim(self) -> int:
        return self.version.dim

    @property
    def max_tokens(self) -> int:
        """Of one text, prompt included."""
        return self.version.max_tokens

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        """The model's own tokenizer: no prompt, no truncation. Do not change it."""
        return self._documents.whole

    @property
    def max_batch_tokens(self) -> int:
        return self._budget

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(len(texts), dim) with the query prompt; longer texts are cut to max_tokens.

        Raises EncodingFailed.
        """
        return self._encode(self._queries.tokenize(texts, truncate=True))

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(len(texts), dim) with the document prompt; longer texts are cut to max_tokens, so split
        them before. Raises EncodingFailed."""
        return self._encode(self._documents.tokenize(texts, truncate=True))

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids with the document prompt, whole: `lengths` tells which texts are longer than
        max_tokens."""
        return self._documents.tokenize(texts)

    def encode_tokenized(
        self, tokenized: TokenizedTexts, *, turn: Turn = nullcontext
    ) -> FloatMatrix:
        """(len(tokenized), dim) for what tokenize_documents gave; nothing is cut.

        turn: entered around each batch; it may wait, and it may raise to give up what has not
        begun.

        Raises EncodingFailed, with the position of the text in `index`, also for a text that is
        longer than max_tokens, and what `turn` raises.
        """
        too_long = np.flatnonzero(tokenized.lengths > self.max_tokens)
        if len(too_long):
            index = int(too_long[0])
            raise EncodingFailed(
                f"text {index} has {tokenized.lengths[index]:,} tokens, {self.version} reads "
                f"{self.max_tokens:,}; split it first",
                index=index,
            )
        return self._encode(tokenized, turn)

    def _encode(self, tokenized: TokenizedTexts, turn: Turn = nullcontext) -> FloatMatrix:
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
    return not version.is_remote and _table_folder(version) is not None


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
