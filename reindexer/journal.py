"""The journal: builds, their checkpoints, and who holds which lease."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

import sqlalchemy as sa

from reindexer.errors import LeaseHeld
from search import tables
from search.database import Database
from search.errors import GenerationNotFound, LeaseLost, SearchError
from search.generations import move_watermark
from search.processes import describe_process, process_may_live, process_name
from training.kill_points import reached

Stop = Literal["pause", "cancel"]
Wanted = Stop | Literal["resume"]  # resume: whoever had come to stop it changed his mind
BuildState = Literal["queued", "running", "paused", "failed", "cancelled", "done"]
LEASE_S = 15.0
CLOCKS_DIFFER_S = 60.0  # those of two machines, at most; what is more comes from one that went back

BUILD_LEASE = "build"
SYNC_LEASE = "sync"
CUT_OVER_LEASE = "cutover"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One build as the journal knows it. Its checkpoint is its generation's watermark."""

    build_id: int
    generation: str
    state: BuildState
    reason: str | None
    wanted: Wanted | None  # asked for, not yet done
    start_head: int  # corpus head when the build was recorded
    docs_done: int
    docs_total: int
    passages: int
    encoded: int
    reused: int
    docs_per_s: float
    busy_s: float
    retries: int
    started_at: float
    updated_at: float
    tokens: int = 0  # encoded
    batches: int = 0  # that they were encoded in
    stages: Mapping[str, float] = field(default_factory=dict)  # seconds, over all its runs
    pace: float | None = None  # share of full speed that the governor leaves it; 0: held
    pace_reason: str | None = None
    actors: int | None = None  # wanted by somebody, of a build that is fanned out

    @property
    def stop(self) -> Stop | None:
        """How the process that works on it is to stop, if it is."""
        return None if self.wanted == "resume" else self.wanted


class Journal:
    """Every operation, its checkpoint, and who holds the lease."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- builds ------------------------------------------------------------------------------

    def record_build(
        self, generation: str, *, start_head: int, docs_total: int, state: BuildState = "running"
    ) -> Build:
        now = time.time()
        with self._database.write() as connection:
            connection.execute(
                sa.insert(tables.builds).values(
                    generation=generation,
                    state=state,
                    start_head=start_head,
                    docs_done=0,
                    docs_total=docs_total,
                    passages=0,
                    encoded=0,
                    reused=0,
                    docs_per_s=0.0,
                    busy_s=0.0,
                    retries=0,
                    started_at=now,
                    updated_at=now,
                )
            )
        reached("build.recorded")
        return self.build_of(generation)

    def build_of(self, generation: str) -> Build:
        """Raises GenerationNotFound when no build made this generation."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tables.builds).where(tables.builds.c.generation == generation)
            ).one_or_none()
        if row is None:
            raise GenerationNotFound(f"no build of {generation!r}; run `reindexer status`")
        return _build(row)

    def builds(self, states: set[str] | None = None) -> list[Build]:
        """Newest first."""
        query = sa.select(tables.builds).order_by(tables.builds.c.id.desc())
        if states is not None:
            query = query.where(tables.builds.c.state.in_(sorted(states)))
        with self._database.read() as connection:
            return [_build(row) for row in connection.execute(query)]

    def start_run(self, build: Build) -> None:
        """The holder of the build lease begins to work on a build. Whatever else is said to be
        running has lost its process."""
        builds = tables.builds
        now = time.time()
        with self._database.write() as connection:
            connection.execute(
                sa.update(builds)
                .where(builds.c.state == "running", builds.c.id != build.build_id)
                .values(state="failed", reason="its process was gone", updated_at=now)
            )
            connection.execute(
                sa.update(builds)
                .where(builds.c.id == build.build_id)
                .values(
                    state="running",
                    reason=None,
                    wanted=None,
                    actors=None,
                    retries=build.retries + (1 if build.busy_s else 0),
                    updated_at=now,
                )
            )

    def update_build(self, build_id: int, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(
                sa.update(tables.builds)
                .where(tables.builds.c.id == build_id)
                .values(updated_at=time.time(), **values)
            )

    def go_on(self, build: Build) -> None:
        """Whoever works on the build has seen that it is not to stop after all."""
        builds = tables.builds
        with self._database.write() as connection:
            connection.execute(
                sa.update(builds)
                .where(builds.c.id == build.build_id, builds.c.wanted == "resume")
                .values(wanted=None)
            )

    def count_retry(self, build_id: int) -> None:
        """Part of a build has to be done again."""
        self.update_build(build_id, retries=tables.builds.c.retries + 1)

    def checkpoint(
        self, build: Build, watermark: int, *, lease: str, token: int, **progress: Any
    ) -> None:
        """Watermark and progress of a build in one transaction, after the write was acknowledged.

        Raises LeaseLost when the lease has changed hands, WrongState when the watermark would go
        back.
        """
        with self._database.write() as connection:
            move_watermark(connection, build.generation, watermark, lease=lease, token=token)
            connection.execute(
                sa.update(tables.builds)
                .where(tables.builds.c.id == build.build_id)
                .values(updated_at=time.time(), **progress)
            )
            reached("checkpoint.write")
        reached("checkpoint.commit")

    # -- leases ------------------------------------------------------------------------------

    def lease(self, name: str, *, wait_s: float = 0.0) -> Lease:
        """Take a lease and keep it renewed until it is released.

        Raises LeaseHeld when another living process keeps it for longer than wait_s.
        """
        deadline = time.monotonic() + wait_s
        while True:
            token, holder = self._try_take(name)
            if token is not None:
                reached("lease.taken")
                return Lease(self, name, token)
            if time.monotonic() >= deadline:
                raise LeaseHeld(
                    f"the lease {name!r} is held by {describe_process(holder)}; wait until it is "
                    "done, or look at `reindexer status`"
                )
            time.sleep(0.1)

    def holder(self, name: str) -> str | None:
        """Who holds the lease now, if anybody does."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(tables.leases).where(tables.leases.c.name == name)
            ).one_or_none()
        return None if row is None or lease_is_free(row) else str(row.holder)

    def holders(self, prefix: str) -> dict[str, str]:
        """Who holds the leases whose names begin so, by name."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(tables.leases).where(tables.leases.c.name.startswith(prefix))
            ).all()
        return {str(row.name): str(row.holder) for row in rows if not lease_is_free(row)}

    def forget(self, prefix: str) -> None:
        """Drop the rows of leases that nobody holds and nobody will take again."""
        with self._database.write() as connection:
            rows = connection.execute(
                sa.select(tables.leases)
                .where(tables.leases.c.name.startswith(prefix))
                .with_for_update()
            ).all()
            free = [row.name for row in rows if lease_is_free(row)]
            if free:
                connection.execute(sa.delete(tables.leases).where(tables.leases.c.name.in_(free)))

    def _try_take(self, name: str) -> tuple[int | None, str]:
        leases = tables.leases
        me = process_name()
        with self._database.write() as connection:
            row = connection.execute(
                sa.select(leases).where(leases.c.name == name).with_for_update()
            ).one_or_none()
            if row is None:
                token = connection.execute(
                    self._database.upsert(leases)
                    .values(name=name, holder=me, token=1, expires_at=time.time() + LEASE_S)
                    .on_conflict_do_nothing()
                    .returning(leases.c.token)
                ).scalar()
                return token, me if token else "another process"
            if not lease_is_free(row):
                return None, str(row.holder)
            connection.execute(
                sa.update(leases)
                .where(leases.c.name == name)
                .values(holder=me, token=row.token + 1, expires_at=time.time() + LEASE_S)
            )
            return int(row.token) + 1, me

    def _renew(self, name: str, token: int) -> bool:
        with self._database.write() as connection:
            return bool(
                connection.execute(
                    sa.update(tables.leases)
                    .where(tables.leases.c.name == name, tables.leases.c.token == token)
                    .values(expires_at=time.time() + LEASE_S)
                ).rowcount
            )

    def _release(self, name: str, token: int) -> None:
        with self._database.write() as connection:
            connection.execute(
                sa.update(tables.leases)
                .where(tables.leases.c.name == name, tables.leases.c.token == token)
                .values(expires_at=0.0, holder="")
            )


