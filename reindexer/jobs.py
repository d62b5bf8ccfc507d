"""The queue: work that was asked for, and which worker does it.

A job is claimed by a compare-and-swap under the claimer's own lease. When that lease is free again
(its worker is gone, or was not heard of for its length) the job may be claimed by another; the
first one, should it wake up, no longer can finish it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import sqlalchemy as sa

from reindexer.errors import ReindexerError
from reindexer.journal import CLOCKS_DIFFER_S, Lease, lease_is_free
from search import tables
from search.database import Database
from search.errors import LeaseLost
from search.generations import UNFINISHED

JobKind = Literal[
    "sync", "compact", "evaluate", "prune", "export_clicks", "train", "build", "upgrade"
]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]
KINDS: frozenset[str] = frozenset(get_args(JobKind))
BUILD_KINDS: frozenset[str] = frozenset({"build", "upgrade", "compact"})  # share one lease
LONGEST_WAIT_S = 600.0  # of a job that is tried again
KEPT_JOBS = 1_000  # finished ones, for people to look at


class JobNotFound(ReindexerError):
    """No such job."""


class JobLost(ReindexerError):
    """Another worker has this job now: this one was not heard of for too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Work that was asked for."""

    job_id: int
    kind: JobKind
    arguments: Mapping[str, Any]
    state: JobState
    who: str  # asked for it
    holder: str | None  # name of the lease of the worker that does it
    token: int | None  # of that lease
    child: str | None  # the process that the worker started for it
    log: str | None  # file with what that process says
    attempts: int  # begun since it last got ahead
    not_before: float | None  # Unix seconds
    reason: str | None  # why it failed, or waits
    result: Mapping[str, Any] | None
    asked_at: float  # Unix seconds
    started_at: float | None
    finished_at: float | None

    @property
    def generation(self) -> str | None:
        """The generation that a build works on."""
        return self.arguments.get("generation")

    def to_json(self) -> dict[str, Any]:
        ended = self.finished_at or time.time()
        return {
            "job_id": self.job_id,
            "kind": self.kind,
            "arguments": dict(self.arguments),
            "state": self.state,
            "who": self.who,
            "reason": self.reason,
            "attempts": self.attempts,
            "seconds": round(ended - self.started_at, 1) if self.started_at else None,
            "asked_at": _iso(self.asked_at),
            "started_at": _iso(self.started_at),
            "finished_at": _iso(self.finished_at),
            "not_before": _iso(self.not_before),
            "log": self.log,
            "result": dict(self.result) if self.result is not None else None,
        }


class JobQueue:
    """Asks for work and hands it out. Any number of processes may use it at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- asking ------------------------------------------------------------------------------

    def ask(self, kind: JobKind, arguments: Mapping[str, Any], *, who: str) -> Job:
        """Ask for work; the same work that already waits is not asked for twice."""
        with self._database.write() as connection:
            job_id = ask_within(connection, kind, arguments, who=who)
        return self.get(job_id)

    def withdraw(self, generation: str, *, reason: str) -> bool:
        """Take back the builds of a generation that nobody has begun; True when there was one."""
        jobs = tables.jobs
        with self._database.write() as connection:
            waiting = [
                row.id
                for row in _active(connection, {"queued"})
                if row.kind in BUILD_KINDS
                and json.loads(row.arguments).get("generation") == generation
            ]
            if waiting:
                connection.execute(
                    sa.update(jobs)
                    .where(jobs.c.id.in_(waiting), jobs.c.state == "queued")
                    .values(state="cancelled", reason=reason, finished_at=time.time())
                )
        return bool(waiting)

    # -- looking -----------------------------------------------------------------------------

    def get(self, job_id: int) -> Job:
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tables.jobs).where(tables.jobs.c.id == job_id)
            ).one_or_none()
        if row is None:
            raise JobNotFound(f"no job {job_id}; see `reindexer schedule jobs`")
        return _job(row)

    def recent(self, limit: int = 50) -> list[Job]:
        """Newest first."""
        query = sa.select(tables.jobs).order_by(tables.jobs.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]

    def active(self) -> list[Job]:
        """Queued and running, oldest first."""
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(_select_active())]

    def last_of(self, generation: str) -> Job | None:
        """The newest job that was to build this generation."""
        jobs = tables.jobs
        query = (
            sa.select(jobs).where(jobs.c.kind.in_(sorted(BUILD_KINDS))).order_by(jobs.c.id.desc())
        )
        with self._database.read() as connection:
            found = (_job(row) for row in connection.execute(query))
            return next((job for job in found if job.generation == generation), None)

    # -- doing -------------------------------------------------------------------------------

    def claim(self, kinds: Collection[str], lease: Lease) -> Job | None:
        """The oldest job of these kinds that may be done now, now done by the holder of `lease`;
        None when there is none.

        One job of a kind is done at a time, and one of those that build. A job whose worker is gone
        is handed on as it is, with the child that the worker may have left. Raises LeaseLost.
        """
        if not any(job.kind in kinds for job in self.active()):
            return None  # most of the time; costs no write lock
        now = time.time()
        with self._database.write() as connection:
            _check_lease(connection, lease)
            rows = _active(connection, {"queued", "running"})
            held = _holders(connection, rows)
            busy = {_lane(row.kind) for row in rows if row.id in held}
            for row in rows:
                # A longer wait can only come from a clock that has since gone back.
                waits = 0.0 < (row.not_before or 0.0) - now <= LONGEST_WAIT_S + CLOCKS_DIFFER_S
                may_begin = row.state == "running" or not waits
                if row.kind in kinds and may_begin and _lane(row.kind) not in busy:
                    connection.execute(
                        sa.update(tables.jobs)
                        .where(tables.jobs.c.id == row.id)
                        .values(
                            state="running",
                            holder=lease.name,
                            token=lease.token,
                            started_at=row.started_at or now,
                            attempts=row.attempts + (row.state == "queued"),
                            not_before=None,
                        )
                    )
                    break
            else:
                return None
        return self.get(row.id)

    def note_child(self, job: Job, *, child: str, log: str) -> None:
        """Raises JobLost."""
        self._update(job, child=child, log=log)

    def finish(self, job: Job, result: Mapping[str, Any] | None) -> None:
        """Raises JobLost when another worker has it."""
        self._end(job, state="done", result=json.dumps(result) if result else None, reason=None)

    def fail(self, job: Job, reason: str) -> None:
        """The build that it was to bring on, if it is not finished, has failed too. Raises JobLost
        when another worker has it."""
        self._end(job, build=("failed", reason), state="failed", reason=reason)

    def cancel(self, job: Job, reason: str) -> None:
        """A person stopped the work. Raises JobLost when another worker has it."""
        self._end(job, state="cancelled", reason=reason)

    def put_back(
        self,
        job: Job,
        reason: str,
        *,
        wait_s: float = 0.0,
        attempts: int | None = None,
        build_reason: str | None = None,
    ) -> None:
        """Whoever is free does it, after wait_s. The build that it is about waits as well, and says
        build_reason. Raises JobLost when another worker has it."""
        self._update(
            job,
            build=("queued", build_reason or reason),
            state="queued",
            holder=None,
            token=None,
            child=None,
            reason=reason,
            not_before=time.time() + wait_s if wait_s else None,
            attempts=job.attempts if attempts is None else attempts,
        )

    def _end(self, job: Job, *, build: tuple[str, str] | None = None, **values: Any) -> None:
        self._update(job, build=build, finished_at=time.time(), **values)
        jobs = tables.jobs
        with self._database.write() as connection:
            connection.execute(
                sa.delete(jobs).where(
                    jobs.c.id <= job.job_id - KEPT_JOBS, jobs.c.state.not_in(["queued", "running"])
                )
            )

    def _update(self, job: Job, *, build: tuple[str, str] | None = None, **values: Any) -> None:
        """build: state and reason of the build, in the same transaction: a worker that has lost the
        job must not speak of the build either."""
        jobs, builds, generations = tables.jobs, tables.builds, tables.generations
        with self._database.write() as connection:
            is_ours = connection.execute(
                sa.update(jobs)
                .where(
                    jobs.c.id == job.job_id,
                    jobs.c.state == "running",
                    jobs.c.holder == job.holder,
                    jobs.c.token == job.token,
                )
                .values(**values)
            ).rowcount
            if not is_ours:
                raise JobLost(
                    f"job {job.job_id} ({job.kind}) belongs to another worker now: this one was "
                    "not heard of for too long. Look at `reindexer schedule jobs`"
                )
            if build is not None and job.generation is not None:
                unfinished = sa.select(generations.c.name).where(
                    generations.c.state.in_(sorted(UNFINISHED))
                )
                connection.execute(
                    sa.update(builds)
                    .where(
                        builds.c.generation == job.generation, builds.c.generation.in_(unfinished)
                    )
                    .values(state=build[0], reason=build[1], updated_at=time.time())
                )


