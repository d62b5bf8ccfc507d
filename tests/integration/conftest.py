"""Fixtures for tests with many moving parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.word_directory import WordDirectory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[WordDirectory]:
    """An empty data directory with models that need no torch."""
    with WordDirectory(tmp_path / "data", cut_over_timeout_s=5.0) as directory:
        yield directory
