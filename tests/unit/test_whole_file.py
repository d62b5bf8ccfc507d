"""A file is there whole, as it was before, or not at all."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

import pytest

from training.whole_file import new_file, whole_file, write_whole

Opened = Callable[[Path], AbstractContextManager[BinaryIO]]


def test_it_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "report"
    write_whole(path, "before")
    write_whole(path, b"after")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report", "after")]


@pytest.mark.parametrize("opened", [whole_file, new_file])
def test_a_write_that_fails_names_the_file_and_leaves_nothing(
    opened: Opened, tmp_path: Path
) -> None:
    path = tmp_path / "report"
    with pytest.raises(OSError, match=re.escape(str(path))), opened(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("opened", [whole_file, new_file])
def test_whatever_else_ends_the_block_stays_what_it_is(opened: Opened, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="source"), opened(tmp_path / "report"):
        (tmp_path / "source").read_bytes()
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "report"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_new_file_does_not_replace_one(tmp_path: Path) -> None:
    write_whole(tmp_path / "report", "before")
    with pytest.raises(FileExistsError), new_file(tmp_path / "report"):
        pass
    assert (tmp_path / "report").read_text() == "before"


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    with pytest.raises(IsADirectoryError, match="report"):
        write_whole(tmp_path / "report", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