def ask_within(
    connection: sa.Connection, kind: JobKind, arguments: Mapping[str, Any], *, who: str
) -> int:
    """Ask for a job in a transaction that does more; returns its id."""
    text = json.dumps(arguments, sort_keys=True)
    for row in _active(connection, {"queued"}):
        if (row.kind, row.arguments) == (kind, text):
            return int(row.id)
    values = {
        "kind": kind,
        "arguments": text,
        "state": "queued",
        "who": who,
        "attempts": 0,
        "asked_at": time.time(),
    }
    inserted = connection.execute(sa.insert(tables.jobs).values(**values))
    key = inserted.inserted_primary_key
    assert key is not None
    return int(key[0])


def _select_active(states: Collection[str] = ("queued", "running")) -> sa.Select[Any]:
    return (
        sa.select(tables.jobs)
        .where(tables.jobs.c.state.in_(sorted(states)))
        .order_by(tables.jobs.c.id)
    )


def _active(connection: sa.Connection, states: Collection[str]) -> list[Any]:
    """Locked in one order, so that of two claimers one waits and then sees what the other did."""
    return list(connection.execute(_select_active(states).with_for_update()).all())


def _check_lease(connection: sa.Connection, lease: Lease) -> None:
    lease.check()
    leases = tables.leases
    row = connection.execute(
        sa.select(leases).where(leases.c.name == lease.name).with_for_update(read=True)
    ).one_or_none()
    # Not `lease_is_free`: one that ends far ahead is held, by a clock that has gone back since.
    if row is None or row.token != lease.token or row.expires_at < time.time():
        raise LeaseLost(
            f"the lease {lease.name!r} passed on, so its worker takes no more jobs. Look at "
            "`reindexer status`"
        )


def _holders(connection: sa.Connection, rows: list[Any]) -> set[int]:
    """Ids of the running jobs whose worker is still heard of."""
    names = {row.holder for row in rows if row.state == "running"}
    if not names:
        return set()
    leases = {
        row.name: row
        for row in connection.execute(
            sa.select(tables.leases).where(tables.leases.c.name.in_(sorted(names)))
        )
    }
    return {
        row.id
        for row in rows
        if row.state == "running"
        and row.holder in leases
        and leases[row.holder].token == row.token
        and not lease_is_free(leases[row.holder])
    }


def _lane(kind: str) -> str:
    """Jobs of one lane are done one after the other, whoever does them."""
    return "build" if kind in BUILD_KINDS else kind


def _job(row: Any) -> Job:
    return Job(
        job_id=row.id,
        kind=row.kind,
        arguments=json.loads(row.arguments),
        state=row.state,
        who=row.who,
        holder=row.holder,
        token=row.token,
        child=row.child,
        log=row.log,
        attempts=row.attempts,
        not_before=row.not_before,
        reason=row.reason,
        result=json.loads(row.result) if row.result else None,
        asked_at=row.asked_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
