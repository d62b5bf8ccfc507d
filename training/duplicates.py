"""Pairs that say the same: exactly, or nearly.

Near duplicates are found with MinHash and banding (Broder 1997; Leskovec, Rajaraman, Ullman,
"Mining of Massive Datasets", ch. 3). A pair counts only if anchors *and* positives are alike, so
each permutation joins the minimum of the anchor with the minimum of the positive: two pairs agree
on it with probability J(anchors) x J(positives). Of those that fall into one band together the
signatures are compared, and what still looks alike is compared exactly: nothing is a duplicate that
is not. The joint signature is why no MinHash library is used: they sign one text at a time.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from training.pairs import Pair, text_digest, text_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Signatures = NDArray[np.uint32]  # (n_pairs, N_BANDS * BAND_ROWS)

NEAR_THRESHOLD = 0.8  # Jaccard similarity of anchors and of positives, both
LEAST_THRESHOLD = 0.7  # below it, too many would be missed
SHINGLE_WORDS = 3
N_BANDS = 20
BAND_ROWS = 3  # two pairs share a band with probability 0.998 at 0.8 x 0.8, 0.92 at 0.7 x 0.7
_NEIGHBOURS = 8  # of a pair in one band that it is compared with
_BATCH_PAIRS = 1_000
_COMPARED_AT_ONCE = 100_000
_WORD = re.compile(r"\w+")
_BLANKS = ("",) * (SHINGLE_WORDS - 1)
_ODD = 0x9E3779B97F4A7C15  # 2**64 by the golden ratio
_SEED = 20_240_229  # of the permutations; any


def pair_key(pair: Pair) -> bytes:
    """Equal for pairs whose texts differ in case, spacing or final punctuation only."""
    return text_digest(pair.anchor) + text_digest(pair.positive)


def near_duplicates(
    pairs: Sequence[Pair],
    *,
    threshold: float = NEAR_THRESHOLD,
    on_progress: Callable[[int], None] | None = None,
) -> dict[int, int]:
    """Position of each pair that nearly repeats an earlier one, with the position of that one.

    Alike are pairs of equal score whose anchors share at least `threshold` of their runs of three
    words, and whose positives do too. One changed word in a short query is a different query; a
    changed date in a long passage is the same passage. Needs about 400 bytes of memory a pair.
    """
    found: dict[int, int] = {}
    for at, earlier in _candidates(_signatures(pairs, on_progress), threshold):
        kept = found.get(earlier, earlier)
        if at not in found and _alike(pairs[at], pairs[kept], threshold):
            found[at] = kept
    return found


def _candidates(signatures: Signatures, threshold: float) -> list[tuple[int, int]]:
    """Positions of pairs that look alike by their signatures, the later one of each two first; in
    order of the later one."""
    import numpy as np

    n_pairs, n_rows = signatures.shape
    bands = signatures.reshape(n_pairs, N_BANDS, BAND_ROWS)
    keys = bands[:, :, 0].astype(np.uint64)
    for row in range(1, BAND_ROWS):
        keys = _mix(keys * _ODD + bands[:, :, row])
    short = signatures.astype(np.uint16)  # (n_pairs, n_rows); enough to compare
    # Equal rows of two pairs on the threshold, less three standard deviations.
    share = threshold * threshold
    least = n_rows * (share - 3 * np.sqrt(share * (1 - share) / n_rows))
    n_found = np.zeros(n_pairs, dtype=np.int64)
    edges: list[NDArray[np.int64]] = []
    for band in range(N_BANDS):
        # Within a band, pairs that agree in the next band too are neighbours.
        order = np.lexsort((keys[:, (band + 1) % N_BANDS], keys[:, band]))
        for distance in range(1, _NEIGHBOURS + 1):
            one, other = order[:-distance], order[distance:]
            one, other = np.maximum(one, other), np.minimum(one, other)
            is_new = (keys[one, band] == keys[other, band]) & (n_found[one] < _NEIGHBOURS)
            one, other = one[is_new], other[is_new]
            for start in range(0, len(one), _COMPARED_AT_ONCE):
                part = slice(start, start + _COMPARED_AT_ONCE)
                n_equal = (short[one[part]] == short[other[part]]).sum(axis=1)
                alike = np.flatnonzero(n_equal >= least) + start
                edges.append(np.stack([one[alike], other[alike]], axis=1))
                np.add.at(n_found, one[alike], 1)
    found = np.unique(np.concatenate(edges), axis=0) if edges else np.empty((0, 2), dtype=np.int64)
    return [(at, earlier) for at, earlier in found.tolist()]


def _alike(one: Pair, other: Pair, threshold: float) -> bool:
    return (
        one.score == other.score
        and _jaccard(one.anchor, other.anchor) >= threshold
        and (one.positive is other.positive or _jaccard(one.positive, other.positive) >= threshold)
    )


def _jaccard(one: str, other: str) -> float:
    left, right = (set(_shingles(text)) for text in (one, other))
    return len(left & right) / max(1, len(left | right))


def _shingles(text: str) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    return zip(*(words[shift:] for shift in range(SHINGLE_WORDS)), strict=False)


def _words(text: str) -> list[str]:
    """With blanks around them, so that the first and the last word count as much as any other."""
    key = text_key(text)
    return [*_BLANKS, *(_WORD.findall(key) or [key]), *_BLANKS]


def _signatures(pairs: Sequence[Pair], on_progress: Callable[[int], None] | None) -> Signatures:
    """(n_pairs, N_BANDS * BAND_ROWS): two pairs agree in a column with the probability
    J(anchors) x J(positives)."""
    import numpy as np

    n_rows = N_BANDS * BAND_ROWS
    random = np.random.default_rng(_SEED)
    factors = random.integers(1, 2**64, n_rows, dtype=np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**64, n_rows, dtype=np.uint64)
    word_hashes = _WordHashes()
    result = np.empty((len(pairs), n_rows), dtype=np.uint32)
    for start in range(0, len(pairs), _BATCH_PAIRS):
        batch = pairs[start : start + _BATCH_PAIRS]
        anchors = _minima([pair.anchor for pair in batch], factors, offsets, word_hashes)
        positives = _minima([pair.positive for pair in batch], factors, offsets, word_hashes)
        result[start : start + len(batch)] = _mix(anchors * _ODD + positives) >> np.uint64(32)
        if on_progress is not None:
            on_progress(start + len(batch))
    return result


def _minima(
    texts: Sequence[str], factors: Hashes, offsets: Hashes, word_hashes: _WordHashes
) -> Hashes:
    """(len(texts), len(factors)): the smallest hash of each text's shingles, a permutation each."""
    import numpy as np

    hashes: list[int] = []
    starts: list[int] = []
    for text in texts:
        starts.append(len(hashes))
        hashes.extend(map(word_hashes.__getitem__, _words(text)))
    words_at = _mix(np.array(hashes, dtype=np.uint64))
    shingles = words_at.copy()
    for shift in range(1, SHINGLE_WORDS):  # runs over the end of a text are cut off below
        shingles[:-shift] = _mix(shingles[:-shift] * _ODD + words_at[shift:])
    ends = np.array([*starts[1:], len(hashes)])
    inside = np.ones(len(hashes), dtype=bool)
    for shift in range(1, SHINGLE_WORDS):
        inside[ends - shift] = False
    kept = np.flatnonzero(inside)
    shingles = shingles[kept]
    first = np.searchsorted(kept, starts)
    columns = [
        np.minimum.reduceat(_mix(shingles * factor + offset), first)
        for factor, offset in zip(factors, offsets, strict=True)
    ]
    return np.stack(columns, axis=1)


class _WordHashes(dict[str, int]):
    """The hash of each word that was asked for."""

    def __missing__(self, word: str) -> int:
        value = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return value


def _mix(values: Hashes) -> Hashes:
    """A bijection in which every bit of the input reaches every bit of the output (splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
