"""A serving process that starts while the fleet switches takes the right generation."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from reindexer.cutover import cut_over
from reindexer.opening import Opener
from search.serving import OpenGeneration, SearcherManager
from tests.word_directory import WordDirectory

WAIT_S = 60.0


class SlowStart:
    """A process whose loading of a generation waits until the test lets it go on."""

    def __init__(self, directory: WordDirectory, name: str) -> None:
        self._opener = Opener(directory, writable=False)
        self.begun = threading.Event()
        self.may_go_on = threading.Event()
        self.manager = SearcherManager(
            directory.catalog, self._open, name=name, address="http://127.0.0.1:1"
        )

    def _open(self, name: str) -> OpenGeneration:
        self.begun.set()
        assert self.may_go_on.wait(WAIT_S)
        return self._opener.open(name)

    def close(self) -> None:
        self.may_go_on.set()
        self.manager.close()
        self._opener.close()


@pytest.fixture
def starting(directory: WordDirectory) -> Iterator[SlowStart]:
    """It loads docs@1, which is live; docs@2 is ready."""
    directory.put_many(f"d{number}" for number in range(5))
    directory.go_live(directory.build("word@1"))
    directory.build("word@2")
    process = SlowStart(directory, "starting:1:1")
    yield process
    process.close()


def in_background(work: object, *args: object) -> threading.Thread:
    assert callable(work)
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def test_what_went_live_while_it_loaded_is_what_it_begins_with(
    directory: WordDirectory, starting: SlowStart
) -> None:
    found: list[bool] = []
    start = in_background(lambda: found.append(starting.manager.wait_until_live(WAIT_S)))
    assert starting.begun.wait(WAIT_S)

    directory.go_live("docs@2")
    starting.may_go_on.set()
    start.join(WAIT_S)

    assert found == [True]
    assert starting.manager.current is not None
    assert starting.manager.current.name == "docs@2"


def test_a_switch_waits_for_a_process_that_started_after_it_was_asked_for(
    directory: WordDirectory, starting: SlowStart, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes up when all the others have prepared, and before the switch is made."""
    directory.put("late", "written after the build")
    lag_before = directory.corpus.lag
    has_joined = threading.Event()
    waiting: list[str] = []

    def lag(watermark: int) -> int:
        if not has_joined.is_set():
            starting.manager.follow()  # its first heartbeat
            has_joined.set()
        return lag_before(watermark)

    def told(message: str) -> None:
        waiting.append(message)
        starting.may_go_on.set()

    monkeypatch.setattr(directory.corpus, "lag", lag)
    switch = in_background(lambda: cut_over(directory, "docs@2", on_wait=told))
    assert has_joined.wait(WAIT_S)
    while switch.is_alive():
        starting.manager.follow()
        switch.join(0.02)

    assert any("prepared by starting:1:1" in message for message in waiting)
    assert directory.catalog.pointers().live == "docs@2"
    assert starting.manager.current is not None
    assert starting.manager.current.name == "docs@2"
