"""Packages that come with an extra: found, or named in an error with the command that installs it."""

from __future__ import annotations

import importlib.util

from training.errors import ExtraMissing


def require(*packages: str, extra: str = "train") -> None:
    """Raises ExtraMissing when one of the packages is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExtraMissing(
            f"{', '.join(missing)} is not installed; run `pip install 'reindexer[{extra}]'`"
        )
