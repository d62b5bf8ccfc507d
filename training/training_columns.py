"""Pairs as the columns that a loss reads: anchor, positive, negative_1, ... or anchor, positive,
score."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from training.pairs import Pair, text_key
from training.training_recipe import LossName

Columns = dict[str, list[Any]]  # all of one length


def training_columns(
    pairs: Sequence[Pair], loss: LossName, *, max_negatives: int, seed: int
) -> Columns:
    """max_negatives: of one pair; where it has fewer, answers to other queries fill up, since every
    row must have the same columns. For triplet each negative makes a row of its own."""
    if loss == "cosent":
        return {
            "anchor": [pair.anchor for pair in pairs],
            "positive": [pair.positive for pair in pairs],
            "score": [float(pair.score or 0.0) for pair in pairs],
        }
    if loss == "triplet":
        rows = [
            (pair.anchor, pair.positive, negative)
            for pair in pairs
            for negative in pair.negatives[:max_negatives]
        ]
        return {
            name: [row[at] for row in rows]
            for at, name in enumerate(("anchor", "positive", "negative_1"))
        }
    if loss == "gist":
        max_negatives = 1  # it reads three columns at most
    n_negatives = min(max_negatives, max((len(pair.negatives) for pair in pairs), default=0))
    fill = _OtherAnswers(pairs, seed)
    columns: Columns = {
        "anchor": [pair.anchor for pair in pairs],
        "positive": [pair.positive for pair in pairs],
    }
    for at in range(n_negatives):
        columns[f"negative_{at + 1}"] = [
            pair.negatives[at] if at < len(pair.negatives) else fill.draw(pair) for pair in pairs
        ]
    return columns


class _OtherAnswers:
    """Answers to other queries, by chance."""

    def __init__(self, pairs: Sequence[Pair], seed: int) -> None:
        self._texts = [pair.positive for pair in pairs]
        self._random = random.Random(seed)
        self._known: dict[str, set[str]] = defaultdict(set)
        for pair in pairs:
            self._known[text_key(pair.anchor)].add(pair.positive)

    def draw(self, pair: Pair) -> str:
        known = self._known[text_key(pair.anchor)]
        for _ in range(100):
            text = self._random.choice(self._texts)
            if text not in known:
                return text
        return self._random.choice(self._texts)  # hardly anything else is there
