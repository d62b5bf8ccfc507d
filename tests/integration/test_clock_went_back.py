"""The system's clock goes back an hour in the middle of things: what is under way goes on, what is
due is done, and nothing is dropped, kept waiting for an hour or believed dead."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.cutover import cut_over
from reindexer.jobs import Job, JobQueue
from reindexer.journal import BUILD_LEASE
from reindexer.prune import plan_prune
from reindexer.schedule import Clock, Schedules
from reindexer.worker import Worker
from search import tables
from search.processes import process_name
from tests.bad_input_targets import Service, service
from tests.word_directory import WordDirectory
from training import kill_points

HOUR_S = 3_600.0
N_DOCUMENTS = 200
WAIT_S = 60.0


@pytest.fixture
def go_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Puts the clock of this process back by an hour; what has been written stays as it is."""
    real = time.time

    def back() -> None:
        monkeypatch.setattr(time, "time", lambda: real() - HOUR_S)

    yield back
    kill_points.listen(None)


@pytest.mark.parametrize("point", ["lease.taken", "upsert.acknowledged", "index.begin"])
def test_a_build_goes_on_and_its_generation_goes_live(
    directory: WordDirectory, go_back: Callable[[], None], point: str
) -> None:
    directory.put_many(f"d{number}" for number in range(N_DOCUMENTS))
    name = directory.record("word@1").name
    directory.journal.record_build(name, start_head=N_DOCUMENTS, docs_total=N_DOCUMENTS)
    kill_points.listen(lambda reached: go_back() if reached == point else None)

    with directory.journal.lease(BUILD_LEASE) as lease:
        run = BuildRun(directory, BuildJob(generation=name, token=lease.token, settings={}))
        assert run_to_its_end(directory, run, name) == 0
        lease.check()
    cut_over(directory, name)

    assert directory.catalog.pointers().live == name
    assert directory.catalog.watermark(name) == N_DOCUMENTS
    assert [build.state for build in directory.journal.builds()] == ["done"]


@pytest.mark.parametrize("point", ["cutover.requested", "cutover.prepared", "cutover.swap"])
def test_a_switch_goes_through_and_the_service_follows(
    tmp_path: Path, go_back: Callable[[], None], point: str
) -> None:
    with service(tmp_path) as running:
        directory = running.directory
        target = directory.build("word@2")
        stop = threading.Event()
        following = threading.Thread(target=_follow, args=(running, stop))
        following.start()
        kill_points.listen(lambda reached: go_back() if reached == point else None)
        try:
            done = cut_over(directory, target)
        finally:
            stop.set()
            following.join()

        assert len(done.serving) == 1
        assert directory.catalog.pointers().live == target
        assert [process.generation for process in directory.catalog.processes.seen()] == [target]
        status, content = running.ask("POST", "/search", b'{"query": "all"}')
        assert (status, target.encode() in content) == (200, True)


def _follow(running: Service, stop: threading.Event) -> None:
    while not stop.wait(0.01):
        running.service.manager.follow()


def test_a_process_that_dies_after_the_clock_went_back_is_not_waited_for(
    directory: WordDirectory, go_back: Callable[[], None]
) -> None:
    directory.put("a", "text")
    dead = process_name(2**22 - 3)  # above what this machine gives out
    directory.catalog.processes.heartbeat(
        dead, address="http://9", generation=None, prepared=None, problem=None
    )
    go_back()

    assert directory.catalog.processes.seen() == []
    cut_over(directory, directory.build("word@1"))


def test_a_job_that_waits_is_tried_again(
    directory: WordDirectory, go_back: Callable[[], None]
) -> None:
    queue = JobQueue(directory.database)
    asked = queue.ask("sync", {}, who="ann")
    with directory.journal.lease("worker/one") as lease:
        job = queue.claim({"sync"}, lease)
        assert job is not None
        queue.put_back(job, "the store is away", wait_s=5)
        assert queue.claim({"sync"}, lease) is None
        go_back()

        again = queue.claim({"sync"}, lease)

    assert again is not None
    assert (again.job_id, again.attempts) == (asked.job_id, 2)


def test_a_schedule_is_kept(
    directory: WordDirectory, go_back: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.schedule.REFRESH_S", 0.05)
    schedules = Schedules(directory.database)
    schedules.set("often", "sync", "every 1h")
    with directory.database.write() as connection:
        connection.execute(sa.update(tables.schedules).values(last_at=time.time()))
    rung = threading.Event()
    jobs: list[Job] = []
    clock = Clock(
        schedules, on_job=lambda job: (jobs.append(job), rung.set())[1], on_error=pytest.fail
    )
    clock.start()
    try:
        assert not rung.wait(0.3)
        go_back()
        assert rung.wait(WAIT_S)
        time.sleep(0.3)
    finally:
        clock.stop()
    assert [job.kind for job in jobs] == ["sync"], "once, not with every look"


def test_a_build_that_died_before_is_gone_on_with(
    directory: WordDirectory, go_back: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    name = directory.record("word@1").name
    directory.journal.start_run(directory.journal.record_build(name, start_head=0, docs_total=0))
    worker = Worker(directory)
    with caplog.at_level(logging.WARNING):
        worker._resume_orphans()
        assert worker.queue.active() == [], "somebody may be about to go on with it"
        go_back()
        worker._resume_orphans()

    assert [job.generation for job in worker.queue.active()] == [name]


def test_a_hold_over_is_neither_cut_short_nor_lengthened_beyond_its_length(
    directory: WordDirectory, go_back: Callable[[], None]
) -> None:
    directory.put("a", "text")
    for model in ("word@1", "word@2"):
        directory.go_live(directory.build(model))
    go_back()

    plan = plan_prune(directory, after_hold_over=True)

    assert plan.items == ()
    (told,) = [why for name, why in plan.kept if name == "docs@1"]
    assert f"for another {directory.settings.hold_over_h:.0f} h" in told
