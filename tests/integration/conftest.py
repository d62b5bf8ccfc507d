"""Fixtures for tests with many moving parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reindexer.backup import make_backup
from tests.filled_directory import fill
from tests.word_directory import WordDirectory


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[WordDirectory]:
    """An empty data directory with models that need no torch."""
    with WordDirectory(tmp_path / "data", cut_over_timeout_s=5.0) as directory:
        yield directory


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WordDirectory]:
    """An installation on SQLite with embedded collections, which no test changes."""
    with WordDirectory(tmp_path_factory.mktemp("origin") / "data") as directory:
        yield fill(directory)


@pytest.fixture(scope="module")
def kept(origin: WordDirectory, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A place with one backup of it, which no test changes."""
    place = str(tmp_path_factory.mktemp("kept"))
    make_backup(origin, place)
    return place
