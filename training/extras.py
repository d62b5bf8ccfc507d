"""Packages that come with an extra: there, or an error that says what to install."""

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
