"""The processes of one training: one, or as many as torchrun or accelerate started."""

from __future__ import annotations

import os
from datetime import timedelta

LONGEST_WAIT = timedelta(hours=24)  # the first process mines while the others wait


def n_processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the one that prepares, evaluates and registers."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for_everyone(*, cpu: bool | None = None) -> None:
    """Until every process has come here; at once when there is one.

    cpu: where they compute, for the first call.
    """
    if n_processes() == 1:
        return
    from accelerate import PartialState

    state = PartialState() if cpu is None else PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    state.wait_for_everyone()
