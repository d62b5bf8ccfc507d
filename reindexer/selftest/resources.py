"""What a process and a folder take up, sampled over time, and whether that keeps growing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reindexer.selftest.proof import Promise
from search.disk_room import bytes_on_disk
from search.edge_process import CHILD
from search.processes import children_of

# Growth over the last part of a soak that is no growth: this share of the level, or so many, or
# three times what samples scatter around their line.
SHARE = 0.05
SPREADS = 3.0
FEW = {"memory": 4_000_000.0, "handles": 4.0, "threads": 3.0, "disk": 2_000_000.0}
MIN_SAMPLES = 5
LOG = "*/shard/wal"  # of the embedded engine, below the folder of its collections


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One look."""

    at: float  # monotonic seconds
    # Bytes resident that only the process holds: the system may drop pages of mapped files, and the
    # files themselves are counted below. None where the system does not tell.
    memory: float | None
    handles: float | None
    threads: float | None
    disk: float  # bytes, without the embedded collections
    vectors: float  # bytes of the embedded collections, without the engine's logs
    log: float  # bytes of the longest of these logs


def take_sample(pid: int, folder: Path) -> Sample | None:
    """Of a process, and those that have collections open for it. None when it is gone."""
    memory = handles = threads = None
    if Path("/proc/self/status").exists():
        own = _taken_up(pid)
        if own is None:
            return None
        taken = [own, *filter(None, map(_taken_up, _collection_processes(pid)))]
        memory, handles, threads = (sum(column) for column in zip(*taken, strict=True))
    collections = folder / "collections"
    logs = [bytes_on_disk(log) for log in collections.glob(LOG)]
    vectors = bytes_on_disk(collections)
    return Sample(
        at=time.monotonic(),
        memory=memory,
        handles=handles,
        threads=threads,
        disk=bytes_on_disk(folder) - vectors,
        vectors=vectors - sum(logs),
        log=max(logs, default=0.0),
    )


def _taken_up(pid: int) -> tuple[float, float, float] | None:
    """(bytes resident without mapped files, handles, threads)"""
    place = Path(f"/proc/{pid}")
    try:
        status = (place / "status").read_text("ascii", "replace")
        handles = len(list((place / "fd").iterdir()))
    except OSError:
        return None
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    if "RssAnon" not in fields:
        return None
    kib = sum(float(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))
    return 1024 * kib, float(handles), float(fields["Threads"])


def _collection_processes(pid: int) -> list[int]:
    found = []
    for child in children_of(pid):
        with contextlib.suppress(OSError):  # it has ended
            if CHILD.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def flat(samples: Sequence[Sample]) -> list[Promise]:
    """Of each resource: that it does not grow over these samples, noise aside."""
    return [_flat(what, samples) for what in ("memory", "handles", "threads", "disk")]


def _flat(what: str, samples: Sequence[Sample]) -> Promise:
    pairs = [(sample.at, getattr(sample, what)) for sample in samples]
    pairs = [(at, value) for at, value in pairs if value is not None]
    name = f"flat: {what}"
    if len(pairs) < MIN_SAMPLES:
        is_hidden = len(samples) >= MIN_SAMPLES  # a system without /proc
        found = "this system does not tell" if is_hidden else f"{len(pairs)} samples, too few"
        return Promise(name=name, kept=is_hidden, found=found, expected="a level")
    times, values = np.array(pairs).T
    slope, start = np.polyfit(times - times[0], values, 1)
    scatter = float(np.std(values - (start + slope * (times - times[0]))))
    growth = float(slope * (times[-1] - times[0]))
    level = float(np.mean(values))
    allowed = max(SHARE * level, FEW[what], SPREADS * scatter)
    unit, scale = ("MB", 1e6) if what in ("memory", "disk") else ("", 1.0)
    return Promise(
        name=name,
        kept=growth <= allowed,
        found=f"{level / scale:,.1f} {unit}".rstrip()
        + f", {growth / scale:+,.2f} over {times[-1] - times[0]:,.0f} s",
        expected=f"no more than {allowed / scale:+,.2f}",
    )