class Lease:
    """A lease that is held: renewed by a thread, given back at the end of the `with` block."""

    def __init__(self, journal: Journal, name: str, token: int) -> None:
        self.name = name
        self.token = token
        self._journal = journal
        self._stopped = threading.Event()
        self._lost = False
        self._renewed_at = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{name}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises LeaseLost when the lease has passed on, or was not renewed for its length."""
        if self._lost or time.monotonic() - self._renewed_at > LEASE_S:
            raise LeaseLost(
                f"the lease {self.name!r} was lost: this process was stopped or cut off from the "
                f"database for more than {LEASE_S:.0f} s. Look at `reindexer status`"
            )

    def release(self) -> None:
        self._stopped.set()
        self._thread.join()
        with contextlib.suppress(SearchError):
            self._journal._release(self.name, self.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def _keep(self) -> None:
        while not self._stopped.wait(LEASE_S / 5):
            try:
                if not self._journal._renew(self.name, self.token):
                    self._lost = True
                    return
                self._renewed_at = time.monotonic()
            except SearchError:
                continue  # tried again until `check` calls it lost


def lease_is_free(row: Any) -> bool:
    """Whether anybody may take the lease of this row."""
    now = time.time()
    # An expiry far in the future can only come from a clock that has since gone back.
    expired = row.expires_at < now or row.expires_at > now + 3 * LEASE_S
    return expired or not process_may_live(row.holder)


def _build(row: Any) -> Build:
    return Build(
        build_id=row.id,
        generation=row.generation,
        state=row.state,
        reason=row.reason,
        wanted=row.wanted,
        start_head=row.start_head,
        docs_done=row.docs_done,
        docs_total=row.docs_total,
        passages=row.passages,
        encoded=row.encoded,
        reused=row.reused,
        docs_per_s=row.docs_per_s,
        busy_s=row.busy_s,
        retries=row.retries,
        started_at=row.started_at,
        updated_at=row.updated_at,
        tokens=row.tokens or 0,
        batches=row.batches or 0,
        stages=json.loads(row.stages) if row.stages else {},
        pace=row.pace,
        pace_reason=row.pace_reason,
        actors=row.actors,
    )
