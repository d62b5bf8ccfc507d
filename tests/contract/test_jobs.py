"""What the queue promises: a job is done by one worker at a time, and by one in the end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from reindexer import journal as journal_module
from reindexer.jobs import Job, JobLost, JobQueue
from reindexer.journal import Journal, Lease
from reindexer.schedule import Schedules
from search import tables
from search.database import Database
from search.errors import LeaseLost

ALL = frozenset({"sync", "evaluate", "prune", "build", "upgrade", "compact", "train"})
BUILD = {"model": "support@1", "generation": "docs@1"}


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database)


@pytest.fixture
def workers(database: Database) -> Iterator[tuple[Lease, Lease]]:
    """The leases of two workers."""
    journal = Journal(database)
    with journal.lease("worker/one") as one, journal.lease("worker/other") as other:
        yield one, other


def claimed(queue: JobQueue, lease: Lease) -> Job:
    job = queue.claim(ALL, lease)
    assert job is not None
    return job


def expire(database: Database, lease: Lease) -> None:
    """Its worker has not been heard of for the length of a lease."""
    with database.write() as connection:
        connection.execute(
            sa.update(tables.leases)
            .where(tables.leases.c.name == lease.name)
            .values(expires_at=time.time() - 1)
        )


# -- asking ----------------------------------------------------------------------------------------


def test_what_waits_already_is_not_asked_for_twice(queue: JobQueue) -> None:
    first = queue.ask("sync", {}, who="ann")
    again = queue.ask("sync", {}, who="schedule")
    other = queue.ask("evaluate", {"folder": "a"}, who="ann")

    assert again.job_id == first.job_id
    assert other.job_id != first.job_id
    assert [job.who for job in queue.recent()] == ["ann", "ann"]


def test_a_job_says_who_asked_what_came_of_it_and_how_long_it_took(
    queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    asked = queue.ask("evaluate", {"folder": "judged"}, who="ann")
    assert (asked.state, asked.to_json()["seconds"]) == ("queued", None)

    job = claimed(queue, workers[0])
    queue.finish(job, {"ndcg@10": 0.7})

    done = queue.get(asked.job_id)
    assert (done.state, done.result, done.who) == ("done", {"ndcg@10": 0.7}, "ann")
    assert done.to_json()["seconds"] >= 0


# -- two workers -----------------------------------------------------------------------------------


def test_two_workers_never_do_the_same_job(queue: JobQueue, workers: tuple[Lease, Lease]) -> None:
    jobs = [queue.ask("evaluate", {"folder": str(number)}, who="ann") for number in range(12)]
    together = threading.Barrier(2)

    def work(lease: Lease) -> list[int]:
        together.wait()
        mine = []
        while queue.active():
            job = queue.claim(ALL, lease)
            if job is not None:
                mine.append(job.job_id)
                queue.finish(job, None)
        return mine

    with ThreadPoolExecutor() as pool:
        done = [number for mine in pool.map(work, workers) for number in mine]

    assert sorted(done) == [job.job_id for job in jobs]


def test_builds_are_done_one_after_the_other_whoever_does_them(
    queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    for number, kind in enumerate(("build", "upgrade")):
        queue.ask(kind, {**BUILD, "generation": f"docs@{number}"}, who="ann")  # type: ignore[arg-type]
    queue.ask("evaluate", {"folder": "judged"}, who="ann")

    first, second = claimed(queue, workers[0]), claimed(queue, workers[1])

    assert (first.kind, second.kind) == ("build", "evaluate"), "an evaluation need not wait"
    assert queue.claim(ALL, workers[1]) is None
    queue.finish(first, None)
    assert claimed(queue, workers[1]).kind == "upgrade"


# -- workers that die ------------------------------------------------------------------------------


def test_the_job_of_a_worker_that_is_not_heard_of_passes_on_with_its_child(
    database: Database, queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    queue.ask("upgrade", BUILD, who="ann")
    job = claimed(queue, workers[0])
    queue.note_child(job, child="host:1:2", log="/logs/job-1.log")
    assert queue.claim(ALL, workers[1]) is None, "it is being done"

    expire(database, workers[0])
    taken = claimed(queue, workers[1])

    assert (taken.job_id, taken.child, taken.log) == (job.job_id, "host:1:2", "/logs/job-1.log")
    assert (taken.holder, taken.attempts) == ("worker/other", 1), "to go on is no new attempt"


def test_the_job_of_a_worker_that_ended_passes_on_at_once(
    database: Database, queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    journal = Journal(database)
    queue.ask("sync", {}, who="ann")
    ended = journal.lease("worker/ended")
    assert queue.claim(ALL, ended) is not None
    ended.release()
    journal.forget("worker/")  # what a worker that starts does

    assert queue.claim(ALL, workers[1]) is not None


def test_a_zombie_can_neither_finish_nor_take_a_job(
    database: Database, queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    zombie, living = workers
    queue.ask("upgrade", BUILD, who="ann")
    job = claimed(queue, zombie)
    expire(database, zombie)
    taken = claimed(queue, living)
    queue.ask("sync", {}, who="ann")

    for act in (
        lambda: queue.finish(job, {"by": "zombie"}),
        lambda: queue.fail(job, "zombie"),
        lambda: queue.put_back(job, "zombie"),
        lambda: queue.note_child(job, child="zombie:1:1", log=""),
    ):
        with pytest.raises(JobLost, match="belongs to another worker now"):
            act()
    expire(database, zombie)
    with pytest.raises(LeaseLost, match="takes no more jobs"):
        queue.claim(ALL, zombie)

    queue.finish(taken, {"by": "living"})
    assert queue.get(job.job_id).result == {"by": "living"}


def test_a_job_that_ended_cannot_end_again(queue: JobQueue, workers: tuple[Lease, Lease]) -> None:
    queue.ask("sync", {}, who="ann")
    job = claimed(queue, workers[0])
    queue.fail(job, "no disk")

    with pytest.raises(JobLost):
        queue.finish(job, None)
    assert queue.get(job.job_id).reason == "no disk"


# -- trying again ----------------------------------------------------------------------------------


def test_a_job_that_is_put_back_waits_for_its_time(
    queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    queue.ask("sync", {}, who="ann")
    job = claimed(queue, workers[0])
    queue.put_back(job, "the store is away", wait_s=30)

    assert queue.claim(ALL, workers[0]) is None
    waiting = queue.get(job.job_id)
    assert (waiting.state, waiting.reason, waiting.attempts) == ("queued", "the store is away", 1)
    assert waiting.not_before == pytest.approx(time.time() + 30, abs=10)


def test_a_build_that_waits_can_be_taken_back_and_one_that_runs_cannot(
    queue: JobQueue, workers: tuple[Lease, Lease]
) -> None:
    waits = queue.ask("upgrade", BUILD, who="ann")
    assert queue.withdraw("docs@1", reason="cancelled by bob")
    assert (queue.get(waits.job_id).state, queue.get(waits.job_id).reason) == (
        "cancelled",
        "cancelled by bob",
    )

    queue.ask("upgrade", BUILD, who="ann")
    running = claimed(queue, workers[0])
    assert not queue.withdraw("docs@1", reason="cancelled by bob")
    queue.finish(running, None)


# -- schedules -------------------------------------------------------------------------------------


def test_a_trigger_that_fires_in_several_workers_asks_once(
    database: Database, queue: JobQueue
) -> None:
    schedules = Schedules(database)
    schedules.set("often", "sync", "every 60s")
    due = schedules.get("often").next_at
    assert due is not None
    together = threading.Barrier(4)

    def fire(_worker: int) -> Job | None:
        together.wait()
        return schedules.fire("often", now=due + 0.5)

    with ThreadPoolExecutor() as pool:
        asked = [job for job in pool.map(fire, range(4)) if job is not None]

    assert len(asked) == 1
    assert [(job.kind, job.who) for job in queue.recent()] == [("sync", "schedule often")]
    assert schedules.fire("often", now=due + 59) is None
    with Journal(database).lease("worker/one") as lease:
        claimed(queue, lease)
    assert schedules.fire("often", now=due + 60.5) is not None


@pytest.fixture(autouse=True)
def _renew_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases live long, so that a test's hand alone makes one expire."""
    monkeypatch.setattr(journal_module, "LEASE_S", 600.0)
