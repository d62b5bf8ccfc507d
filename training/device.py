"""Where an encoder computes."""

from __future__ import annotations

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


def n_gpus() -> int:
    """CUDA GPUs that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def is_out_of_memory(error: Exception) -> bool:
    """Whether it says that memory, of whatever device, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text or "alloc_failed" in text
    )
