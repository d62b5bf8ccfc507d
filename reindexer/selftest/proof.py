"""What a tool of the selftest found: each promise, kept or broken, and how to see it again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NAMED = 5  # details of a broken promise that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Promise:
    """One thing that must hold."""

    name: str
    kept: bool
    found: str
    expected: str
    detail: tuple[str, ...] = ()
    of_speed: bool = False  # depends on what else the machine does

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kept": self.kept,
            "found": self.found,
            "expected": self.expected,
            "detail": list(self.detail),
            "of_speed": self.of_speed,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """All promises of one tool."""

    tool: str  # kill, writes, switch, gate, soak
    repeat: str  # the command that does the same again
    seed: int
    promises: tuple[Promise, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def is_kept(self, *, strict: bool = False) -> bool:
        """strict: a promise of speed counts too."""
        return all(promise.kept for promise in self.promises if strict or not promise.of_speed)

    def to_json(self) -> dict[str, Any]:
        return {
            "tool": self.tool,
            "kept": self.is_kept(),
            "promises": [promise.to_json() for promise in self.promises],
            "figures": dict(self.figures),
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "repeat": self.repeat,
        }


def nothing_wrong(
    name: str, faults: list[str], *, looked_at: str, expected: str, n: int = 1
) -> Promise:
    """Kept when no fault was found. n: how much was looked at; nothing proves nothing."""
    if not n:
        looked_at = f"nothing was looked at: {looked_at}"
    return Promise(
        name=name,
        kept=not faults and n > 0,
        found=looked_at if not faults else f"{len(faults):,} faults; {looked_at}",
        expected=expected,
        detail=tuple(faults[:NAMED]),
    )


def at_most(
    name: str,
    found: float | None,
    limit: float,
    unit: str,
    *,
    of_speed: bool = True,
    about: str = "",
) -> Promise:
    """found: None when nothing was measured; such a promise is broken, on a slow machine too."""
    return Promise(
        name=name,
        kept=found is not None and found <= limit,
        found="nothing was measured" if found is None else f"{found:,.3g} {unit}{about}",
        expected=f"at most {limit:,.3g} {unit}",
        of_speed=of_speed and found is not None,
    )


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began
