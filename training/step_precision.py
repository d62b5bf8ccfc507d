"""The number format of a training step, chosen by measurement on the device at hand."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from training.precision import MIN_SPEED_UP, DtypeCache, DtypeName, are_emulated, lower_dtype

log = logging.getLogger(__name__)

RUNS = 2  # of which the fastest counts, after one that warms up
MAX_LOSS_CHANGE = 0.05  # of the fp32 loss; a larger one means that the numbers do not suffice

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_step_dtype(
    loss: Callable[[], torch.Tensor],
    model: torch.nn.Module,
    fingerprint: str,
    *,
    device: torch.device,
    wanted: Literal["auto"] | DtypeName,
    cache_dir: Path | None,
) -> DtypeName:
    """fp32, or 16-bit autocast where a step is at least 1.1 times as fast with it and gives the
    same loss. Weights stay fp32 in any case.

    loss: one batch's loss, with a graph behind it. The outcome is kept in cache_dir, so that a
    training that is repeated computes in the same numbers and comes to the same weights.
    """
    if wanted != "auto":
        return wanted
    cache = DtypeCache(cache_dir, fingerprint, device, work="training")
    if (chosen := cache.read()) is not None:
        return chosen
    lower = lower_dtype(device)
    if are_emulated(lower, device):
        cache.write("fp32")
        return "fp32"
    was_training = model.training
    model.eval()  # without dropout both formats compute the same
    try:
        exact, full_s = _timed(loss, model, device, None)
        rough, half_s = _timed(loss, model, device, _DTYPES[lower], give_up_s=4 * full_s + 0.1)
    except RuntimeError as error:
        log.info("a step in %s does not work on %s (%s); using fp32", lower, device, error)
        return "fp32"  # not kept: memory may have been short just now
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)
    agrees = abs(rough - exact) <= MAX_LOSS_CHANGE * abs(exact) + 0.01
    chosen = lower if agrees and full_s >= MIN_SPEED_UP * half_s else "fp32"
    log.info("a step in fp32 %.3f s, in %s %.3f s, loss %.4f and %.4f; using %s",
             full_s, lower, half_s, exact, rough, chosen)  # fmt: skip
    cache.write(chosen)
    return chosen


def _timed(
    loss: Callable[[], torch.Tensor],
    model: torch.nn.Module,
    device: torch.device,
    dtype: torch.dtype | None,
    *,
    give_up_s: float = float("inf"),
) -> tuple[float, float]:
    """The loss, and the seconds of one step forward and back."""
    best_s, value = float("inf"), float("nan")
    for run in range(RUNS + 1):
        _wait_for(device)
        began = time.perf_counter()
        with autocast(device, dtype):
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        value = float(found.detach())
        model.zero_grad(set_to_none=True)
        _wait_for(device)
        seconds = time.perf_counter() - began
        if run == 0 and seconds > give_up_s:
            return value, seconds
        if run > 0:
            best_s = min(best_s, seconds)
    return value, best_s


def autocast(
    device: torch.device, dtype: torch.dtype | None
) -> contextlib.AbstractContextManager[object]:
    """Compute in 16-bit numbers inside; None for fp32."""
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype)


def torch_dtype(name: DtypeName) -> torch.dtype | None:
    """What autocast takes; None for fp32."""
    return _DTYPES.get(name)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
