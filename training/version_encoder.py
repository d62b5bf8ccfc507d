"""What every encoder of a model version is, wherever its rows are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import tokenizers
from numpy.typing import NDArray

from training.errors import EncodingFailed, ModelUnsupported
from training.model_version import EncoderDtype, ModelVersion
from training.tokenizer import TextTokenizer, TokenizedTexts

FloatMatrix = NDArray[np.float32]  # (n, dim), rows of length 1
Turn = Callable[[], AbstractContextManager[object]]


class VersionEncoder(ABC):
    """Texts in, normalised rows out. All methods may be called from several threads."""

    version: ModelVersion
    dtype: EncoderDtype  # numbers that rows are computed in
    _budget: int

    @property
    def fingerprint(self) -> str:
        return self.version.fingerprint_in(self.dtype)

    @property
    def dim(self) -> int:
        return self.version.dim

    @property
    def max_tokens(self) -> int:
        """Of one text, prompt and special tokens included."""
        return self.version.max_tokens

    @property
    def max_batch_tokens(self) -> int:
        """Of one batch, as it stands now."""
        return self._budget

    @property
    @abstractmethod
    def device(self) -> str: ...

    @property
    @abstractmethod
    def workers(self) -> int:
        """Batches that are encoded side by side."""

    @abstractmethod
    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        """(len(texts), dim) with the query prompt; longer texts are cut to max_tokens.

        Raises EncodingFailed.
        """

    @abstractmethod
    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        """(len(texts), dim) with the document prompt; longer texts are cut to max_tokens, so split
        them before. Raises EncodingFailed."""

    @abstractmethod
    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        """Token ids with document prompt and special tokens, whole: `lengths` tells which texts are
        longer than max_tokens."""

    def encode_tokenized(
        self, tokenized: TokenizedTexts, *, turn: Turn = nullcontext
    ) -> FloatMatrix:
        """(len(tokenized), dim) for what tokenize_documents gave; nothing is cut.

        turn: entered around each batch, in the thread that encodes it; it may wait, and it may
        raise to give up what has not begun.

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
        return self._encode_whole(tokenized, turn)

    @abstractmethod
    def _encode_whole(self, tokenized: TokenizedTexts, turn: Turn = nullcontext) -> FloatMatrix:
        """As encode_tokenized; no text is too long."""

    def _check_prompt(self, prompt: str, n_tokens: int) -> None:
        """n_tokens: that it takes of each text. Raises ModelUnsupported when that is over half."""
        if n_tokens > self.max_tokens // 2:
            raise ModelUnsupported(
                f"the prompt {prompt!r} and special tokens take {n_tokens} of the "
                f"{self.max_tokens} tokens that {self.version} reads; register the model with a "
                "shorter prompt or a higher --max-tokens"
            )


class LocalEncoder(VersionEncoder):
    """One whose tokenizer is here; what is computed of the tokens is left open."""

    def _read_with(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        special_tokens: bool,
        truncation_side: str = "right",
    ) -> None:
        """Raises ModelUnsupported for a prompt that leaves too little room for text."""
        self._queries, self._documents = (
            TextTokenizer(
                tokenizer,
                prompt=prompt,
                max_tokens=self.max_tokens,
                special_tokens=special_tokens,
                truncation_side=truncation_side,
            )
            for prompt in (self.version.query_prompt, self.version.document_prompt)
        )
        for reader in (self._queries, self._documents):
            self._check_prompt(reader.prompt, int(reader.tokenize([""]).lengths[0]))

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode_whole(self._queries.tokenize(texts, truncate=True))

    def encode_documents(self, texts: Sequence[str]) -> FloatMatrix:
        return self._encode_whole(self._documents.tokenize(texts, truncate=True))

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return self._documents.tokenize(texts)
