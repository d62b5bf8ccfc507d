"""The searcher manager: real generations are opened aside, swapped, and closed when nobody asks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from reindexer.opening import Opener
from search.errors import NoLiveGeneration, StoreError, StoreUnavailable
from search.processes import process_name
from search.searcher import Searcher, SearchRequest
from search.serving import FOLLOW_S, QUIET_FOLLOW_S, OpenGeneration, SearcherManager
from search.serving_processes import ServingProcess
from tests.word_directory import WordDirectory

NAME = process_name()
WAIT_S = 60.0  # the first time on a machine, opening an index compiles its scoring


class Serving:
    """One serving process: its manager, and what it has opened so far."""

    def __init__(self, directory: WordDirectory) -> None:
        self.directory = directory
        self.opened: list[OpenGeneration] = []
        self.fails_on: str | None = None
        self.may_open = threading.Event()
        self.may_open.set()
        self._opener = Opener(directory, writable=True)
        self.manager = SearcherManager(directory.catalog, self._open, name=NAME, address="here")

    def _open(self, name: str) -> OpenGeneration:
        self.may_open.wait(WAIT_S)
        if name == self.fails_on:
            raise StoreUnavailable("the disk is on fire")
        opened = self._opener.open(name)
        self.opened.append(opened)
        return opened

    def follow_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not done():
            assert time.monotonic() < deadline, "it never came to that"
            self.manager.follow()
            time.sleep(0.005)

    def current(self) -> str | None:
        return self.manager.current.name if self.manager.current is not None else None

    def names(self) -> set[str]:
        return {opened.name for opened in self.manager.opened()}

    def as_seen(self) -> ServingProcess:
        (process,) = self.directory.catalog.processes.seen()
        return process

    def request(self, target: str, token: int = 1) -> None:
        catalog = self.directory.catalog
        catalog.request_cut_over(target, catalog.pointers().live, token=token, seconds=60)

    def swap(self, target: str, token: int = 1) -> None:
        catalog = self.directory.catalog
        live = catalog.pointers().live
        catalog.cut_over(target, expected_live=live, kind="cut_over", token=token)


@pytest.fixture
def two(directory: WordDirectory) -> tuple[str, str]:
    """Two generations of one corpus, neither of them live."""
    directory.put_many(f"d{number}" for number in range(20))
    return directory.build("word@1"), directory.build("word@2")


@pytest.fixture
def serving(directory: WordDirectory) -> Iterator[Serving]:
    serving = Serving(directory)
    yield serving
    serving.manager.close()


def ask(searcher: Searcher, query: str = "all of d7") -> str:
    """The best document."""
    answer = searcher.search(SearchRequest(query=query, k=1, mode="dense"))
    assert answer.generation == searcher.generation
    return answer.hits[0].doc_id


def is_closed(opened: OpenGeneration) -> bool:
    try:
        opened.collection.count()
    except StoreError:
        return True
    return False


def test_before_anything_is_live_the_next_command_is_named(serving: Serving) -> None:
    serving.manager.follow()

    with (
        pytest.raises(NoLiveGeneration, match=r"Run `reindexer ingest SOURCE`"),
        serving.manager.acquire(),
    ):
        pass


def test_a_process_that_starts_late_takes_the_live_generation(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.directory.go_live(second)

    assert serving.manager.wait_until_open(second, timeout_s=WAIT_S)
    serving.manager.follow()
    assert serving.current() == second
    serving.follow_until(lambda: serving.names() == set(two))

    with serving.manager.acquire() as searcher:
        assert searcher.generation == second
        assert ask(searcher) == "d7"


def test_the_catalog_is_asked_more_often_while_something_goes_on(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    assert serving.manager.follow() == QUIET_FOLLOW_S

    serving.directory.go_live(first)
    assert serving.manager.follow() == FOLLOW_S  # it is being opened
    serving.follow_until(lambda: serving.current() == first)
    assert serving.manager.follow() == QUIET_FOLLOW_S

    def compare() -> str:
        with serving.manager.acquire(second) as searcher:
            return searcher.generation

    with ThreadPoolExecutor() as threads:
        compared = threads.submit(compare)
        serving.follow_until(compared.done)
        assert compared.result() == second
    assert serving.manager.follow() == FOLLOW_S  # it may be asked again
    serving.request(second)
    serving.follow_until(lambda: second in serving.names())
    assert serving.manager.follow() == FOLLOW_S  # others may have to prepare still


def test_a_prepared_generation_answers_only_after_the_catalog_has_moved(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.follow_until(lambda: serving.current() == first)

    serving.request(second)
    serving.follow_until(lambda: second in serving.names())
    for _ in range(5):
        serving.manager.follow()
    assert serving.current() == first
    assert (serving.as_seen().generation, serving.as_seen().prepared) == (first, second)

    serving.swap(second)
    assert serving.current() == first
    serving.manager.follow()
    assert serving.current() == second
    assert (serving.as_seen().generation, serving.as_seen().prepared) == (second, None)


def test_a_withdrawn_request_gives_the_generation_back(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.request(second)
    serving.follow_until(lambda: {first, second} == serving.names())

    serving.directory.catalog.withdraw_cut_over(1)
    serving.manager.follow()

    assert serving.names() == {first}
    serving.directory.store.open("docs-2", f"{2:064x}", wait_s=0).close()


def test_the_standby_generation_stays_open_and_comes_before_the_live_one(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.directory.go_live(second)

    serving.follow_until(lambda: serving.current() == second and serving.names() == set(two))

    assert [opened.name for opened in serving.manager.opened()] == [first, second]


def test_a_query_in_flight_ends_on_its_generation_which_is_closed_only_then(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.follow_until(lambda: serving.current() == first)
    (old,) = serving.opened

    with serving.manager.acquire() as searcher:
        serving.request(second)
        serving.follow_until(lambda: second in serving.names())
        serving.swap(second)
        serving.directory.catalog.move(first, "retired")
        for _ in range(5):
            serving.manager.follow()
        assert serving.current() == second
        with serving.manager.acquire() as newer:
            assert newer.generation == second

        assert searcher.generation == first
        assert ask(searcher) == "d7"
        assert not is_closed(old)

    serving.manager.follow()
    assert is_closed(old)
    assert serving.names() == {second}


def test_a_generation_asked_by_name_is_held_too(serving: Serving, two: tuple[str, str]) -> None:
    first, second = two
    for name in two:
        serving.directory.go_live(name)
    serving.follow_until(lambda: serving.names() == set(two))

    with serving.manager.acquire_named(first) as searcher:
        serving.directory.catalog.move(first, "retired")
        serving.manager.follow()
        assert searcher is not None
        assert ask(searcher) == "d7"
    with serving.manager.acquire_named("docs@9") as nothing:
        assert nothing is None

    serving.manager.follow()
    assert serving.names() == {second}


def test_answers_go_on_while_the_next_generation_is_loaded(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.follow_until(lambda: serving.current() == first)

    serving.may_open.clear()
    serving.request(second)
    began = time.monotonic()
    for _ in range(3):
        serving.manager.follow()
        with serving.manager.acquire() as searcher:
            assert ask(searcher) == "d7"
    took_s = time.monotonic() - began
    prepared = serving.as_seen().prepared
    serving.may_open.set()

    assert took_s < 5
    assert prepared is None


def test_a_generation_that_cannot_be_opened_is_a_problem_and_answers_go_on(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.follow_until(lambda: serving.current() == first)
    serving.fails_on = second

    serving.request(second)
    serving.follow_until(lambda: serving.as_seen().problem is not None)

    assert serving.as_seen().problem == "the disk is on fire"
    assert serving.as_seen().prepared is None
    with serving.manager.acquire() as searcher:
        assert ask(searcher) == "d7"


def test_a_new_request_is_a_new_attempt_without_the_old_problem(
    serving: Serving, two: tuple[str, str]
) -> None:
    first, second = two
    serving.directory.go_live(first)
    serving.follow_until(lambda: serving.current() == first)
    serving.fails_on = second
    serving.request(second)
    serving.follow_until(lambda: serving.as_seen().problem is not None)
    serving.directory.catalog.withdraw_cut_over(1)
    serving.fails_on = None
    serving.may_open.clear()

    serving.request(second, token=2)
    serving.manager.follow()
    assert serving.as_seen().problem is None

    serving.may_open.set()
    serving.follow_until(lambda: serving.as_seen().prepared == second)


def test_a_live_generation_that_cannot_be_opened_is_a_problem_too(
    serving: Serving, two: tuple[str, str]
) -> None:
    serving.directory.go_live(two[0])
    serving.fails_on = two[0]

    serving.follow_until(
        lambda: (
            bool(serving.directory.catalog.processes.seen())
            and serving.as_seen().problem is not None
        )
    )

    assert serving.as_seen().generation is None


def test_a_process_that_stops_leaves_the_catalog_and_gives_everything_back(
    serving: Serving, two: tuple[str, str]
) -> None:
    for name in two:
        serving.directory.go_live(name)
    serving.follow_until(lambda: serving.names() == set(two))

    serving.manager.close()

    assert serving.directory.catalog.processes.seen() == []
    assert all(is_closed(opened) for opened in serving.opened)


def test_a_process_that_stops_while_it_loads_gives_everything_back(
    serving: Serving, two: tuple[str, str]
) -> None:
    for name in two:
        serving.directory.go_live(name)
    serving.may_open.clear()
    serving.manager.follow()  # one is being opened, the other one waits for its turn
    threading.Timer(0.2, serving.may_open.set).start()

    serving.manager.close()

    assert serving.directory.catalog.processes.seen() == []
    assert all(is_closed(opened) for opened in serving.opened)


def test_no_query_fails_or_mixes_generations_while_they_are_swapped(
    serving: Serving, two: tuple[str, str]
) -> None:
    serving.directory.go_live(two[0])
    serving.follow_until(lambda: serving.current() == two[0])
    done = threading.Event()
    seen: set[str] = set()

    def keep_asking(_: int) -> int:
        n_answers = 0
        while not done.is_set():
            with serving.manager.acquire() as searcher:
                assert ask(searcher, f"all of d{n_answers % 20}") == f"d{n_answers % 20}"
                seen.add(searcher.generation)
            n_answers += 1
        return n_answers

    with ThreadPoolExecutor(3) as threads:
        counts = threads.map(keep_asking, range(3))
        try:
            for turn in range(1, 7):
                target = two[turn % 2]
                serving.request(target, turn)
                serving.follow_until(lambda target=target: target in serving.names())  # type: ignore[misc]
                serving.swap(target, turn)
                serving.follow_until(lambda target=target: serving.current() == target)  # type: ignore[misc]
        finally:
            done.set()
        assert min(counts) > 0

    assert seen == set(two)
