"""What is done again and again: rows in the database, and a trigger in each worker.

Every worker has the trigger and all of them fire; whoever moves `last_at` first asks for the job,
and the others find that it was asked for. The trigger is APScheduler's, used for telling the time
and for nothing else: it keeps no jobs.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from reindexer.errors import ReindexerError, ScheduleInvalid
from reindexer.job_kinds import checked_arguments
from reindexer.jobs import Job, JobKind, JobQueue, ask_within
from reindexer.journal import CLOCKS_DIFFER_S
from search import tables
from search.database import Database
from search.errors import SearchError

REFRESH_S = 5.0  # how often a worker looks whether a schedule was changed
MIN_EVERY_S = 1
_EVERY = re.compile(r"every\s+(\d+)\s*([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # intervals count from here, so all workers agree

# What an installation does by itself. Work that costs something unasked is not among it.
DEFAULTS: tuple[tuple[str, JobKind, str], ...] = (
    ("sync", "sync", "every 300s"),
    ("compact", "compact", "every 1h"),
    ("prune", "prune", "every 6h"),
)


class ScheduleNotFound(ReindexerError):
    """No schedule of this name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A job that is asked for again and again."""

    name: str
    kind: JobKind
    arguments: Mapping[str, Any]
    trigger: str  # "every 300s", or five cron fields in UTC
    enabled: bool
    last_at: float | None  # Unix seconds; when it was last asked for
    created_at: float

    @property
    def next_at(self) -> float | None:
        """When it is asked for next, if it is enabled."""
        return next_after(self.trigger, self.last_at or self.created_at) if self.enabled else None

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": self.kind,
            "arguments": dict(self.arguments),
            "trigger": self.trigger,
            "enabled": self.enabled,
            "last_at": _iso(self.last_at),
            "next_at": _iso(self.next_at),
        }


def parse_trigger(text: str) -> IntervalTrigger | CronTrigger:
    """`every 300s` (s, m, h or d), or five cron fields. Raises ScheduleInvalid."""
    text = " ".join(text.split())
    if matched := _EVERY.fullmatch(text):
        seconds = int(matched[1]) * _UNIT_S[matched[2]]
        if not MIN_EVERY_S <= seconds <= 366 * 86_400:
            raise ScheduleInvalid(f"{text!r}: expected between {MIN_EVERY_S} second and 366 days")
        return IntervalTrigger(seconds=seconds, start_date=_EPOCH, timezone=UTC)
    try:
        return CronTrigger.from_crontab(text, timezone=UTC)
    except ValueError as error:
        raise ScheduleInvalid(
            f"{text!r} is no time to do something at ({error}); expected `every 300s`, `every 6h`, "
            'or five cron fields in UTC such as "0 3 * * *"'
        ) from None


def next_after(trigger: str, at: float) -> float | None:
    """The first moment after `at` (both Unix seconds); None when there is none any more."""
    found = parse_trigger(trigger).get_next_fire_time(
        None, datetime.fromtimestamp(at + 1e-3, tz=UTC)
    )
    return None if found is None else float(found.timestamp())


class Schedules:
    """The rows. Any number of processes may use them at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Schedule]:
        """By name, those that are switched off too."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(tables.schedules).order_by(tables.schedules.c.name)
            ).all()
        return [_schedule(row) for row in rows]

    def get(self, name: str) -> Schedule:
        found = self.all()
        for schedule in found:
            if schedule.name == name:
                return schedule
        known = ", ".join(schedule.name for schedule in found) or "none yet"
        raise ScheduleNotFound(f"no schedule {name!r}; there are: {known}")

    def set(
        self, name: str, kind: JobKind, trigger: str, arguments: Mapping[str, Any] | None = None
    ) -> Schedule:
        """Make a schedule, or change the one of this name; the next time counts from now.

        Raises ScheduleInvalid, JobInvalid.
        """
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
            raise ScheduleInvalid(
                f"{name!r} is no name for a schedule; expected small letters, digits, `-` and `_`"
            )
        trigger = " ".join(trigger.split())
        parse_trigger(trigger)
        values = {
            "kind": kind,
            "arguments": json.dumps(checked_arguments(kind, arguments or {}), sort_keys=True),
            "trigger": trigger,
            "enabled": True,
            "last_at": None,
            "created_at": time.time(),
        }
        with self._database.write() as connection:
            connection.execute(
                self._database.upsert(tables.schedules)
                .values(name=name, **values)
                .on_conflict_do_update(index_elements=["name"], set_=values)
            )
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget a schedule. One of the defaults is switched off instead, so that it stays off."""
        schedule = self.get(name)
        rows = tables.schedules
        is_default = any(schedule.name == default for default, _, _ in DEFAULTS)
        with self._database.write() as connection:
            if is_default:
                connection.execute(sa.update(rows).where(rows.c.name == name).values(enabled=False))
            else:
                connection.execute(sa.delete(rows).where(rows.c.name == name))

    def add_defaults(self) -> None:
        """What is not there yet; what a person changed or switched off stays."""
        with self._database.write() as connection:
            for name, kind, trigger in DEFAULTS:
                connection.execute(
                    self._database.upsert(tables.schedules)
                    .values(
                        name=name,
                        kind=kind,
                        arguments="{}",
                        trigger=trigger,
                        enabled=True,
                        created_at=time.time(),
                    )
                    .on_conflict_do_nothing()
                )

    def ask_now(self, name: str, *, who: str) -> Job:
        """Ask for the job of a schedule now, whatever its time."""
        schedule = self.get(name)
        return JobQueue(self._database).ask(schedule.kind, schedule.arguments, who=who)

    def fire(self, name: str, *, now: float | None = None) -> Job | None:
        """Ask for the job if its time has come and no other worker has asked; None otherwise."""
        now = time.time() if now is None else now
        rows = tables.schedules
        with self._database.write() as connection:
            row = connection.execute(sa.select(rows).where(rows.c.name == name)).one_or_none()
            if row is None or not row.enabled:
                return None
            last_at = row.last_at or row.created_at
            due_at = next_after(row.trigger, last_at)
            # What was last done in the future was done before the clock went back.
            if due_at is None or (due_at > now and last_at <= now + CLOCKS_DIFFER_S):
                return None
            was = rows.c.last_at.is_(None) if row.last_at is None else rows.c.last_at == row.last_at
            is_first = connection.execute(
                sa.update(rows).where(rows.c.name == name, was).values(last_at=now)
            ).rowcount
            if not is_first:
                return None
            job_id = ask_within(
                connection, row.kind, json.loads(row.arguments), who=f"schedule {name}"
            )
        return JobQueue(self._database).get(job_id)


