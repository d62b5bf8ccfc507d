"""How two rankings of the same query differ: the movement of each hit, and figures over many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Literal

Kind = Literal["same", "up", "down", "new", "gone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Movement:
    """Where a document of one ranking stands, against the other one."""

    kind: Kind
    places: int = 0  # that it moved, 1 or more for up and down

    @property
    def in_words(self) -> str:
        return {
            "same": "same place",
            "up": f"up {self.places}",
            "down": f"down {self.places}",
            "new": "new",
            "gone": "gone",
        }[self.kind]

    @property
    def sign(self) -> str:
        return {"same": "=", "up": "▲", "down": "▼", "new": "+", "gone": "✕"}[self.kind]


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How much two rankings of one query have in common."""

    overlap: float  # share of the documents of the longer one that both have; 1 when both are empty
    tau: float | None  # Kendall's, over the documents of both; None for fewer than two
    is_same_first: bool


def movements(ranked: Sequence[str], other: Sequence[str], *, is_later: bool) -> list[Movement]:
    """Of each document in `ranked`. is_later: `other` is where it comes from, so a document that
    is not there is new; else `other` is where it goes, and it is gone."""
    places = {doc_id: place for place, doc_id in enumerate(other)}
    found: list[Movement] = []
    for place, doc_id in enumerate(ranked):
        there = places.get(doc_id)
        if there is None:
            found.append(Movement(kind="new" if is_later else "gone"))
            continue
        up = there - place if is_later else place - there
        kind: Kind = "up" if up > 0 else "down" if up < 0 else "same"
        found.append(Movement(kind=kind, places=abs(up)))
    return found


def agreement(one: Sequence[str], other: Sequence[str]) -> Agreement:
    """Of two rankings, best first."""
    places = {doc_id: place for place, doc_id in enumerate(other)}
    shared = [places[doc_id] for doc_id in one if doc_id in places]
    longest = max(len(one), len(other))
    return Agreement(
        overlap=len(shared) / longest if longest else 1.0,
        tau=_tau(shared),
        is_same_first=list(one[:1]) == list(other[:1]),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The means over many queries."""

    n_queries: int
    overlap: float
    tau: float | None
    same_first: float
    n_unchanged: int  # the same documents in the same order


def summarize(found: Sequence[Agreement]) -> Summary:
    """Raises statistics.StatisticsError for no queries at all."""
    taus = [item.tau for item in found if item.tau is not None]
    return Summary(
        n_queries=len(found),
        overlap=fmean(item.overlap for item in found),
        tau=fmean(taus) if taus else None,
        same_first=fmean(item.is_same_first for item in found),
        n_unchanged=sum(item.overlap == 1 and item.tau in (1.0, None) for item in found),
    )


def _tau(places: Sequence[int]) -> float | None:
    """Kendall's tau of a permutation: (concordant - discordant) / pairs."""
    n_pairs = len(places) * (len(places) - 1) // 2
    if not n_pairs:
        return None
    concordant = sum(before < after for before, after in combinations(places, 2))
    return (2 * concordant - n_pairs) / n_pairs
