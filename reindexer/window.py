"""How many documents a build may have encoded and not yet acknowledged."""

from __future__ import annotations

from reindexer.settings import Settings

CPU_WINDOW = 1_024  # documents; half a minute or so of work, and enough to sort by length
GPU_WINDOW = 32_768  # a few seconds of work; two units of 16,384, each sorted as a whole


def window_docs(settings: Settings, device: str) -> int:
    """What the settings say, or what suits the device: a kill costs one window, and sorting by
    length works within half of one. device: as `Encoder.device` names it."""
    if settings.window is not None:
        return settings.window
    return GPU_WINDOW if device.startswith("cuda") else CPU_WINDOW
