"""How many pairs do not belong together: an estimate by a model, and a sample for a person.

A model that is any good ranks the positive of a good pair above most other positives. The positive
of a mismatched pair is, to its anchor, just another text, so its rank among random positives is
uniform. Hence three in ten mismatched pairs, and hardly any good one, rank in the lowest three
tenths: the share of pairs there, divided by 0.3, estimates the noise. This is Storey's (2002)
estimate of the share of true null hypotheses at lambda = 0.7, with "these two do not belong
together" as the null hypothesis.

What it cannot see is a positive that is wrong and yet closer to the anchor than most others, such
as the neighbouring passage of the right document; a person can. Where the model is so weak in the
domain that good pairs rank low too, the estimate is too high.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from training.errors import PairsInvalid
from training.pair_columns import MATCH_SCORE
from training.pairs import Pair, text_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from training.evaluation import TextEncoder

    Ranks = NDArray[np.float64]

NOISE_WARNING = 0.1
SAMPLED_PAIRS = 500
MIN_PAIRS = 20
CROSS_ENCODER_PAIRS = 200
CROSS_ENCODER_OTHERS = 16  # random positives that each pair is compared with
LOW_RANK = 0.3  # lower is less biased by weak models, higher is less noisy: both measured
CLEAR_RANK = 0.95
_Z_95 = 1.96

CrossScores = Callable[[Sequence[tuple[str, str]]], Sequence[float]]  # of (anchor, text)


@dataclass(frozen=True, kw_only=True)
class NoiseEstimate:
    """The share of mismatched pairs, with a 95 % interval, and the ranks it comes from."""

    share: float  # 0..1
    low: float
    high: float
    method: str  # "margin" or "cross-encoder"
    positions: tuple[int, ...]  # of the sampled pairs
    ranks: tuple[float, ...]  # where the own positive stands among random ones, 0..1

    @property
    def is_high(self) -> bool:
        """So many mismatched pairs that training should wait."""
        return self.share > NOISE_WARNING

    @property
    def suspects(self) -> list[tuple[int, float]]:
        """Position and rank of the sampled pairs of low rank, the worst first."""
        found = [
            (rank, at)
            for at, rank in zip(self.positions, self.ranks, strict=True)
            if rank < LOW_RANK
        ]
        return [(at, rank) for rank, at in sorted(found)]

    def to_json(self) -> dict[str, Any]:
        return {
            "share": self.share,
            "low": self.low,
            "high": self.high,
            "method": self.method,
            "sampled": len(self.positions),
        }

    def __str__(self) -> str:
        return f"{self.share:.0%} of the pairs (95 % interval {self.low:.0%} to {self.high:.0%})"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledPair:
    """A pair that a person is to look at."""

    position: int
    pair: Pair
    rank: float
    weight: float  # how many pairs of the estimate's sample it stands for


def estimate_noise(
    encoder: TextEncoder,
    pairs: Sequence[Pair],
    *,
    sampled: int = SAMPLED_PAIRS,
    seed: int = 0,
) -> NoiseEstimate:
    """The share of mismatched pairs, from a random sample of them: both texts of each are encoded
    once. Pairs scored under 0.5 are not meant to match and are passed over.

    Raises PairsInvalid when there are fewer than 20 pairs to compare, and what the encoder raises.
    """
    positions = _drawn(pairs, sampled, seed)
    anchors = encoder.encode_queries([pairs[at].anchor for at in positions])
    positives = encoder.encode_documents([pairs[at].positive for at in positions])
    others = _others([pairs[at] for at in positions])
    return _estimate(_ranks(anchors @ positives.T, others, seed), positions, "margin")


def estimate_noise_by_cross_encoder(
    scores_of: CrossScores,
    pairs: Sequence[Pair],
    *,
    sampled: int = CROSS_ENCODER_PAIRS,
    seed: int = 0,
) -> NoiseEstimate:
    """As estimate_noise, with a model that reads both texts together: slower, and it knows better.

    Each pair is compared with 16 random positives. Raises PairsInvalid for fewer than 20 pairs.
    """
    import numpy as np

    positions = _drawn(pairs, sampled, seed)
    chosen = [pairs[at] for at in positions]
    others = _others(chosen)
    draw = random.Random(seed)
    for row in others:
        columns = np.flatnonzero(row).tolist()
        row[:] = False
        row[draw.sample(columns, min(CROSS_ENCODER_OTHERS, len(columns)))] = True
    wanted = others | np.eye(len(chosen), dtype=bool)
    cells = np.argwhere(wanted)
    texts = [(chosen[row].anchor, chosen[column].positive) for row, column in cells.tolist()]
    scores = np.full(wanted.shape, -np.inf)
    scores[wanted] = np.asarray(scores_of(texts), dtype=np.float64).reshape(-1)
    return _estimate(_ranks(scores, others, seed), positions, "cross-encoder")


def sample_for_a_person(
    estimate: NoiseEstimate, pairs: Sequence[Pair], *, size: int, seed: int = 0
) -> list[SampledPair]:
    """Pairs of all kinds in random order: suspects, doubtful and clear ones, as near as possible to
    a third each and at least one. The weights make up for that."""
    draw = random.Random(seed)
    strata: list[list[tuple[int, float]]] = [[], [], []]
    for at, rank in zip(estimate.positions, estimate.ranks, strict=True):
        strata[(rank >= LOW_RANK) + (rank >= CLEAR_RANK)].append((at, rank))
    result = []
    left = size
    by_size = sorted((stratum for stratum in strata if stratum), key=len)
    for number, stratum in enumerate(by_size):
        n_drawn = min(len(stratum), max(1, round(left / (len(by_size) - number))))
        left -= n_drawn
        result += [
            SampledPair(position=at, pair=pairs[at], rank=rank, weight=len(stratum) / n_drawn)
            for at, rank in draw.sample(stratum, n_drawn)
        ]
    draw.shuffle(result)
    return result


def share_with_interval(share: float, n: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % interval of a share that was seen among n."""
    centre = share + _Z_95**2 / (2 * n)
    spread = _Z_95 * math.sqrt(share * (1 - share) / n + _Z_95**2 / (4 * n * n))
    scale = 1 + _Z_95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def matching(pairs: Sequence[Pair]) -> list[int]:
    """Positions of the pairs that are meant to match. Raises PairsInvalid when they are too few to
    estimate how many do not."""
    found = [at for at, pair in enumerate(pairs) if pair.score is None or pair.score >= MATCH_SCORE]
    if len(found) < MIN_PAIRS:
        raise PairsInvalid(
            f"of {len(pairs)} pairs {len(found)} are meant to match, and it takes at least "
            f"{MIN_PAIRS} to estimate how many do not; read them yourself"
        )
    return found


