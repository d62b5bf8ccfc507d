"""What a worker promises: work is done once, and goes on whoever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from reindexer import job_process
from reindexer import worker as worker_module
from reindexer.build_job import record_stop
from reindexer.build_requests import pause_build, queue_build, requeue_build
from reindexer.compaction import compact
from reindexer.errors import LeaseHeld
from reindexer.job_kinds import command
from reindexer.jobs import Job, JobQueue
from reindexer.journal import BUILD_LEASE, SYNC_LEASE
from reindexer.settings import Settings
from reindexer.upgrade import resume
from reindexer.worker import Worker, living_workers
from search import tables
from search.errors import WrongState
from search.processes import process_may_live, process_name
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory

pytestmark = pytest.mark.usefixtures("nothing_is_due")

WAIT_S = 60.0
JUDGED = {"folder": "judged"}

# Stands for a verb: says what it is and does what the folder of the test tells it to.
CHILD = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (folder / "asked-to-stop").touch() or sys.exit(130))
with (folder / "begun").open("a") as begun:
    begun.write(f"{os.getpid()} {json.dumps(sys.argv[2:])}\\n")
while not (folder / "end").exists():
    time.sleep(0.01)
code, said = (folder / "end").read_text().split(" ", 1)
print(said) if code == "0" else print(said, file=sys.stderr)
sys.exit(int(code))
"""

# A worker in a process of its own, for CHILD as well.
WORKER = f"""
import sys, time, pathlib
from reindexer import job_process
from reindexer.worker import Worker
from tests.word_directory import WordDirectory
job_process.command_line = lambda job, _: [sys.executable, "-c", {CHILD!r}, sys.argv[2], job.kind]
Worker(WordDirectory(pathlib.Path(sys.argv[1]))).start()
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK_S", 0.02), ("UPKEEP_S", 0.05), ("FIRST_BACK_OFF_S", 0.05)):
        monkeypatch.setattr(worker_module, name, seconds)
    monkeypatch.setattr(job_process, "POLL_S", 0.02)


@pytest.fixture
def verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Every job is done by CHILD, which takes its orders from this folder."""

    def command_line(job: Job, _settings: Settings) -> list[str]:
        return [sys.executable, "-c", CHILD, str(tmp_path), *command(job)]

    monkeypatch.setattr(job_process, "command_line", command_line)
    yield tmp_path
    for pid in begun(tmp_path):
        if process_may_live(process_name(pid)):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start(directory: WordDirectory) -> Iterator[Callable[..., Worker]]:
    """Starts a worker; all are stopped at the end of the test."""
    started: list[Worker] = []

    def start(name: str = "one") -> Worker:
        worker = Worker(directory, name=f"{process_name()}:{name}")
        worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.stop()


def begun(folder: Path) -> list[int]:
    """Pids of the children that have begun, in order."""
    try:
        lines = (folder / "begun").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [int(line.split()[0]) for line in lines]


