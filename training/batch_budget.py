"""How many tokens a batch should have on a device, found by trying and remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from training.model_version import EncoderDtype
from training.precision import MeasurementCache, device_key

log = logging.getLogger(__name__)

FEWEST, MOST = 4_096, 524_288  # padded tokens
GOOD_ENOUGH = 0.97  # of the best rate: a smaller batch leaves more room and wastes less at the end


def choose_budget(rate: Callable[[int], float | None]) -> int:
    """The smallest budget that is about as fast as the fastest.

    rate: tokens per second with batches of so many padded tokens; None when they do not fit.
    """
    rates: dict[int, float] = {}
    budget = FEWEST
    while budget <= MOST:
        found = rate(budget)
        if found is None:
            break
        rates[budget] = found
        if found < GOOD_ENOUGH * max(rates.values()):
            break  # the device is full; larger ones only take more memory
        budget *= 2
    if not rates:
        return FEWEST  # halved further while encoding
    best = max(rates.values())
    chosen = min(budget for budget, found in rates.items() if found >= GOOD_ENOUGH * best)
    log.info("batches of %s tokens: %s", f"{chosen:,}", {n: round(r) for n, r in rates.items()})
    return chosen


class BudgetCache(MeasurementCache):
    """The budget of a model on a device in a number format."""

    def __init__(
        self, folder: Path | None, fingerprint: str, device: torch.device, dtype: EncoderDtype
    ) -> None:
        super().__init__(folder, "batch_tokens.json", f"{device_key(fingerprint, device)} {dtype}")

    def read(self) -> int | None:
        found = self.value()
        return found if isinstance(found, int) and found > 0 else None

    def write(self, budget: int) -> None:
        self.keep(budget)