def _drawn(pairs: Sequence[Pair], sampled: int, seed: int) -> tuple[int, ...]:
    found = matching(pairs)
    return tuple(sorted(random.Random(seed).sample(found, min(sampled, len(found)))))


def _others(pairs: Sequence[Pair]) -> NDArray[np.bool_]:
    """(n, n): whether the positive of a column is no answer to the anchor of a row, as far as the
    pairs say."""
    import numpy as np

    result = np.ones((len(pairs), len(pairs)), dtype=bool)
    keys: tuple[list[object], ...] = (
        [text_digest(pair.anchor) for pair in pairs],
        [text_digest(pair.positive) for pair in pairs],
        [pair.doc_id or at for at, pair in enumerate(pairs)],
    )
    for own_keys in keys:
        first: dict[object, int] = {}
        column = np.array([first.setdefault(key, at) for at, key in enumerate(own_keys)])
        result &= column[:, None] != column[None, :]
    return result


def _ranks(scores: Any, others: NDArray[np.bool_], seed: int) -> Ranks:
    """(n,): where the own positive stands among the others, 0..1. The order of equal scores, and
    the place between two others, are drawn: so the rank of a mismatched pair is exactly uniform.

    scores: (n, n), of the anchor of a row and the positive of a column.
    """
    import numpy as np

    own = np.diagonal(scores)[:, None]
    share_lower = ((scores < own) & others).sum(axis=1)
    n_equal = ((scores == own) & others).sum(axis=1)
    drawn = np.random.default_rng(seed).random(len(own))
    ranks = (share_lower + drawn * (n_equal + 1)) / (others.sum(axis=1) + 1)
    return np.asarray(ranks, dtype=np.float64)


def _estimate(ranks: Ranks, positions: tuple[int, ...], method: str) -> NoiseEstimate:
    share_low = float((ranks < LOW_RANK).mean())
    low, high = share_with_interval(share_low, len(ranks))
    return NoiseEstimate(
        share=min(1.0, share_low / LOW_RANK),
        low=min(1.0, low / LOW_RANK),
        high=min(1.0, high / LOW_RANK),
        method=method,
        positions=positions,
        ranks=tuple(ranks.tolist()),
    )
