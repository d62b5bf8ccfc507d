"""Token ids of many texts, and the tokenizer that makes them the way the model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizedTexts:
    """Token ids of n texts, special tokens and prompt included. Two flat arrays instead of n lists:
    a window of thousands of passages stays small and is cut without copying."""

    ids: NDArray[np.int32]  # (n_tokens,) of all texts, one after another
    offsets: NDArray[np.int64]  # (n + 1,) where each text begins in ids
    prompt_tokens: int = 0  # how many of each text's first tokens are the prompt

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], *, prompt_tokens: int = 0) -> TokenizedTexts:
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.empty(int(offsets[-1]), dtype=np.int32)
        for row, start, end in zip(rows, offsets, offsets[1:], strict=False):
            ids[start:end] = row
        return cls(ids=ids, offsets=offsets, prompt_tokens=prompt_tokens)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens of each text."""
        return np.diff(self.offsets)

    def row(self, at: int) -> NDArray[np.int32]:
        return self.ids[self.offsets[at] : self.offsets[at + 1]]

    def select(self, rows: Sequence[int]) -> TokenizedTexts:
        """These texts, in this order."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        if len(rows):
            np.cumsum(self.lengths[np.asarray(rows, dtype=np.int64)], out=offsets[1:])
            ids = np.concatenate([self.row(at) for at in rows])
        else:
            ids = np.empty(0, dtype=np.int32)
        return TokenizedTexts(ids=ids, offsets=offsets, prompt_tokens=self.prompt_tokens)

    def extended(self, other: TokenizedTexts) -> TokenizedTexts:
        """These texts and then the other ones; both must carry the same prompt."""
        return TokenizedTexts(
            ids=np.concatenate([self.ids, other.ids]),
            offsets=np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
            prompt_tokens=self.prompt_tokens,
        )


class TextTokenizer:
    """A model's tokenizer for one kind of text (queries or documents), prompt included.

    It owns copies whose settings never change again, so any number of threads may use it at once
    (transformers' own wrapper sets truncation and padding on every call).
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        prompt: str,
        max_tokens: int,
        special_tokens: bool,
        truncation_side: str = "right",
    ) -> None:
        """max_tokens: of one text, prompt and special tokens included."""
        self.prompt = prompt
        self.max_tokens = max_tokens
        self._special_tokens = special_tokens
        self._whole = _copy(tokenizer)
        self._truncating = _copy(tokenizer)
        self._truncating.enable_truncation(max_tokens, direction=truncation_side)
        self._prompt_tokens = self._count_prompt_tokens() if prompt else 0

    @property
    def whole(self) -> tokenizers.Tokenizer:
        """The tokenizer by itself: no prompt, no truncation, no padding. Do not change it."""
        return self._whole

    def tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> TokenizedTexts:
        """truncate: cut each text to max_tokens, as sentence-transformers does."""
        tokenizer = self._truncating if truncate else self._whole
        encodings = tokenizer.encode_batch_fast(
            [self.prompt + text for text in texts] if self.prompt else list(texts),
            add_special_tokens=self._special_tokens,
        )
        return TokenizedTexts.of(
            [encoding.ids for encoding in encodings], prompt_tokens=self._prompt_tokens
        )

    def _count_prompt_tokens(self) -> int:
        # The rule of sentence-transformers, which a pooling that leaves the prompt out relies on.
        encoding = self._whole.encode(self.prompt, add_special_tokens=self._special_tokens)
        if not encoding.ids:
            return 0
        added = self._whole.get_added_tokens_decoder().get(encoding.ids[-1])
        return len(encoding.ids) - int(added is not None and added.special)


def _copy(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    copy = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy
