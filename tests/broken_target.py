"""A target that breaks its promise, for `benchmarks/fuzz.py` to find: most of its inputs raise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from tests.bad_input_targets import Target
from tests.bad_sources import Check


@contextmanager
def _broken(_folder: Path) -> Iterator[Check]:
    def check(value: int) -> None:
        assert value <= 10, f"planted: {value}"

    yield check


@contextmanager
def _sound(_folder: Path) -> Iterator[Check]:
    yield lambda _value: None


TARGETS = (
    Target(name="sound", inputs=st.integers(0, 1_000), opened=_sound, share=50),
    Target(name="broken", inputs=st.integers(0, 1_000), opened=_broken, share=50),
)
