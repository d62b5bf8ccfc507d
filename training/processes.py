"""The processes of one training: one, or as many as torchrun or accelerate started."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")

LONGEST_WAIT = timedelta(hours=24)  # the first process mines while the others wait


def n_processes() -> int:
    """How many train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the one that prepares, evaluates and registers."""
    return int(os.environ.get("RANK", "0")) == 0


def meet(device: str) -> None:
    """The first time that all of them wait for each other. device: as resolve_device takes it."""
    if n_processes() > 1:
        from accelerate import PartialState

        from training.device import resolve_device

        on_cpu = resolve_device(device).type == "cpu"
        PartialState(cpu=on_cpu, timeout=LONGEST_WAIT).wait_for_everyone()


def wait_for_everyone() -> None:
    """Until every process has come here; at once when there is one. Needs `meet` before it."""
    if n_processes() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def first_says(value: T) -> T:
    """What the first process holds, in each of them: its clock decides and nobody else's. Needs
    `meet` before it."""
    if n_processes() > 1:
        from accelerate.utils import broadcast_object_list

        value = broadcast_object_list([value])[0]
    return value
