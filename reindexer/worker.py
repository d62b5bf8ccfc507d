"""The worker: asks for scheduled work, does queued work, and goes on with builds that died.

One worker or many, in a process of their own or inside the service. Each holds a lease; a job
belongs to the lease it was claimed under. Whatever computes for long runs in a child process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld, ReindexerError
from reindexer.feedback import forget_old_feedback
from reindexer.job_outcome import Outcome, build_outcome, outcome_of
from reindexer.job_process import POLL_S, JobProcess
from reindexer.jobs import BUILD_KINDS, LONGEST_WAIT_S, Job, JobLost, JobQueue
from reindexer.journal import BUILD_LEASE, CLOCKS_DIFFER_S, SYNC_LEASE, Lease
from reindexer.log_follower import LogFollower
from reindexer.logs import Complaint
from reindexer.schedule import Clock, Schedules
from search.errors import GenerationNotFound, LeaseLost, SearchError
from search.generations import UNFINISHED, Generation
from search.processes import describe_process, process_name
from training.errors import TrainingError

log = logging.getLogger(__name__)

WORKER_LEASES = "worker/"  # begins the name of every worker's lease
LOOK_S = 0.5  # between two looks into the queue
UPKEEP_S = 2.0  # between two looks for builds that nobody works on
FORGET_S = 3_600.0  # between two looks for queries and clicks that are too old to be kept
RETRY_S = 2.0  # after the database could not be reached
LATER_S = 5.0  # until a job is tried again that another process was in the way of
MAX_ATTEMPTS = 5  # without getting ahead
FIRST_BACK_OFF_S = 10.0

# A worker does one job of each of these at a time: an evaluation need not wait for a build.
LANES: tuple[frozenset[str], ...] = (
    BUILD_KINDS | {"train"},
    frozenset({"sync", "evaluate", "prune", "export_clicks"}),
)


class Worker:
    """Threads that live until `stop`: one for each lane, the clock, and upkeep."""

    def __init__(
        self, data: DataDirectory, *, name: str | None = None, replays: bool = False
    ) -> None:
        """replays: follow the log all the time where the store is a server, unless another process
        does. A service does that itself, into the generations that it has open anyway."""
        self._data = data
        self.name = name or f"{process_name()}:{uuid.uuid4().hex[:8]}"
        self.queue = JobQueue(data.database)
        self._schedules = Schedules(data.database)
        self._clock = Clock(self._schedules, on_job=self._asked, on_error=_complain)
        self._stopping = threading.Event()
        self._woken = threading.Condition()
        self._lease_lock = threading.Lock()
        self._lease: Lease | None = None
        self._threads = [
            threading.Thread(target=self._work, args=[lane], name=f"worker-{number}", daemon=True)
            for number, lane in enumerate(LANES)
        ]
        self._threads.append(threading.Thread(target=self._keep_up, name="upkeep", daemon=True))
        if replays and data.settings.store_kind == "qdrant":
            follower = LogFollower(data, self._stopping)
            self._threads.append(threading.Thread(target=follower.run, name="replay", daemon=True))

    # -- life ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Raises DatabaseUnavailable."""
        self._data.journal.forget(WORKER_LEASES)
        self._schedules.add_defaults()
        self._held_lease()
        for thread in self._threads:
            thread.start()
        self._clock.start()

    def stop(self) -> None:
        """Drain: builds pause at a checkpoint, their jobs go back into the queue, and the lease is
        given back. Takes `worker.drain_s` and a few seconds at most."""
        self._stopping.set()
        self.wake()
        self._clock.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._lease_lock:
            if self._lease is not None:
                self._lease.release()
                self._lease = None

    def wake(self) -> None:
        """Look into the queue now."""
        with self._woken:
            self._woken.notify_all()

    def _asked(self, _job: Job) -> None:
        self.wake()

    def _held_lease(self) -> Lease:
        """Ours; taken again when this process was asleep for so long that it lost it."""
        with self._lease_lock:
            if self._lease is not None:
                try:
                    self._lease.check()
                except LeaseLost as error:
                    log.warning("%s", error)
                    self._lease.release()
                    self._lease = None
            if self._lease is None:
                self._lease = self._data.journal.lease(WORKER_LEASES + self.name)
            return self._lease

    # -- the queue ---------------------------------------------------------------------------------

    def _work(self, kinds: Collection[str]) -> None:
        complaint = Complaint(log, "the worker waits")
        while not self._stopping.is_set():
            try:
                lease = self._held_lease()
                job = self.queue.claim(kinds, lease)
                complaint.end()
                if job is not None:
                    self._do(job, lease)
                    continue
            except (LeaseLost, LeaseHeld, JobLost) as error:
                log.warning("%s", error)
            except (SearchError, ReindexerError) as error:
                complaint.tell(error)
                self._stopping.wait(RETRY_S)
            with self._woken:
                if not self._stopping.is_set():
                    self._woken.wait(LOOK_S)

    def _do(self, job: Job, lease: Lease) -> None:
        """Raises JobLost when the job has passed on, LeaseLost when ours has."""
        began = time.monotonic()
        log.info("job %d (%s) begins", job.job_id, job.kind)
        try:
            outcome = self._perform(job, lease)
        except (LeaseLost, JobLost):
            raise
        except (SearchError, TrainingError, ReindexerError, OSError) as error:
            outcome = Outcome(state="retry", reason=str(error) or type(error).__name__)
        except Exception as error:
            log.exception("job %d (%s) failed", job.job_id, job.kind)
            outcome = Outcome(state="failed", reason=f"unexpected {type(error).__name__}: {error}")
        self._settle(job, outcome)
        took_s = time.monotonic() - began
        level = logging.WARNING if outcome.state in ("failed", "retry") else logging.INFO
        why = f": {outcome.reason}" if outcome.reason else ""
        log.log(level, "job %d (%s) %s, %.1f s%s", job.job_id, job.kind, outcome.state, took_s, why)

    def _perform(self, job: Job, lease: Lease) -> Outcome:
        here: dict[str, Callable[[], Outcome | None]] = {
            "sync": self._nothing_to_sync,
            "prune": self._prune,
            "compact": self._nothing_to_compact,
        }
        in_process = here.get(job.kind)
        if in_process is not None and (outcome := in_process()) is not None:
            return outcome
        return self._perform_in_child(job, lease)

    def _perform_in_child(self, job: Job, lease: Lease) -> Outcome:
        docs_before = self._docs_done(job)
        child = JobProcess.left_behind(job)
        if child is None:
            child = JobProcess.start(job, self._data.settings)
            self.queue.note_child(job, child=child.name, log=str(child.log))
        else:
            log.info("job %d goes on in %s", job.job_id, describe_process(child.name))
        while not child.wait(POLL_S):
            lease.check()
            if self._stopping.is_set():
                child.stop(self._data.settings.drain_s)
                return Outcome(state="drained", reason="its worker was stopped")
        if job.kind in BUILD_KINDS:
            outcome = build_outcome(self._data, job, child)
            return outcome.got_ahead() if self._docs_done(job) > docs_before else outcome
        return outcome_of(self._data, job, child)

    def _docs_done(self, job: Job) -> int:
        if job.generation is None:
            return 0
        try:
            return self._data.journal.build_of(job.generation).docs_done
        except GenerationNotFound:
            return 0

    def _settle(self, job: Job, outcome: Outcome) -> None:
        """Raises JobLost when another worker has the job."""
        queue = self.queue
        match outcome.state:
            case "done":
                queue.finish(job, outcome.result)
            case "cancelled":
                queue.cancel(job, outcome.reason)
            case "later":
                queue.put_back(job, outcome.reason, wait_s=LATER_S, attempts=job.attempts - 1)
            case "drained":
                queue.put_back(
                    job,
                    outcome.reason,
                    attempts=job.attempts - 1,
                    build_reason=f"{outcome.reason}; the next one goes on",
                )
            case "retry":
                self._try_again(job, outcome)
            case "failed":
                self._give_up(job, outcome.reason)

    def _try_again(self, job: Job, outcome: Outcome) -> None:
        attempts = 1 if outcome.is_ahead else job.attempts
        if attempts >= MAX_ATTEMPTS:
            self._give_up(job, f"given up after {attempts} attempts: {outcome.reason}")
            return
        # One kill says nothing of the work; what is killed again and again may be its own doing.
        back_off = attempts - 1 if outcome.was_killed else attempts
        wait_s = _back_off_s(back_off)
        at = time.strftime("%H:%M:%S UTC", time.gmtime(time.time() + wait_s))
        again = f"tried again at {at}" if wait_s else "goes on at once"
        self.queue.put_back(
            job,
            outcome.reason,
            wait_s=wait_s,
            attempts=attempts,
            build_reason=f"{outcome.reason}; {again} (attempt {attempts + 1} of {MAX_ATTEMPTS})",
        )

    def _give_up(self, job: Job, reason: str) -> None:
        self.queue.fail(job, reason)
        self._data.catalog.events.record(
            "job_failed", job.generation, {"job_id": job.job_id, "job": job.kind, "reason": reason}
        )

    # -- work that needs no child --------------------------------------------------------------

    def _nothing_to_sync(self) -> Outcome | None:
        """When another process replays all the time, or nothing was written; None otherwise."""
        holder = self._data.journal.holder(SYNC_LEASE)
        if holder is not None:
            return Outcome(state="done", result={"kept_in_step_by": describe_process(holder)})
        pointers = self._data.catalog.pointers()
        names = [name for name in (pointers.live, pointers.standby) if name is not None]
        lag_docs = sum(self._data.corpus.lag(self._data.catalog.watermark(name)) for name in names)
        return None if lag_docs else Outcome(state="done", result={"lag_docs": 0})

    def _nothing_to_compact(self) -> Outcome | None:
        """When the live generation has not worn, or has to wait; None otherwise."""
        from reindexer.compaction import wear  # brings the store in

        if self._data.catalog.live() is None:
            return Outcome(state="done", result={"live": None})
        found = wear(self._data)
        return None if found.is_due else Outcome(state="done", result=found.to_json())

    def _prune(self) -> Outcome:
        from reindexer.prune import plan_prune, prune  # brings the store in

        try:
            dropped = prune(self._data, plan_prune(self._data, after_hold_over=True))
        except LeaseHeld as error:
            return Outcome(state="later", reason=str(error))
        return Outcome(state="done", result={"dropped": [item.name for item in dropped]})

    # -- upkeep ------------------------------------------------------------------------------------

    def _keep_up(self) -> None:
        forgot_at = -math.inf
        complaint = Complaint(log, "the worker cannot look after builds and old queries")
        while not self._stopping.wait(UPKEEP_S):
            try:
                self._resume_orphans()
                if time.monotonic() - forgot_at > FORGET_S:
                    forget_old_feedback(self._data.database, self._data.settings)
                    forgot_at = time.monotonic()
                complaint.end()
            except (SearchError, ReindexerError) as error:
                complaint.tell(error)

    def _resume_orphans(self) -> None:
        """Ask for builds whose process is gone and that nobody has stopped on purpose."""
        unfinished = self._data.catalog.all(UNFINISHED)
        if not unfinished or self._data.journal.holder(BUILD_LEASE) is not None:
            return
        if any(job.kind in BUILD_KINDS and not job.generation for job in self.queue.active()):
            return  # which generation that is, its child finds out
        for generation in unfinished:
            if self._is_orphan(generation):
                last = self.queue.last_of(generation.name)
                job = self.queue.ask(
                    last.kind if last is not None else "build",
                    last.arguments if last is not None else _arguments(generation),
                    who="worker",
                )
                log.warning(
                    "the build of %s stands still, its process is gone; job %d goes on with it",
                    generation.name,
                    job.job_id,
                )
                self.wake()

    def _is_orphan(self, generation: Generation) -> bool:
        quiet_since = generation.state_at
        try:
            build = self._data.journal.build_of(generation.name)
        except GenerationNotFound:
            pass  # killed right after it had recorded the generation
        else:
            if build.state in ("paused", "cancelled"):
                return False
            quiet_since = build.updated_at
        quiet_s = time.time() - quiet_since  # far below 0: the clock went back, nobody knows when
        if -CLOCKS_DIFFER_S <= quiet_s < self._data.settings.resume_after_s:
            return False
        last = self.queue.last_of(generation.name)
        if last is None or last.finished_at is None:
            return last is None  # one that is queued or running is looked after
        # What ended after the build was last touched was given up on; what died later was not.
        return last.finished_at < quiet_since


def _back_off_s(failures: int) -> float:
    """Until a job is tried again that failed so often in a row."""
    return min(LONGEST_WAIT_S, FIRST_BACK_OFF_S * 2 ** (failures - 1)) if failures else 0.0


def _arguments(generation: Generation) -> dict[str, Any]:
    return {"generation": generation.name, "model": generation.recipe.model}


def _complain(message: str) -> None:
    log.warning("%s", message)


def living_workers(data: DataDirectory) -> list[str]:
    """Names of the processes that do queued work."""
    return sorted(data.journal.holders(WORKER_LEASES).values())
