"""Where an encoder computes, and how many cores it may use there."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from training.errors import EncodingFailed


def resolve_device(device: str) -> torch.device:
    """`auto` (a CUDA GPU, else Apple's MPS, else the CPU), `cpu`, `cuda`, `cuda:1`, `mps`.

    Raises EncodingFailed when it is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise EncodingFailed(
            f"device {device!r} cannot be used: {reason}. Use --device auto or cpu"
        ) from error
    return found


def use_visible_cores() -> int:
    """Keep torch to the physical cores this process may use; returns its number of threads.

    In a container torch counts the machine's cores, not the share it was given; more threads than
    that wait for each other. OMP_NUM_THREADS is respected.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), visible_cores()))
    return torch.get_num_threads()


def visible_cores() -> int:
    """Physical cores this process may run on: its affinity, hyper-threads counted once, within the
    CPU share of its control group."""
    cores = len(_physical_cores())
    share = _cgroup_cores()
    return max(1, min(cores, math.ceil(share)) if share is not None else cores)


def _physical_cores() -> set[str]:
    if not hasattr(os, "sched_getaffinity"):
        return {str(core) for core in range(os.cpu_count() or 1)}
    cores: set[str] = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return cores


def _cgroup_cores() -> float | None:
    """CPU time a second that the control group (version 2, then 1) allows; None for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        folder = Path("/sys/fs/cgroup/cpu")
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
