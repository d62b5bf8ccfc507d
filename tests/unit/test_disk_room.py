"""What files take up is counted while they come and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from search.disk_room import bytes_on_disk


def test_blocks_are_counted_and_holes_are_not(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "full").write_bytes(os.urandom(100_000))
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(50_000_000)

    assert 100_000 <= bytes_on_disk(tmp_path) < 200_000


def test_a_folder_that_goes_away_meanwhile_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_bytes(os.urandom(50_000))
    (tmp_path / "gone").mkdir()
    scandir = os.scandir

    def late(path: Any) -> Iterator[Any]:
        if str(path).endswith("gone"):
            (tmp_path / "gone").rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)

    assert 50_000 <= bytes_on_disk(tmp_path) < 100_000
    assert not (tmp_path / "gone").exists()