class Clock:
    """Fires the schedules of the database in this process, and notices when they change."""

    def __init__(
        self,
        schedules: Schedules,
        *,
        on_job: Callable[[Job], None],
        on_error: Callable[[str], None],
    ) -> None:
        """on_job: a job was asked for. on_error: why one could not be. Both are called from a
        thread of the clock."""
        self._schedules = schedules
        self._on_job = on_job
        self._on_error = on_error
        self._known: dict[str, str] = {}  # trigger by name
        self._stopped = threading.Event()
        self._refreshing = threading.Thread(target=self._keep_fresh, name="schedules", daemon=True)
        self._scheduler = BackgroundScheduler(
            timezone=UTC, job_defaults={"coalesce": True, "misfire_grace_time": None}
        )

    def start(self) -> None:
        self.refresh()
        self._scheduler.start()
        self._refreshing.start()

    def stop(self) -> None:
        """May be called twice."""
        self._stopped.set()
        if self._scheduler.running:
            self._refreshing.join()
            self._scheduler.shutdown(wait=True)

    def _keep_fresh(self) -> None:
        """Not by the scheduler, which sleeps for an hour more when the clock goes back by one."""
        while not self._stopped.wait(REFRESH_S):
            self.refresh()

    def refresh(self) -> None:
        """Follow what people changed; and ask at once for what was missed while no worker ran."""
        try:
            found = self._schedules.all()
        except SearchError as error:
            self._on_error(f"cannot read the schedules: {error}")
            return
        wanted = {schedule.name: schedule.trigger for schedule in found if schedule.enabled}
        for name in set(self._known) - set(wanted):
            self._scheduler.remove_job(name)
            del self._known[name]
        for name, trigger in wanted.items():
            if self._known.get(name) != trigger:
                self._scheduler.add_job(
                    self._fire, parse_trigger(trigger), id=name, args=[name], replace_existing=True
                )
                self._known[name] = trigger
            self._fire(name)

    def _fire(self, name: str) -> None:
        try:
            job = self._schedules.fire(name)
        except (SearchError, ReindexerError) as error:
            self._on_error(f"schedule {name!r}: {error}")
            return
        if job is not None:
            self._on_job(job)


def _schedule(row: Any) -> Schedule:
    return Schedule(
        name=row.name,
        kind=row.kind,
        arguments=json.loads(row.arguments),
        trigger=row.trigger,
        enabled=bool(row.enabled),
        last_at=row.last_at,
        created_at=row.created_at,
    )


def _iso(at: float | None) -> str | None:
    return None if at is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