def until(what: Callable[[], Any]) -> Any:
    """What it gives when it gives something."""
    deadline = time.monotonic() + WAIT_S
    while not (found := what()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
    return found


def ended(worker: Worker, job: Job) -> Job:
    until(lambda: worker.queue.get(job.job_id).state not in ("queued", "running"))
    return worker.queue.get(job.job_id)


def end(folder: Path, code: int, said: str = "{}") -> None:
    partial = folder / "end.partial"
    partial.write_text(f"{code} {said}")
    partial.rename(folder / "end")


# -- jobs ------------------------------------------------------------------------------------------


def test_a_job_is_done_in_a_process_of_its_own_and_its_answer_is_kept(
    verbs: Path, start: Callable[..., Worker]
) -> None:
    end(verbs, 0, '{"metrics": {"hybrid": {"ndcg@10": 0.7}}, "generation": "docs@1"}')
    worker = start()
    job = worker.queue.ask("evaluate", JUDGED, who="ann")

    done = ended(worker, job)

    assert (done.state, done.child is not None) == ("done", True)
    assert done.result is not None
    assert done.result["metrics"] == {"hybrid": {"ndcg@10": 0.7}}
    group = begun(verbs)[0]
    assert group != os.getpid()
    assert (verbs / "begun").read_text().split(" ", 1)[1].strip() == (
        '["evaluate", "judged", "--json"]'
    )


def test_secrets_are_not_on_the_command_line_of_a_child(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, database_url="postgresql://me:hush@db/x", store_api_key="open sesame"
    )
    job = Job(
        job_id=1, kind="sync", arguments={}, state="running", who="ann", holder="w", token=1,
        child=None, log=None, attempts=1, not_before=None, reason=None, result=None, asked_at=0.0,
        started_at=None, finished_at=None,
    )  # fmt: skip

    line = " ".join(job_process.command_line(job, settings))
    environment = job_process._environment(settings)

    assert "hush" not in line
    assert "sesame" not in line
    assert environment["REINDEXER_STORE_API_KEY"] == "open sesame"


def test_an_evaluation_that_came_out_worse_is_seen_in_the_events(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    worker = start()
    for score in (0.70, 0.65):
        end(verbs, 0, f'{{"metrics": {{"hybrid": {{"ndcg@10": {score}}}}}, "generation": null}}')
        assert ended(worker, worker.queue.ask("evaluate", JUDGED, who="ann")).state == "done"

    worse, first = directory.catalog.events.newest(kind="evaluation")
    assert first["ndcg@10"] == 0.70
    assert (worse["ndcg@10_before"], worse["change"], worse["dropped"]) == (0.70, -0.05, True)


@pytest.mark.parametrize(
    ("code", "state", "reason"),
    [(2, "failed", "no such folder"), (3, "failed", "no such folder")],
)
def test_what_cannot_succeed_is_not_tried_again(
    verbs: Path, start: Callable[..., Worker], code: int, state: str, reason: str
) -> None:
    end(verbs, code, f"Error: {reason}")
    worker = start()

    done = ended(worker, worker.queue.ask("evaluate", JUDGED, who="ann"))

    assert (done.state, done.reason, len(begun(verbs))) == (state, reason, 1)


def test_what_fails_is_tried_again_and_given_up_in_the_end(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    end(verbs, 1, "Error: the disk is full")
    worker = start()

    done = ended(worker, worker.queue.ask("evaluate", JUDGED, who="ann"))

    assert done.reason == "given up after 5 attempts: the disk is full"
    assert len(begun(verbs)) == worker_module.MAX_ATTEMPTS
    (event,) = until(lambda: directory.catalog.events.newest(kind="job_failed"))
    assert event["reason"] == done.reason


def test_nothing_is_synced_where_somebody_replays_or_nothing_was_written(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    directory.put("a", "text")
    directory.go_live(directory.build("word@1"))
    worker = start()

    assert ended(worker, worker.queue.ask("sync", {}, who="ann")).result == {"lag_docs": 0}
    directory.put("b", "text")
    with directory.journal.lease(SYNC_LEASE):
        kept = ended(worker, worker.queue.ask("sync", {}, who="ann")).result
    assert kept is not None
    assert f"process {os.getpid()}" in kept["kept_in_step_by"]
    assert begun(verbs) == []

    end(verbs, 0)
    ended(worker, worker.queue.ask("sync", {}, who="ann"))
    assert len(begun(verbs)) == 1


def test_a_scheduled_prune_keeps_what_its_hold_over_protects(
    directory: WordDirectory, start: Callable[..., Worker]
) -> None:
    directory.put("a", "text")
    names = [directory.build(f"word@{number}") for number in (1, 2, 3, 4)]
    for name in names[:3]:
        directory.go_live(name)  # docs@1 is retired now, docs@2 the standby
    directory.catalog.move(names[3], "failed", reason="refused")
    worker = start()

    def pruned() -> list[str]:
        result = ended(worker, worker.queue.ask("prune", {}, who="ann")).result
        assert result is not None
        return list(result["dropped"])

    assert pruned() == [], "a person may still look at what failed, and overrule it"
    with directory.database.write() as connection:
        connection.execute(
            sa.update(tables.generations)
            .where(tables.generations.c.name.in_([names[0], names[2], names[3]]))
            .values(state_at=time.time() - 169 * 3600)
        )
    assert sorted(pruned()) == [names[0], names[3]]
    assert directory.catalog.pointers().standby == names[1]


# -- workers that die ------------------------------------------------------------------------------


def test_two_workers_do_each_job_once(verbs: Path, start: Callable[..., Worker]) -> None:
    end(verbs, 0)
    one, _other = start("one"), start("other")
    jobs = [one.queue.ask("evaluate", {"folder": str(number)}, who="ann") for number in range(6)]

    assert {ended(one, job).state for job in jobs} == {"done"}
    assert len(begun(verbs)) == len(jobs)


def test_the_child_of_a_killed_worker_goes_on_under_the_next_one(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    queue = JobQueue(directory.database)
    job = queue.ask("train", {"pairs": "p", "base": "b", "name": "n"}, who="ann")
    program = [sys.executable, "-c", WORKER, str(directory.path), str(verbs)]
    with subprocess.Popen(program) as killed:
        (pid,) = until(lambda: begun(verbs))
        until(lambda: queue.get(job.job_id).child)
        killed.kill()

    heir = start("heir")
    until(lambda: queue.get(job.job_id).holder == f"worker/{heir.name}")
    end(verbs, 0, '{"model": "n@1"}')

    done = ended(heir, job)
    assert (done.state, done.result, done.attempts) == ("done", {"model": "n@1"}, 1)
    assert begun(verbs) == [pid], "it was recognised, not started again"


def test_a_worker_that_lost_its_lease_does_not_end_what_another_does(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    """It was asleep for longer than its lease, and wakes up while its child still works."""
    zombie = start("zombie")
    job = zombie.queue.ask("train", {"pairs": "p", "base": "b", "name": "n"}, who="ann")
    (pid,) = until(lambda: begun(verbs))
    until(lambda: zombie.queue.get(job.job_id).child)
    with directory.journal.lease("worker/other") as other:
        with directory.database.write() as connection:
            connection.execute(  # claimed meanwhile
                sa.update(tables.jobs).values(holder="worker/other", token=other.token)
            )
        end(verbs, 0, '{"model": "n@1"}')
        until(lambda: not process_may_live(process_name(pid)))
        time.sleep(0.1)

        assert zombie.queue.get(job.job_id).state == "running", "it is the other's to finish"


def test_a_worker_that_is_stopped_pauses_its_child_and_gives_the_job_back(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    worker = start()
    job = worker.queue.ask("train", {"pairs": "p", "base": "b", "name": "n"}, who="ann")
    until(lambda: begun(verbs) and worker.queue.get(job.job_id).child)
    began = time.monotonic()
    worker.stop()

    assert time.monotonic() - began < directory.settings.drain_s
    assert (verbs / "asked-to-stop").exists()
    back = worker.queue.get(job.job_id)
    assert (back.state, back.reason, back.attempts) == ("queued", "its worker was stopped", 0)
    assert living_workers(directory) == []


# -- builds ----------------------------------------------------------------------------------------


def unfinished(directory: WordDirectory, *, quiet_s: float) -> str:
    """A generation whose build was running when its process was killed."""
    name = directory.record("word@1").name
    build = directory.journal.record_build(name, start_head=0, docs_total=0)
    directory.journal.start_run(build)
    be_quiet(directory, quiet_s)
    return name


def be_quiet(directory: WordDirectory, seconds: float) -> None:
    """Nothing was heard of any build for so long."""
    with directory.database.write() as connection:
        connection.execute(sa.update(tables.builds).values(updated_at=time.time() - seconds))


def test_a_build_whose_process_was_killed_is_gone_on_with(
    directory: WordDirectory, verbs: Path, start: Callable[..., Worker]
) -> None:
    name = unfinished(directory, quiet_s=60)
    worker = start()

    (job,) = until(lambda: worker.queue.recent())

    assert (job.kind, job.generation, job.who) == ("build", name, "worker")
    until(lambda: begun(verbs))
    assert f'["resume", "{name}", "--json"]' in (verbs / "begun").read_text()


@pytest.mark.parametrize("why", ["paused", "cancelled", "held", "fresh"])
def test_a_build_that_a_person_stopped_or_that_somebody_does_is_left_alone(
    directory: WordDirectory, start: Callable[..., Worker], why: str
) -> None:
    build = directory.journal.build_of(unfinished(directory, quiet_s=0))
    if why == "paused":
        pause_build(directory, build, who="ann")
    elif why == "cancelled":
        directory.journal.update_build(build.build_id, state="cancelled")
    be_quiet(directory, 0 if why == "fresh" else 60)
    lease = directory.journal.lease(BUILD_LEASE) if why == "held" else None
    worker = start()

    time.sleep(0.3)  # several looks

    assert worker.queue.recent() == []
    if lease is not None:
        lease.release()


def test_a_build_says_why_it_waits_and_when_it_is_tried_again(
    directory: WordDirectory,
    verbs: Path,
    start: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "FIRST_BACK_OFF_S", 60.0)
    name = unfinished(directory, quiet_s=60)
    worker = start()
    (pid,) = until(lambda: begun(verbs))
    os.kill(pid, signal.SIGKILL)
    _, pid = until(lambda: begun(verbs) if len(begun(verbs)) == 2 else None)  # at once
    os.kill(pid, signal.SIGKILL)

    until(lambda: worker.queue.recent()[0].not_before)

    build = directory.journal.build_of(name)
    assert build.state == "queued"
    assert build.reason is not None
    assert "its process was ended by SIGKILL (memory may be short); tried again at" in build.reason
    assert "(attempt 3 of 5)" in build.reason


def test_a_build_that_is_resumed_while_it_comes_to_rest_goes_on_at_once(
    directory: WordDirectory,
    verbs: Path,
    start: Callable[..., Worker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_module, "FIRST_BACK_OFF_S", 600.0)
    name = unfinished(directory, quiet_s=60)
    worker = start()
    until(lambda: begun(verbs))
    build = directory.journal.build_of(name)
    with directory.journal.lease(BUILD_LEASE):  # as the child would
        directory.journal.start_run(build)
        pause_build(directory, build, who="ann")
        assert directory.journal.build_of(name).wanted == "pause"
        requeue_build(directory, directory.journal.build_of(name), who="ann")
        record_stop(directory, build, "pause")
    end(verbs, 1, "Error: it is paused")

    until(lambda: len(begun(verbs)) == 2)

    second, first = worker.queue.recent()
    assert first.state == "cancelled"
    assert first.reason == f"the build was paused, and resumed meanwhile as job {second.job_id}"


def test_a_build_that_is_resumed_before_it_has_seen_the_pause_just_goes_on(
    directory: WordDirectory,
) -> None:
    build = directory.journal.build_of(unfinished(directory, quiet_s=60))
    with directory.journal.lease(BUILD_LEASE):  # as the child would
        directory.journal.start_run(build)
        pause_build(directory, directory.journal.build_of(build.generation), who="ann")
        requeue_build(directory, directory.journal.build_of(build.generation), who="ann")

        resumed = directory.journal.build_of(build.generation)
        assert (resumed.state, resumed.stop) == ("running", None)
        with pytest.raises(WrongState, match="is running already"):
            requeue_build(directory, resumed, who="ann")

        directory.journal.go_on(resumed)  # it looks
        assert directory.journal.build_of(build.generation).wanted is None
        pause_build(directory, directory.journal.build_of(build.generation), who="ann")
        assert directory.journal.build_of(build.generation).stop == "pause"


def test_resume_waits_for_a_paused_build_that_comes_to_rest(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = directory.journal.build_of(unfinished(directory, quiet_s=0))
    monkeypatch.setattr("reindexer.upgrade.run_build", lambda *_args, **_more: build)
    ending = directory.journal.lease(BUILD_LEASE)
    with pytest.raises(LeaseHeld):  # nobody has asked it to stop
        resume(directory, build.generation)
    directory.journal.update_build(build.build_id, wanted="pause")
    rest = threading.Timer(0.3, ending.release)
    rest.start()

    assert resume(directory, build.generation).build == build
    rest.join()


def test_a_real_build_is_killed_and_ends_live_and_is_compacted_without_encoding(
    tmp_path: Path,
) -> None:
    from reindexer.data_directory import open_data_directory

    model = make_tiny_model(tmp_path / "tiny", kind="static")
    with open_data_directory(Settings(data_dir=tmp_path / "data")) as data:
        from search.documents import Document

        data.corpus.put(
            [Document.of(doc_id=f"d{n}", text=f"all about number {n}") for n in range(40)]
        )
        version = data.registry.register(str(model), name="tiny")
        build = queue_build(data, version, cut_over_after=True, arguments={}, who="ann")
        worker = Worker(data)
        worker.start()
        try:
            job = worker.queue.recent()[0]
            until(lambda: data.journal.build_of(build.generation).state == "running")
            child = worker.queue.get(job.job_id).child
            assert child is not None
            os.kill(int(child.split(":")[1]), signal.SIGKILL)

            done = ended(worker, job)
        finally:
            worker.stop()
        assert (done.state, done.attempts) == ("done", 2)
        assert data.catalog.pointers().live == build.generation

        compacted = compact(data)
        assert (compacted.build.encoded, compacted.build.reused) == (0, 40)
        assert compacted.generation.verified is not None
        assert data.catalog.pointers().live == compacted.generation.name != build.generation


def test_the_verb_worker_ends_when_told_to(tmp_path: Path) -> None:
    verb = [sys.executable, "-m", "reindexer", "--data-dir", str(tmp_path / "data"), "worker"]
    with subprocess.Popen(verb, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "is at work" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0
