"""Tokens for a model whose tokenizer is elsewhere: three bytes of UTF-8 each, and back again.

Tokenizers make fewer tokens of nearly every text (English has more than four bytes a token), so a
passage that fits by this count fits; and because nothing is lost, the text can be made again of its
tokens, which is all that a remote model is sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.tokenizer import TokenizedTexts

BYTES_PER_TOKEN = 3
_FILL = b"\xff"  # a byte that no UTF-8 text has
_BEGIN, _END = 1 << 24, (1 << 24) + 1  # special tokens, as most models have them
FRAME_TOKENS = 2


def tokenize(texts: Sequence[str]) -> TokenizedTexts:
    return TokenizedTexts.of([_ids(text) for text in texts])  # type: ignore[misc]


def texts_of(tokenized: TokenizedTexts) -> list[str]:
    """The texts that tokenize was given."""
    return [_text(tokenized.row(at)) for at in range(len(tokenized))]


def cut(text: str, max_tokens: int) -> str:
    """As much of the beginning as has max_tokens."""
    return _bytes(text)[: (max_tokens - FRAME_TOKENS) * BYTES_PER_TOKEN].decode("utf-8", "ignore")


def count(text: str) -> int:
    return FRAME_TOKENS + -(-len(_bytes(text)) // BYTES_PER_TOKEN)


def _ids(text: str) -> NDArray[np.int32]:
    content = _bytes(text)
    content += _FILL * (-len(content) % BYTES_PER_TOKEN)
    parts = np.frombuffer(content, np.uint8).reshape(-1, BYTES_PER_TOKEN).astype(np.int32)
    ids = (parts[:, 0] << 16) | (parts[:, 1] << 8) | parts[:, 2]
    return np.concatenate([[_BEGIN], ids, [_END]]).astype(np.int32)


def _text(ids: NDArray[np.int32]) -> str:
    ids = ids[ids < _BEGIN]
    parts = np.stack([ids >> 16, (ids >> 8) & 0xFF, ids & 0xFF], axis=1).astype(np.uint8)
    return parts.tobytes().replace(_FILL, b"").decode("utf-8", "ignore")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")
