"""What the gate looked at, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing the gate looked at.

    value, at_least: the figure and its bound, both shares of 1, where the check is of one figure.
    """

    name: str
    passed: bool
    found: str
    expected: str
    detail: str = ""
    value: float | None = None
    at_least: float | None = None

    def to_json(self) -> dict[str, Any]:
        """value and at_least only where there are such."""
        figures = {"value": self.value, "at_least": self.at_least}
        return {
            "name": self.name,
            "passed": self.passed,
            "found": self.found,
            "expected": self.expected,
            "detail": self.detail,
            **({} if self.value is None else figures),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Everything the gate looked at, and the retrieval metrics where there were judgments."""

    generation: str
    checks: tuple[Check, ...]
    metrics: Mapping[str, Any] | None = None
    verified_at: str = field(  # ISO 8601, UTC
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        return [
            f"{check.name}: found {check.found}, expected {check.expected}"
            + (f" ({check.detail})" if check.detail else "")
            for check in self.checks
            if not check.passed
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "metrics": self.metrics,
            "verified_at": self.verified_at,
        }
