"""What the doctor says about one thing, and how it can be put right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory

State = Literal["ok", "warning", "problem"]
Fix = Callable[["DataDirectory"], str]  # puts it right; returns what was done


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at. advice: with the command to run next, unless all is well."""

    name: str
    state: State
    found: str
    advice: str = ""
    fix: Fix | None = None  # where nothing can be lost by it

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "advice": self.advice,
            "fixable": self.fix is not None,
        }
