"""Which checkpoint to keep and when to stop, by what is more than chance.

A dev set has some dozens of queries, and their mean goes up and down by a hundredth or two from one
evaluation to the next. Whoever keeps the highest keeps one by luck, often an early one that learned
little. So each evaluation is compared with the highest one query by query, and a later checkpoint
is given up only for an earlier one that is clearly better: by more than luck shows in as many
comparisons (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import orjson

from training.metrics import PerQuery, paired_bootstrap
from training.whole_file import write_whole

ERROR_RATE = 0.05  # of all comparisons of one training together, on both sides


class DevScores:
    """The primary metric of every dev query at each evaluation, kept in a file."""

    def __init__(self, path: Path, *, until: int | None = None) -> None:
        """until: the step that training goes on from; what was measured later is forgotten. None
        begins anew."""
        self._path = path
        self._by_step: dict[int, PerQuery] = {}
        if until is not None and path.exists():
            for name, values in orjson.loads(path.read_bytes()).items():
                if int(name) <= until:
                    self._by_step[int(name)] = np.asarray(values, dtype=np.float64)

    def add(self, step: int, per_query: PerQuery) -> None:
        """per_query: (n_queries,), in the same order at every step; step 0 is the base."""
        self._by_step[step] = per_query
        content = {str(step): values.tolist() for step, values in self._by_step.items()}
        write_whole(self._path, orjson.dumps(content))

    def mean(self, step: int) -> float | None:
        values = self._by_step.get(step)
        return float(values.mean()) if values is not None else None

    def kept_step(self) -> int | None:
        """The last step that is not clearly worse than the best one; None before the first."""
        best = self._best_step()
        return next(
            (step for step in reversed(self._steps()) if not self._is_clearly_worse(step, best)),
            None,
        )

    def is_enough(self, patience: int) -> bool:
        """Whether the last `patience` evaluations are clearly worse than the best, or the same for
        each query."""
        best = self._best_step()
        late = [step for step in self._steps() if step > best]
        return len(late) >= patience and all(
            self._is_clearly_worse(step, best)
            or np.array_equal(self._by_step[step], self._by_step[best])
            for step in late[-patience:]
        )

    def _steps(self) -> Sequence[int]:
        return sorted(step for step in self._by_step if step > 0)

    def _best_step(self) -> int:
        """The first with the highest mean; 0 before the first evaluation."""
        return max(self._steps(), key=lambda step: self._by_step[step].mean(), default=0)

    def _is_clearly_worse(self, step: int, best: int) -> bool:
        comparisons = max(1, len(self._steps()) - 1)  # the best is the luckiest of so many
        difference = paired_bootstrap(
            self._by_step[step], self._by_step[best], coverage=1 - ERROR_RATE / comparisons
        )
        return difference.high < 0
