"""Pairs that say the same: exactly, or nearly.

Near duplicates are found with MinHash and banding (Broder 1997; Leskovec, Rajaraman, Ullman,
"Mining of Massive Datasets", ch. 3). A pair counts only if anchors *and* positives are alike, so
each permutation joins the minimum of the anchor with the minimum of the positive: two pairs agree
on it with probability J(anchors) x J(positives). What falls into one band together is compared
exactly. numpy does this for a thousand pairs at once, many times faster than a MinHash object a
text, which is why no such library is used here.
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

NEAR_THRESHOLD = 0.8  # Jaccard similarity of anchors and of positives, both
SHINGLE_WORDS = 3
N_BANDS = 20
BAND_ROWS = 3  # found with 0.998 at 0.8 x 0.8, with 0.11 at 0.2 x 0.9
_BATCH_PAIRS = 1_000
_MOST_COMPARED = 50  # kept pairs of one band that a pair is compared with
_WORD = re.compile(r"\w+")
_BLANKS = ("",) * (SHINGLE_WORDS - 1)
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
    changed date in a long passage is the same passage. 160 bytes of memory a pair.
    """
    import numpy as np

    if len(pairs) < 2:
        return {}
    keys = np.concatenate(list(_band_keys(pairs, on_progress)))  # (n_pairs, N_BANDS) uint64
    candidates: dict[int, set[int]] = {}
    for band in range(N_BANDS):
        order = np.argsort(keys[:, band], kind="stable")
        column = keys[order, band]
        starts = np.flatnonzero(np.r_[True, column[1:] != column[:-1]])
        sizes = np.diff(np.r_[starts, len(order)])
        for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
            members = order[start : start + size].tolist()
            for at in range(1, size):
                earlier = members[max(0, at - _MOST_COMPARED) : at]
                candidates.setdefault(members[at], {members[0]}).update(earlier)
    return _confirmed(pairs, candidates, threshold)


def _confirmed(
    pairs: Sequence[Pair], candidates: dict[int, set[int]], threshold: float
) -> dict[int, int]:
    found: dict[int, int] = {}
    for at in sorted(candidates):
        for earlier in sorted(candidates[at]):
            if earlier not in found and _alike(pairs[at], pairs[earlier], threshold):
                found[at] = earlier
                break
    return found


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


def _band_keys(
    pairs: Sequence[Pair], on_progress: Callable[[int], None] | None
) -> Iterator[Hashes]:
    """(n, N_BANDS) a batch of n pairs."""
    import numpy as np

    random = np.random.default_rng(_SEED)
    factors = random.integers(1, 2**64, N_BANDS * BAND_ROWS, dtype=np.uint64) | np.uint64(1)
    offsets = random.integers(0, 2**64, N_BANDS * BAND_ROWS, dtype=np.uint64)
    word_hashes: dict[str, int] = {}
    for start in range(0, len(pairs), _BATCH_PAIRS):
        batch = pairs[start : start + _BATCH_PAIRS]
        anchors = _minima([pair.anchor for pair in batch], factors, offsets, word_hashes)
        positives = _minima([pair.positive for pair in batch], factors, offsets, word_hashes)
        joint = _mix(anchors * np.uint64(0x9E3779B97F4A7C15) + positives)
        rows = joint.reshape(len(batch), N_BANDS, BAND_ROWS)
        keys = rows[:, :, 0]
        for row in range(1, BAND_ROWS):
            keys = _mix(keys * np.uint64(0xD6E8FEB86659FD93) + rows[:, :, row])
        yield keys
        if on_progress is not None:
            on_progress(start + len(batch))


def _minima(
    texts: Sequence[str], factors: Hashes, offsets: Hashes, word_hashes: dict[str, int]
) -> Hashes:
    """(len(texts), len(factors)): the smallest hash of each text's shingles, a permutation each."""
    import numpy as np

    hashes: list[int] = []
    starts: list[int] = []
    for text in texts:
        starts.append(len(hashes))
        for word in _words(text):
            value = word_hashes.get(word)
            if value is None:
                value = word_hashes[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
            hashes.append(value)
    words_at = _mix(np.array(hashes, dtype=np.uint64))
    shingles = words_at.copy()
    for shift in range(1, SHINGLE_WORDS):  # runs over the end of a text are cut off below
        shingles[:-shift] = _mix(
            shingles[:-shift] * np.uint64(0x9E3779B97F4A7C15) + words_at[shift:]
        )
    ends = np.r_[starts[1:], len(hashes)]
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


def _mix(values: Hashes) -> Hashes:
    """A bijection in which every bit of the input reaches every bit of the output (splitmix64)."""
    import numpy as np

    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
