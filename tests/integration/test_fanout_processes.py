"""A build encoded by child processes: what it makes, and what a dead one of them costs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reindexer.errors import BuildFailed
from search.query_times import QueryLoad
from tests import fanout_world as world
from tests.fanout_world import settings_of
from tests.noted_directory import DEADLY, UNENCODABLE, NotedDirectory
from training.errors import EncodingFailed


def test_several_processes_make_what_one_makes_and_a_dead_one_costs_its_chunk(
    tmp_path: Path,
) -> None:
    with NotedDirectory(settings_of(tmp_path, fanout="processes", processes=2)) as directory:
        world.fill(directory)
        generation = world.begin(directory)

        with world.killing(directory, times=2) as killed:
            world.run(directory, generation)

        build = directory.journal.build_of(generation.name)
        assert build.docs_done == directory.corpus.count()
        assert (len(killed), build.retries) == (2, 2)
        assert world.n_encoded(directory) <= build.encoded + 2 * world.CHUNK_DOCS
        assert world.n_done(directory) == 0  # the marks have gone: the watermark says it all
        world.assert_equal_to_one_process(directory, generation)


def test_a_build_that_dies_goes_on_with_the_chunks_that_are_not_done(tmp_path: Path) -> None:
    settings = {"fanout": "processes", "processes": 2}
    with NotedDirectory(settings_of(tmp_path, fanout="none")) as directory:
        world.fill(directory)
        generation = world.begin(directory)

        done = world.die_in_the_middle(directory, **settings)
        directory.put("d1", "edited while nobody built")  # moves past the last chunk
        directory.corpus.delete(["d200"])
        world.run(directory, generation)  # with no actors this time

        build = directory.journal.build_of(generation.name)
        assert done >= 3
        assert build.docs_done <= directory.corpus.count() + 2  # the edited and the deleted one
        world.assert_equal_to_one_process(directory, generation)


def test_an_error_that_every_actor_would_meet_ends_the_build(tmp_path: Path) -> None:
    with NotedDirectory(settings_of(tmp_path, fanout="processes", processes=1)) as directory:
        world.fill(directory, 30)
        directory.put("bad", f"a text with {UNENCODABLE} in it")
        generation = world.begin(directory)

        with pytest.raises(EncodingFailed, match="document 'bad', passage 0"):
            world.run(directory, generation)


def test_a_chunk_that_kills_every_actor_is_named(tmp_path: Path) -> None:
    with NotedDirectory(settings_of(tmp_path, fanout="processes", processes=1)) as directory:
        world.fill(directory, 30)
        directory.put("bad", f"a text with {DEADLY} in it")
        generation = world.begin(directory)

        with pytest.raises(BuildFailed, match=r"seq 20 to 33 was begun by 5 actors"):
            world.run(directory, generation)


def test_actors_keep_the_pace_that_the_build_has_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.pace.HOLD_S", 3.0)
    with NotedDirectory(settings_of(tmp_path, fanout="processes", processes=1)) as directory:
        world.fill(directory, 800)
        generation = world.begin(directory)
        with ThreadPoolExecutor(1) as thread, slow_queries(directory) as ended:
            built = thread.submit(world.run, directory, generation)
            wait_for(lambda: world.n_encoded(directory) > 0)
            wait_for(lambda: directory.journal.build_of(generation.name).pace == 0)
            time.sleep(1.2)  # until the actor has read it
            held_at = world.n_encoded(directory)
            time.sleep(0.8)
            assert world.n_encoded(directory) == held_at
            ended.set()
            built.result(timeout=60)

        build = directory.journal.build_of(generation.name)
        assert build.stages["yield"] > 1.5
        assert held_at < build.encoded
        assert build.pace is None


@contextlib.contextmanager
def slow_queries(directory: NotedDirectory) -> Iterator[threading.Event]:
    """A serving process elsewhere, whose queries miss the target until the event is set."""
    ended = threading.Event()
    load = QueryLoad(queries_per_s=20, p50_ms=200, p99_ms=500)

    def beat() -> None:
        while not ended.wait(0.3):
            directory.catalog.processes.heartbeat(
                "elsewhere:7:1",
                address="",
                generation=None,
                prepared=None,
                problem=None,
                request=None,
                load=load,
            )
        directory.catalog.processes.leave("elsewhere:7:1")

    serving = threading.Thread(target=beat)
    serving.start()
    try:
        yield ended
    finally:
        ended.set()
        serving.join()


def wait_for(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
