"""Paths as people type them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def local_path(ref: str | Path) -> Path:
    """The path with ~ for the home of its user; as it stands where there is no such user."""
    path = Path(ref)
    with contextlib.suppress(RuntimeError):
        return path.expanduser()
    return path
