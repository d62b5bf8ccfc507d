"""A build encoded by actors on a Ray cluster of this machine, which are killed at random."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fanout_world as world
from tests.fanout_world import settings_of
from tests.noted_directory import HOLD, NotedDirectory
from tests.qdrant_server import QdrantServer

ray = pytest.importorskip("ray")

# Ray leaves processes of an attempt to start behind without waiting for them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a cluster with room for two actors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_enable_worker_prestart", "0")  # of processes that nobody would ask
        context = _start_ray()
    yield context.address_info["address"]
    ray.shutdown()


def _start_ray() -> Any:
    for attempt in range(3):  # on a busy machine it gives up after 30 s
        try:
            return ray.init(
                num_cpus=2,
                object_store_memory=100_000_000,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    raise AssertionError


def test_actors_make_what_one_process_makes_and_a_dead_one_costs_its_chunk(
    tmp_path: Path, address: str
) -> None:
    settings = settings_of(tmp_path, fanout="ray", ray_address=address)
    with NotedDirectory(settings) as directory:
        world.fill(directory)
        generation = world.begin(directory)

        with world.killing(directory, times=2) as killed:
            world.run(directory, generation)

        build = directory.journal.build_of(generation.name)
        assert build.docs_done == directory.corpus.count()
        assert (len(killed), build.retries) == (2, 2)
        assert world.n_encoded(directory) <= build.encoded + 2 * world.CHUNK_DOCS
        world.assert_equal_to_one_process(directory, generation)


def test_a_driver_that_is_killed_takes_its_actors_along_and_another_goes_on(
    tmp_path: Path, address: str
) -> None:
    ours = {"fanout": "ray", "ray_address": address}
    with NotedDirectory(settings_of(tmp_path, **ours)) as directory:
        world.fill(directory)
        generation = world.begin(directory)

        assert world.die_in_the_middle(directory, **ours) >= 3
        directory.put("d1", "edited while nobody built")  # moves past the last chunk
        directory.corpus.delete(["d200"])
        world.run(directory, generation)

        build = directory.journal.build_of(generation.name)
        assert build.docs_done <= directory.corpus.count() + 2  # the edited and the deleted one
        world.assert_equal_to_one_process(directory, generation)


def test_actors_write_straight_to_a_server_and_do_not_encode_again_what_is_there(
    tmp_path: Path, address: str
) -> None:
    with QdrantServer() as server:
        settings = settings_of(
            tmp_path,
            fanout="ray",
            ray_address=address,
            store_kind="qdrant",
            store_url=server.url,
        )
        with NotedDirectory(settings) as directory:
            world.fill(directory, 60)
            generation = world.begin(directory)

            with world.killing(directory, times=1):
                world.run(directory, generation)

            build = directory.journal.build_of(generation.name)
            assert world.n_encoded(directory) <= build.passages + world.WINDOW  # of a chunk of 20
            world.assert_equal_to_one_process(directory, generation)


def test_more_and_fewer_actors_while_it_runs(tmp_path: Path, address: str) -> None:
    settings = settings_of(tmp_path, fanout="ray", ray_address=address, ray_actors=1)
    with NotedDirectory(settings) as directory:
        world.fill(directory)
        generation = world.begin(directory)
        build_id = directory.journal.build_of(generation.name).build_id
        seen: list[int] = []

        hold = directory.path / HOLD
        hold.touch()

        def until(n_actors: int) -> None:
            while len(world.actors(directory)) != n_actors:
                time.sleep(0.02)
            seen.append(n_actors)

        def scale() -> None:
            until(1)
            directory.journal.update_build(build_id, actors=2)
            until(2)
            directory.journal.update_build(build_id, actors=1)
            hold.unlink()
            until(1)

        scaling = threading.Thread(target=scale, daemon=True)
        scaling.start()
        world.run(directory, generation)
        scaling.join(5.0)

        assert seen == [1, 2, 1]
        assert directory.journal.build_of(generation.name).retries == 0
