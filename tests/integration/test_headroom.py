"""A build that would fill the disk is refused before it begins."""

from __future__ import annotations

import pytest

from reindexer.errors import GateRefused
from reindexer.headroom import HEADROOM, check_headroom, disk_bytes
from tests.word_directory import WordDirectory


def test_a_build_needs_twice_the_disk_it_takes_in_the_end(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.put_many(f"d{number}" for number in range(100))
    generation = directory.record("word@1")
    needed = int(HEADROOM * disk_bytes(100, generation.recipe))

    monkeypatch.setattr(directory, "free_disk_bytes", lambda: needed)
    check_headroom(directory, generation, None)

    monkeypatch.setattr(directory, "free_disk_bytes", lambda: needed - 1)
    message = r"word@1 takes about 79\.2 kB, 2 times that.*158\.4 kB are free.*--override"
    with pytest.raises(GateRefused, match=message):
        check_headroom(directory, generation, None)


def test_a_person_may_go_ahead_and_it_is_recorded(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.put("long", "many words of one text " * 200)
    generation = directory.record("word@1")
    monkeypatch.setattr(directory, "free_disk_bytes", lambda: 0)

    check_headroom(directory, generation, "another disk is on its way")

    kinds = [event["kind"] for event in directory.catalog.events.newest()]
    assert "headroom_overruled" in kinds
