"""What to do when a batch does not fit: the same training, from smaller pieces."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from training.training_recipe import TrainingRecipe
from training.whole_file import write_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How a batch is cut up."""

    mini_batch_size: int | None = None  # pairs at once, with the cached loss; None: all at once
    accumulate: int = 1  # so many smaller batches make a step, where there is no cached loss
    gradient_checkpointing: bool = False
    changes: tuple[str, ...] = ()  # what was given up for memory, in words

    def smaller(self, batch_size: int, *, can_be_cached: bool, mini: int) -> MemoryPlan | None:
        """The next plan that takes less memory; None when this is the smallest.

        batch_size: pairs of a step. mini: pairs to begin the cached loss with.
        """
        if can_be_cached and (self.mini_batch_size is None or self.mini_batch_size > 1):
            now = self.mini_batch_size
            pairs = max(1, min(mini, batch_size // 2) if now is None else now // 2)
            return self._next(
                f"the cached loss with {pairs} of {batch_size} pairs at a time, which gives the "
                "same gradient",
                mini_batch_size=pairs,
            )
        if not can_be_cached and batch_size // (2 * self.accumulate) >= 2:
            parts = 2 * self.accumulate
            return self._next(
                f"{parts} batches of {batch_size // parts} pairs a step instead of one of "
                f"{batch_size}; each pair is told apart from fewer others",
                accumulate=parts,
            )
        if not self.gradient_checkpointing:
            return self._next(
                "gradient checkpointing, which computes activations twice",
                gradient_checkpointing=True,
            )
        return None

    def _next(
        self,
        change: str,
        *,
        mini_batch_size: int | None = None,
        accumulate: int | None = None,
        gradient_checkpointing: bool | None = None,
    ) -> MemoryPlan:
        return replace(
            self,
            mini_batch_size=self.mini_batch_size if mini_batch_size is None else mini_batch_size,
            accumulate=accumulate or self.accumulate,
            gradient_checkpointing=gradient_checkpointing or self.gradient_checkpointing,
            changes=(*self.changes, change),
        )

    def write(self, path: Path) -> None:
        """Kept with the run, so that a resumed one does not run out of memory again."""
        write_whole(path, json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path, recipe: TrainingRecipe, *, can_be_cached: bool) -> MemoryPlan:
        """What an earlier start of this run came to; else what the recipe asks for."""
        if path.exists():
            value = json.loads(path.read_text())
            return cls(**{**value, "changes": tuple(value["changes"])})
        cached = recipe.loss == "cached-mnrl" and can_be_cached
        return cls(
            mini_batch_size=recipe.mini_batch_size if cached else None,
            gradient_checkpointing=recipe.gradient_checkpointing,
        )
