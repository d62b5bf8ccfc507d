"""Train, dev and test pairs that share neither a query nor a document.

Pairs that share a query, a positive, a document or a group are one component, and a component is
never cut: what a model saw in training cannot come back in the test under another name.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.errors import PairsInvalid
from training.pairs import Pair, text_digest, text_key

DEV_SHARE = 0.1
TEST_SHARE = 0.1
SAME_QUERY_WORDS = 0.2  # of two texts with one query_id, to be one query


@dataclass(frozen=True, kw_only=True)
class PairSplit:
    """The three parts, each in the order the pairs came, and how they were made."""

    train: list[Pair]
    dev: list[Pair]
    test: list[Pair]
    components: int
    largest_component: int  # pairs
    by_time: bool
    dev_from_s: float | None = None  # Unix time; train is earlier
    test_from_s: float | None = None  # Unix time; train and dev are earlier
    dropped: list[Pair] = field(default_factory=list)  # by time: earlier pairs of later components

    def to_json(self) -> dict[str, Any]:
        return {
            "train": len(self.train),
            "dev": len(self.dev),
            "test": len(self.test),
            "dropped": len(self.dropped),
            "components": self.components,
            "largest_component": self.largest_component,
            "by_time": self.by_time,
            "dev_from_s": self.dev_from_s,
            "test_from_s": self.test_from_s,
        }


def split_pairs(
    pairs: Sequence[Pair],
    *,
    dev_share: float = DEV_SHARE,
    test_share: float = TEST_SHARE,
    seed: int = 0,
    by_time: bool | None = None,
) -> PairSplit:
    """Cut pairs into train, dev and test without leakage.

    dev_share, test_share: of the pairs, 0..1; the parts are no larger than that. by_time: test is
    later than dev, and dev later than train; earlier pairs of a component that reaches into a later
    part are dropped. By default pairs are split by time when every one has a time. Otherwise whole
    components are drawn: the same pairs and seed give the same parts, in whatever order they came.

    Raises PairsInvalid when there is nothing to train on or to test with.
    """
    if dev_share < 0 or test_share < 0 or dev_share + test_share >= 1:
        raise PairsInvalid(
            f"--dev-share {dev_share:g} and --test-share {test_share:g} leave nothing to train on; "
            "expected two shares of 0 or more that sum to less than 1"
        )
    timed = sum(pair.time_s is not None for pair in pairs)
    if by_time and timed < len(pairs):
        raise PairsInvalid(
            f"{len(pairs) - timed:,} of {len(pairs):,} pairs have no time_s, so they cannot be "
            "split by time; leave out --by-time"
        )
    component_of = components(pairs)
    if by_time or (by_time is None and pairs and timed == len(pairs)):
        split = _by_time(pairs, component_of, dev_share, test_share)
    else:
        split = _by_component(pairs, component_of, dev_share, test_share, seed)
    _check(split, dev_share, test_share, len(pairs))
    return split


def components(pairs: Sequence[Pair]) -> list[int]:
    """For each pair the position of the first pair of its component."""
    parents = list(range(len(pairs)))

    def root(at: int) -> int:
        while parents[at] != at:
            parents[at] = parents[parents[at]]
            at = parents[at]
        return at

    first_with: dict[tuple[str, bytes], int] = {}
    for at, pair in enumerate(pairs):
        for key in leakage_keys(pair):
            one, other = root(at), root(first_with.setdefault(key, at))
            parents[max(one, other)] = min(one, other)
    return [root(at) for at in range(len(pairs))]


def leakage_keys(pair: Pair) -> Iterator[tuple[str, bytes]]:
    """What two pairs must not have in common if one is to test what was learned from the other."""
    yield "query", text_digest(pair.anchor)
    yield "document", text_digest(pair.positive)
    for kind, value in (
        ("query_id", pair.query_id),
        ("doc_id", pair.doc_id),
        ("group", pair.group),
    ):
        if value is not None:
            yield kind, value.encode("utf-8", "surrogatepass")


def drop_evaluation_queries(
    pairs: Iterable[Pair], queries: Mapping[str, str]
) -> tuple[list[Pair], list[Pair]]:
    """The pairs that may be trained on, and those whose query is also an evaluation query: by its
    text (see text_key), or by its query_id unless the two texts have hardly a word in common, as
    two files that both count from 1 do. queries: text by query id."""
    texts = {text_key(text) for text in queries.values()}
    kept: list[Pair] = []
    dropped: list[Pair] = []
    for pair in pairs:
        same_id = queries.get(pair.query_id) if pair.query_id is not None else None
        is_known = text_key(pair.anchor) in texts or (
            same_id is not None and _common_words(pair.anchor, same_id) >= SAME_QUERY_WORDS
        )
        (dropped if is_known else kept).append(pair)
    return kept, dropped


def _common_words(one: str, other: str) -> float:
    """Of all words of both, 0..1."""
    left, right = (set(text_key(text).split()) for text in (one, other))
    return len(left & right) / max(1, len(left | right))


def _by_component(
    pairs: Sequence[Pair],
    component_of: Sequence[int],
    dev_share: float,
    test_share: float,
    seed: int,
) -> PairSplit:
    members: dict[int, list[int]] = {}
    for at, component in enumerate(component_of):
        members.setdefault(component, []).append(at)
    # Drawn by what the pairs say: neither the order of the file nor ids of a run decide.
    drawn = sorted(members.values(), key=lambda ats: min(_draw(pairs[at], seed) for at in ats))
    room = {
        "test": _part_size(test_share, len(pairs)),
        "dev": _part_size(dev_share, len(pairs)),
    }
    part_of: dict[int, str] = {}
    for ats in drawn:
        part = next((name for name, free in room.items() if len(ats) <= free), "train")
        if part != "train":
            room[part] -= len(ats)
        part_of.update(dict.fromkeys(ats, part))
    train, dev, test = (
        [pair for at, pair in enumerate(pairs) if part_of[at] == name]
        for name in ("train", "dev", "test")
    )
    return PairSplit(
        train=train,
        dev=dev,
        test=test,
        components=len(members),
        largest_component=max(map(len, members.values()), default=0),
        by_time=False,
    )


def _by_time(
    pairs: Sequence[Pair], component_of: Sequence[int], dev_share: float, test_share: float
) -> PairSplit:
    times = [pair.time_s or 0.0 for pair in pairs]
    ordered = sorted(times)
    n_test = _part_size(test_share, len(pairs))
    n_dev = _part_size(dev_share, len(pairs))
    # Pairs of one moment stay together, in the later part.
    test_from = ordered[-n_test] if n_test else float("inf")
    earlier = ordered[: bisect.bisect_left(ordered, test_from)]
    dev_from = earlier[-n_dev] if n_dev and len(earlier) >= n_dev else test_from
    last_time: dict[int, float] = {}
    sizes: dict[int, int] = {}
    for component, time_s in zip(component_of, times, strict=True):
        last_time[component] = max(time_s, last_time.get(component, time_s))
        sizes[component] = sizes.get(component, 0) + 1

    def part(time_s: float) -> str:
        return "test" if time_s >= test_from else "dev" if time_s >= dev_from else "train"

    parts: dict[str, list[Pair]] = {"train": [], "dev": [], "test": [], "dropped": []}
    for pair, component, time_s in zip(pairs, component_of, times, strict=True):
        own = part(time_s)
        parts[own if own == part(last_time[component]) else "dropped"].append(pair)
    return PairSplit(
        train=parts["train"],
        dev=parts["dev"],
        test=parts["test"],
        dropped=parts["dropped"],
        components=len(sizes),
        largest_component=max(sizes.values(), default=0),
        by_time=True,
        dev_from_s=dev_from if n_dev else None,
        test_from_s=test_from if n_test else None,
    )


def _part_size(share: float, n_pairs: int) -> int:
    return max(1, round(share * n_pairs)) if share else 0


def _check(split: PairSplit, dev_share: float, test_share: float, n_pairs: int) -> None:
    for name, share, found in (
        ("train", 1.0, split.train),
        ("dev", dev_share, split.dev),
        ("test", test_share, split.test),
    ):
        if share and not found:
            raise PairsInvalid(
                f"no pair is left for {name}: the {n_pairs:,} pairs are {split.components:,} "
                f"components that share no query, document or group, and the largest has "
                f"{split.largest_component:,} pairs; use coarser shares, finer groups, or more "
                "pairs"
            )


def _draw(pair: Pair, seed: int) -> bytes:
    return hashlib.blake2b(
        text_digest(pair.anchor) + text_digest(pair.positive), key=str(seed).encode()
    ).digest()
