"""The doctor's look at the clock: nothing that is recorded can be of the future."""

from __future__ import annotations

import time

import sqlalchemy as sa

from reindexer.data_directory import DataDirectory
from reindexer.findings import Finding
from reindexer.journal import LEASE_S
from reindexer.terminal import duration
from search import tables

TOLERANCE_S = 30.0  # clocks of several machines differ a little

# What was written at some moment, and how far ahead of it that may lie.
_TIMES = (
    ("an event", tables.events.c.at, 0.0),
    ("a generation", tables.generations.c.state_at, 0.0),
    ("a build", tables.builds.c.updated_at, 0.0),
    ("a serving process", tables.searchers.c.seen_at, 0.0),
    ("a lease", tables.leases.c.expires_at, LEASE_S),
)


def look_at_clock(data: DataDirectory) -> Finding:
    now = time.time()
    ahead: dict[str, float] = {}
    with data.database.read() as connection:
        for what, column, reach_s in _TIMES:
            latest = connection.execute(sa.select(sa.func.max(column))).scalar()
            if latest is not None and latest - reach_s > now + TOLERANCE_S:
                ahead[what] = latest - reach_s - now
    if not ahead:
        return Finding(name="clock", state="ok", found="nothing is recorded of the future")
    found = ", ".join(f"{what} by {duration(seconds)}" for what, seconds in ahead.items())
    return Finding(
        name="clock",
        state="problem",
        found=f"the clock went back, or another machine's is ahead: recorded of the future are "
        f"{found}",
        advice="set the clock right on every machine that shares this data (`timedatectl`). "
        "Leases of the future count as free; order is kept by seq, not by time. A dead process "
        "whose heartbeat is of the future is waited for at a cut-over until then",
    )
