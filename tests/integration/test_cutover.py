"""The switch: prepared everywhere first, refused by name, and back again without losing a write."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sqlalchemy as sa

from reindexer.cutover import CutOver, cut_over, rollback
from reindexer.errors import GateRefused, LeaseHeld
from reindexer.journal import CUT_OVER_LEASE, SYNC_LEASE
from reindexer.opening import Opener
from reindexer.sync import sync_once
from search import tables
from search.errors import (
    CollectionDamaged,
    CollectionMissing,
    CutOverRefused,
    NoLiveGeneration,
    StoreUnavailable,
    WrongState,
)
from search.processes import process_name
from search.searcher import SearchRequest
from search.serving import OpenGeneration, SearcherManager
from tests.word_directory import WordDirectory

WAIT_S = 60.0


class NoCollection:
    """Several serving processes cannot have one embedded collection open; these have none."""

    def close(self) -> None:
        pass


class ServingProcesses:
    """Managers that follow the catalog, each in a thread of its own, as if in many processes."""

    def __init__(self, directory: WordDirectory, n_processes: int) -> None:
        self._directory = directory
        self.names = tuple(f"{process_name()}:{number}" for number in range(n_processes))
        self.may_open = {name: threading.Event() for name in self.names}
        self.broken: set[str] = set()
        self.managers = [self._manager(name) for name in self.names]
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, args=[manager]) for manager in self.managers
        ]
        for event in self.may_open.values():
            event.set()
        for thread in self._threads:
            thread.start()
        live = directory.catalog.pointers().live
        wait_until(lambda: self.generations() == [live] * n_processes)

    def _manager(self, name: str) -> SearcherManager:
        def open_generation(generation: str) -> OpenGeneration:
            self.may_open[name].wait(WAIT_S)
            if name in self.broken:
                raise StoreUnavailable("out of memory")
            recorded = self._directory.catalog.get(generation)
            return OpenGeneration(
                generation=recorded,
                encoder=cast(Any, None),
                collection=cast(Any, NoCollection()),
                lexical=cast(Any, None),
                searcher=cast(Any, SimpleNamespace(recipe=recorded.recipe)),
            )

        return SearcherManager(
            self._directory.catalog, open_generation, name=name, address=f"http://{name[-1]}"
        )

    def _follow(self, manager: SearcherManager) -> None:
        while not self._stop.wait(0.01):
            manager.follow()

    def generations(self) -> list[str | None]:
        return [process.generation for process in self._directory.catalog.processes.seen()]

    def have_open(self, generation: str) -> list[bool]:
        return [generation in {o.name for o in manager.opened()} for manager in self.managers]

    def stop(self) -> None:
        for event in self.may_open.values():
            event.set()
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for manager in self.managers:
            manager.close()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


@pytest.fixture
def two(directory: WordDirectory) -> tuple[str, str]:
    """Two generations of one corpus; the first is live, the second is ready."""
    directory.put_many(f"d{number}" for number in range(20))
    first, second = directory.build("word@1"), directory.build("word@2")
    directory.go_live(first)
    return first, second


@pytest.fixture
def processes(directory: WordDirectory, two: tuple[str, str]) -> Iterator[ServingProcesses]:
    assert two
    processes = ServingProcesses(directory, 3)
    yield processes
    processes.stop()


def assert_nothing_moved(directory: WordDirectory, live: str, target: str) -> None:
    pointers = directory.catalog.pointers()
    assert (pointers.live, pointers.standby, pointers.request) == (live, None, None)
    assert directory.catalog.get(target).state == "ready"
    assert directory.journal.holder(CUT_OVER_LEASE) is None


def in_thread(directory: WordDirectory, target: str) -> tuple[threading.Thread, list[CutOver]]:
    done: list[CutOver] = []
    thread = threading.Thread(target=lambda: done.append(cut_over(directory, target)))
    thread.start()
    return thread, done


# -- with serving processes ------------------------------------------------------------------------


def test_every_process_answers_from_the_new_generation_afterwards(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    first, second = two

    done = cut_over(directory, second)

    assert (done.live_before, done.live_after, done.standby) == (first, second, first)
    assert done.serving == processes.names
    assert done.late == ()
    assert processes.generations() == [second] * 3
    assert directory.catalog.pointers().live == second
    assert directory.catalog.pointers().standby == first


def test_nothing_is_switched_before_every_process_is_prepared(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    first, second = two
    slow = processes.names[1]
    processes.may_open[slow].clear()

    thread, done = in_thread(directory, second)
    wait_until(lambda: processes.have_open(second) == [True, False, True])
    time.sleep(0.2)
    assert directory.catalog.pointers().live == first
    assert processes.generations() == [first] * 3
    processes.may_open[slow].set()
    thread.join()

    assert directory.catalog.pointers().live == second
    assert done[0].serving == processes.names


def test_those_that_are_waited_for_are_named(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    slow = processes.names[1]
    processes.may_open[slow].clear()
    messages: list[str] = []

    def on_wait(message: str) -> None:
        messages.append(message)
        if message.endswith(f"{slow} at http://1") and "," not in message:
            processes.may_open[slow].set()

    cut_over(directory, two[1], on_wait=on_wait)

    assert messages[0].startswith(f"waiting until {two[1]} is prepared by ")
    assert f"{slow} at http://1" in messages[-1]


def test_a_process_that_cannot_prepare_stops_the_switch_and_is_named(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    first, second = two
    broken = processes.names[2]
    processes.broken.add(broken)

    with pytest.raises(CutOverRefused, match=f"{broken} at http://2: out of memory") as caught:
        cut_over(directory, second)

    assert "nothing was switched" in str(caught.value)
    assert_nothing_moved(directory, first, second)
    wait_until(lambda: processes.have_open(second) == [False] * 3)

    processes.broken.clear()
    assert cut_over(directory, second).serving == processes.names


def test_a_process_that_takes_too_long_is_named(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    first, second = two
    slow = processes.names[0]
    processes.may_open[slow].clear()
    object.__setattr__(directory.settings, "cut_over_timeout_s", 0.5)

    with pytest.raises(CutOverRefused, match=f"not prepared for {second} within .*: {slow} at"):
        cut_over(directory, second)

    assert_nothing_moved(directory, first, second)
    assert processes.generations() == [first] * 3


def test_a_process_that_died_is_not_waited_for(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    """One that is dead already, and one that dies while it prepares."""
    program = (
        "from search.processes import process_name; import time; "
        "print(process_name(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        name = child.stdout.readline().decode().strip()
        directory.catalog.processes.heartbeat(
            name, address="http://9", generation=two[0], prepared=None, problem=None
        )
        with directory.database.write() as connection:  # its lease alone would keep it for long
            connection.execute(
                sa.update(tables.searchers)
                .where(tables.searchers.c.name == name)
                .values(seen_at=time.time() + 60)
            )
        messages: list[str] = []

        def on_wait(message: str) -> None:
            messages.append(message)
            if "," not in message:  # the others are prepared
                child.kill()
                child.wait()

        done = cut_over(directory, two[1], on_wait=on_wait)

    assert f"{name} at http://9" in messages[-1]
    assert done.serving == processes.names


def test_what_went_wrong_in_an_earlier_attempt_does_not_block_the_next(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    _first, second = two
    name = "elsewhere:1:1"

    def beat(request: int | None) -> None:
        directory.catalog.processes.heartbeat(
            name, address="a", generation=None, prepared=None, problem="full", request=request
        )

    beat(0)
    done = cut_over(
        directory, second, on_wait=lambda _message: directory.catalog.processes.leave(name)
    )
    assert done.live_after == second
    assert done.serving == processes.names

    def say_it_of_this_one(_message: str) -> None:
        request = directory.catalog.pointers().request
        beat(request.token if request is not None else None)

    beat(0)
    with pytest.raises(CutOverRefused, match=rf"{name} at a: full"):
        rollback(directory, on_wait=say_it_of_this_one)
    live = directory.catalog.live()
    assert live is not None
    assert live.name == second


def test_a_target_that_is_behind_is_waited_for(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    """A serving process replays; the switch comes at a moment when the target is not behind."""
    first, second = two
    assert processes
    seq = directory.put("d0", "edited")
    advance(directory, first, seq)
    messages: list[str] = []

    def on_wait(message: str) -> None:
        messages.append(message)
        if "caught up" in message:
            assert directory.catalog.pointers().live == first
            advance(directory, second, seq)

    cut_over(directory, second, on_wait=on_wait)

    assert f"waiting until {second} has caught up with the corpus" in messages
    assert directory.catalog.pointers().live == second


def test_a_target_that_catches_up_while_it_is_refused_is_switched_to(
    directory: WordDirectory,
    two: tuple[str, str],
    processes: ServingProcesses,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = two
    assert processes
    seq = directory.put("d0", "edited")
    advance(directory, first, seq)
    swap = directory.catalog.cut_over

    def swap_and_catch_up(*args: Any, **options: Any) -> None:
        try:
            swap(*args, **options)
        finally:
            if directory.catalog.watermark(second) < seq:
                advance(directory, second, seq)

    monkeypatch.setattr(directory.catalog, "cut_over", swap_and_catch_up)

    cut_over(directory, second)

    assert directory.catalog.pointers().live == second


def test_a_target_that_stays_behind_is_refused(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    first, second = two
    assert processes
    object.__setattr__(directory.settings, "cut_over_timeout_s", 0.5)
    advance(directory, first, directory.put("d0", "edited"))

    with pytest.raises(CutOverRefused, match=f"{second} is at seq 20, behind {first} at 21"):
        cut_over(directory, second)

    assert_nothing_moved(directory, first, second)


def advance(directory: WordDirectory, name: str, seq: int) -> None:
    with directory.journal.lease("other") as lease:
        directory.catalog.advance(name, seq, lease="other", token=lease.token)


def test_two_switches_at_once_are_one_after_the_other(
    directory: WordDirectory, two: tuple[str, str], processes: ServingProcesses
) -> None:
    slow = processes.names[0]
    processes.may_open[slow].clear()
    thread, done = in_thread(directory, two[1])
    wait_until(lambda: directory.journal.holder(CUT_OVER_LEASE) is not None)

    with pytest.raises(LeaseHeld, match="the lease 'cutover' is held by process"):
        cut_over(directory, two[1])

    processes.may_open[slow].set()
    thread.join()
    assert done[0].live_after == two[1]


# -- the gate --------------------------------------------------------------------------------------


def test_a_generation_that_was_not_verified_does_not_go_live(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    first, second = two
    directory.catalog.keep_verification(second, {"passed": False})

    with pytest.raises(GateRefused, match=f"run `reindexer verify {second}`"):
        cut_over(directory, second)

    assert_nothing_moved(directory, first, second)


def test_a_person_may_override_the_gate_which_is_recorded(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    second = two[1]
    directory.catalog.keep_verification(second, {"passed": False})
    directory.catalog.move(second, "failed", reason="quality")
    with pytest.raises(GateRefused, match=r"is failed, expected ready.*--override"):
        cut_over(directory, second)

    cut_over(directory, second, override="the judgments are out of date")

    assert directory.catalog.pointers().live == second
    events = {event["kind"]: event for event in directory.catalog.events.newest(3)}
    assert events["gate_overruled"]["reason"] == "the judgments are out of date"
    assert events["cut_over"]["override"] == "the judgments are out of date"
    assert "@" in events["gate_overruled"]["who"]


def test_a_cancelled_build_does_not_go_live_whatever_the_reason(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    name = directory.record("word@3").name
    directory.catalog.move(name, "failed", reason="cancelled")

    with pytest.raises(GateRefused):
        cut_over(directory, name, override="I want it")

    assert directory.catalog.pointers().live == two[0]


@pytest.mark.parametrize("state", ["building", "retired"])
def test_a_generation_in_another_state_does_not_go_live(
    directory: WordDirectory, two: tuple[str, str], state: str
) -> None:
    if state == "building":
        name = directory.record("word@3").name
    else:
        name = two[1]
        directory.catalog.move(name, "retired")

    with pytest.raises(WrongState, match=f"{name} is {state}, expected ready"):
        cut_over(directory, name)


def test_what_is_live_already_is_not_switched_to(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    with pytest.raises(WrongState, match=f"{two[0]} is live already; nothing was changed"):
        cut_over(directory, two[0])


# -- without a service -----------------------------------------------------------------------------


def ask(directory: WordDirectory, name: str, query: str) -> list[str]:
    """The documents that this generation's collection finds for the query, best first."""
    opened = Opener(directory, writable=False).open(name)
    try:
        answer = opened.searcher.search(SearchRequest(query=query, k=3, mode="dense"))
    finally:
        opened.close()
    return [hit.doc_id for hit in answer.hits]


