"""When something is due, and what a schedule may say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from reindexer.errors import JobInvalid, ScheduleInvalid
from reindexer.job_kinds import checked_arguments
from reindexer.jobs import Job, JobQueue
from reindexer.schedule import Clock, Schedules, next_after
from search import tables
from search.database import Database, open_database, sqlite_url


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(sqlite_url(tmp_path / "reindexer.db"))
    yield opened
    opened.close()


@pytest.fixture
def schedules(database: Database) -> Schedules:
    return Schedules(database)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("trigger", "after", "then"),
    [
        ("every 300s", "2026-01-01 10:02:11", "2026-01-01 10:05"),
        ("every 300s", "2026-01-01 10:05", "2026-01-01 10:10"),
        ("every 15m", "2026-01-01 10:02:11", "2026-01-01 10:15"),
        ("every 6h", "2026-01-01 10:02:11", "2026-01-01 12:00"),
        ("every 1d", "2026-01-01 10:02:11", "2026-01-02 00:00"),
        ("0 3 * * *", "2026-01-01 10:02:11", "2026-01-02 03:00"),
        ("*/20 * * * *", "2026-01-01 10:02:11", "2026-01-01 10:20"),
        ("30 4 * * sun", "2026-01-01 10:02:11", "2026-01-04 04:30"),
    ],
)
def test_every_worker_finds_the_same_moment(trigger: str, after: str, then: str) -> None:
    assert next_after(trigger, at(after)) == pytest.approx(at(then))


@pytest.mark.parametrize(
    "trigger", ["", "every", "every 0s", "every 5 moons", "every 400d", "* * *", "99 * * * *"]
)
def test_a_time_that_cannot_be_is_refused_with_what_could(
    schedules: Schedules, trigger: str
) -> None:
    with pytest.raises(ScheduleInvalid, match="expected"):
        schedules.set("odd", "sync", trigger)


def test_a_job_that_lacks_an_argument_or_has_one_too_many_is_refused() -> None:
    assert checked_arguments("evaluate", {"folder": "judged"}) == {"folder": "judged"}
    for kind, arguments, message in (
        ("evaluate", {}, "needs 'folder'"),
        ("sync", {"folder": "x"}, "does not take 'folder'"),
        ("upgrade", {}, "needs 'model'"),
        ("bake", {}, "no kind of job 'bake'"),
        ("evaluate", {"folder": "--model"}, "for an option"),
    ):
        with pytest.raises(JobInvalid, match=message):
            checked_arguments(kind, arguments)


def test_an_installation_looks_after_itself_unless_told_otherwise(schedules: Schedules) -> None:
    schedules.add_defaults()
    assert {item.name for item in schedules.all()} == {"sync", "compact", "prune"}
    schedules.set("sync", "sync", "every 10s")
    schedules.remove("prune")

    schedules.add_defaults()  # as every worker does when it starts

    kept = {item.name: item for item in schedules.all()}
    assert kept["sync"].trigger == "every 10s"
    assert (kept["prune"].enabled, kept["prune"].next_at) == (False, None)
    assert schedules.fire("prune", now=time.time() + 1e6) is None


def test_what_was_missed_while_no_worker_ran_is_asked_for_once(
    database: Database, schedules: Schedules
) -> None:
    schedules.set("often", "sync", "every 60s")
    with database.write() as connection:
        connection.execute(sa.update(tables.schedules).values(created_at=time.time() - 86_400))

    asked = [schedules.fire("often") for _ in range(3)]

    assert [job is not None for job in asked] == [True, False, False]


def test_the_clock_follows_what_people_change(database: Database, schedules: Schedules) -> None:
    schedules.set("often", "sync", "every 1s")
    rung = threading.Event()
    jobs: list[Job] = []

    def on_job(job: Job) -> None:
        jobs.append(job)
        rung.set()

    clock = Clock(schedules, on_job=on_job, on_error=pytest.fail)
    clock.start()
    try:
        assert rung.wait(10)
        assert [(job.kind, job.who) for job in jobs[:1]] == [("sync", "schedule often")]
        schedules.remove("often")
        clock.refresh()  # as it does every few seconds
        asked = len(JobQueue(database).recent())
        rung.clear()
        assert not rung.wait(1.2)
        assert len(JobQueue(database).recent()) == asked
    finally:
        clock.stop()
