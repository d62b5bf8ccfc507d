"""Makes a clean set of pairs of rows from anywhere, and says what it left out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from training.duplicates import NEAR_THRESHOLD, near_duplicates, pair_key
from training.pairs import Pair, PairRow, RejectedRow, text_digest, text_key

MAX_CHARACTERS = 50_000  # of one text: more than any common model reads
MAX_KEPT_REJECTIONS = 1_000
_PROGRESS_ROWS = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PairReport:
    """What became of the rows."""

    read: int  # rows, rejected ones included
    kept: int  # pairs
    duplicates_exact: int
    duplicates_near: int
    below_score: int  # left out because of min_score
    negatives_dropped: int  # that are a positive of the same anchor elsewhere
    rejected: tuple[RejectedRow, ...]  # the first 1,000
    rejected_total: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "duplicates": {"exact": self.duplicates_exact, "near": self.duplicates_near},
            "below_score": self.below_score,
            "negatives_dropped": self.negatives_dropped,
            "rejected": [row.to_json() for row in self.rejected],
            "rejected_total": self.rejected_total,
            "seconds": round(self.seconds, 3),
        }


def build_pairs(
    rows: Iterable[PairRow | RejectedRow],
    *,
    max_characters: int = MAX_CHARACTERS,
    min_score: float | None = None,
    near_threshold: float | None = NEAR_THRESHOLD,
    on_progress: Callable[[str, int], None] | None = None,
) -> tuple[list[Pair], PairReport]:
    """The pairs to keep, in the order they came, and the report.

    Rejected are texts longer than max_characters, pairs whose anchor is their positive, and a pair
    that came before with another score. Of equal pairs the first counts and gets the negatives of
    all. near_threshold: see near_duplicates; None keeps near duplicates. on_progress gets what is
    being done and how many are done.
    """
    started = time.monotonic()
    tally = _Tally()
    pairs = _distinct(rows, tally, max_characters, min_score, on_progress)
    pairs = _without_contradictions(pairs, tally)
    near: dict[int, int] = {}
    if near_threshold is not None:
        show = None if on_progress is None else lambda n: on_progress("near duplicates", n)
        near = near_duplicates(pairs, threshold=near_threshold, on_progress=show)
        pairs = [pair for at, pair in enumerate(pairs) if at not in near]
    return pairs, PairReport(
        read=tally.read,
        kept=len(pairs),
        duplicates_exact=tally.exact,
        duplicates_near=len(near),
        below_score=tally.below_score,
        negatives_dropped=tally.negatives_dropped,
        rejected=tuple(tally.rejected),
        rejected_total=tally.rejected_total,
        seconds=time.monotonic() - started,
    )


@dataclass(slots=True)
class _Tally:
    read: int = 0
    exact: int = 0
    below_score: int = 0
    negatives_dropped: int = 0
    rejected: list[RejectedRow] = field(default_factory=list)
    rejected_total: int = 0

    def reject(self, row: RejectedRow) -> None:
        self.rejected_total += 1
        if len(self.rejected) < MAX_KEPT_REJECTIONS:
            self.rejected.append(row)


def _distinct(
    rows: Iterable[PairRow | RejectedRow],
    tally: _Tally,
    max_characters: int,
    min_score: float | None,
    on_progress: Callable[[str, int], None] | None,
) -> list[Pair]:
    pairs: list[Pair] = []
    positions: dict[bytes, int] = {}
    for row in rows:
        tally.read += 1
        if on_progress is not None and tally.read % _PROGRESS_ROWS == 0:
            on_progress("rows", tally.read)
        if isinstance(row, RejectedRow):
            tally.reject(row)
            continue
        pair = row.pair
        if min_score is not None and pair.score is not None and pair.score < min_score:
            tally.below_score += 1
            continue
        if reason := _unfit(pair, max_characters):
            tally.reject(RejectedRow(where=row.where, reason=reason))
            continue
        at = positions.setdefault(pair_key(pair), len(pairs))
        if at == len(pairs):
            pairs.append(pair)
        elif pairs[at].score != pair.score:
            reason = f"the same pair came before with the score {pairs[at].score}"
            tally.reject(RejectedRow(where=row.where, reason=reason))
        else:
            tally.exact += 1
            if pair.negatives:
                pairs[at] = replace(pairs[at], negatives=pairs[at].negatives + pair.negatives)
    return pairs


def _unfit(pair: Pair, max_characters: int) -> str | None:
    for what, text in (
        ("anchor", pair.anchor),
        ("positive", pair.positive),
        *(("negative", negative) for negative in pair.negatives),
    ):
        if len(text) > max_characters:
            return (
                f"the {what} has {len(text):,} characters, at most {max_characters:,} are taken; "
                "cut it into passages, or raise --max-characters"
            )
    if text_key(pair.anchor) == text_key(pair.positive):
        return "anchor and positive are the same text"
    return None


def _without_contradictions(pairs: list[Pair], tally: _Tally) -> list[Pair]:
    """No text is a negative of an anchor that has it as a positive."""
    if not any(pair.negatives for pair in pairs):
        return pairs
    positives: dict[bytes, set[bytes]] = {}
    for pair in pairs:
        positives.setdefault(text_digest(pair.anchor), set()).add(text_digest(pair.positive))
    result = []
    for pair in pairs:
        own = positives[text_digest(pair.anchor)]
        negatives: dict[bytes, str] = {}
        for negative in pair.negatives:
            negatives.setdefault(text_digest(negative), negative)
        kept = tuple(text for digest, text in negatives.items() if digest not in own)
        tally.negatives_dropped += len(negatives) - len(kept)
        result.append(pair if kept == pair.negatives else replace(pair, negatives=kept))
    return result