def test_the_first_generation_goes_live(directory: WordDirectory) -> None:
    directory.put_many(["a", "b"])
    name = directory.build("word@1")

    done = cut_over(directory, name)

    assert (done.live_before, done.live_after, done.standby) == (None, name, None)
    assert (done.serving, done.late) == ((), ())


def test_without_a_service_the_caller_catches_up(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    directory.put("new", "written after the build")
    directory.corpus.delete(["d3"])

    cut_over(directory, two[1])

    assert directory.catalog.watermark(two[1]) == directory.corpus.head()
    assert ask(directory, two[1], "written after the build")[0] == "new"
    assert "d3" not in ask(directory, two[1], "all of d3")


def test_rollback_keeps_what_was_written_since(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    first, second = two
    cut_over(directory, second)
    directory.put("new", "written after the switch")
    directory.put("d5", "edited after the switch")
    directory.corpus.delete(["d3"])
    with directory.journal.lease(SYNC_LEASE) as lease:
        sync_once(directory, lease)
    directory.put("newest", "written just before the rollback")

    done = rollback(directory)

    assert (done.live_before, done.live_after, done.standby) == (second, first, second)
    assert directory.catalog.watermark(first) == directory.corpus.head()
    assert ask(directory, first, "written after the switch")[0] == "new"
    assert ask(directory, first, "edited after the switch")[0] == "d5"
    assert ask(directory, first, "written just before the rollback")[0] == "newest"
    assert "d3" not in ask(directory, first, "all of d3")
    assert directory.catalog.events.newest(1)[0]["kind"] == "rollback"

    assert rollback(directory).live_after == second


def test_rollback_leaves_a_live_generation_that_is_broken(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    first, second = two
    cut_over(directory, second)
    shutil.rmtree(directory.path / "collections" / directory.catalog.get(second).collection)
    directory.put("new", "written after the damage")

    rollback(directory)

    assert directory.catalog.pointers().live == first
    assert ask(directory, first, "written after the damage")[0] == "new"


def test_rollback_with_nothing_to_go_back_to_says_so(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    with pytest.raises(WrongState, match=f"no standby generation .*; {two[0]} stays live"):
        rollback(directory)


def test_rollback_before_anything_is_live_says_so(directory: WordDirectory) -> None:
    with pytest.raises(NoLiveGeneration, match="run `reindexer upgrade MODEL` first"):
        rollback(directory)


# -- sync ------------------------------------------------------------------------------------------


def test_sync_brings_live_and_standby_to_the_head(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    cut_over(directory, two[1])
    directory.put("new", "text")
    directory.corpus.delete(["d3"])

    with directory.journal.lease(SYNC_LEASE) as lease:
        report = sync_once(directory, lease)

    assert set(report.generations) == set(two)
    assert report.encoded == 2
    for name in two:
        assert directory.catalog.watermark(name) == report.head_seq == directory.corpus.head()


def test_sync_with_nothing_to_do_opens_nothing(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    opened = Opener(directory, writable=False).open(two[0])  # held: nobody else can open it

    with directory.journal.lease(SYNC_LEASE) as lease:
        report = sync_once(directory, lease)

    opened.close()
    assert (report.encoded, report.lexical_changes) == (0, 0)


def test_a_broken_standby_does_not_keep_the_live_generation_from_its_changes(
    directory: WordDirectory, two: tuple[str, str]
) -> None:
    first, second = two
    cut_over(directory, second)
    shutil.rmtree(directory.path / "collections" / directory.catalog.get(first).collection)
    directory.put("new", "text")

    with (
        directory.journal.lease(SYNC_LEASE) as lease,
        pytest.raises((CollectionMissing, CollectionDamaged)),
    ):
        sync_once(directory, lease)

    assert directory.catalog.watermark(second) == directory.corpus.head()
