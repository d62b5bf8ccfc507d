"""Prune: the one operation that drops anything, and only what nobody wants any longer.

A generation becomes `pruned` in the catalog before its collection is dropped: from that moment
nothing can switch to it. A prune that is killed in between leaves a collection of a pruned
generation, which the next one finds and drops.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld
from reindexer.journal import BUILD_LEASE, CUT_OVER_LEASE, SYNC_LEASE
from search.disk_room import bytes_on_disk, give_spare
from search.errors import StoreLocked
from search.generations import Generation
from training.kill_points import reached

HANDED_BACK_S = 10.0  # a service closes a collection that is not wanted any more in well under that

Kind = Literal["generation", "collection", "lexical index", "leftover files"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PruneItem:
    """One thing that would be dropped."""

    kind: Kind
    name: str
    reason: str
    disk_bytes: int | None  # None where the store cannot tell
    collection: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "reason": self.reason,
            "disk_bytes": self.disk_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunePlan:
    """What would be dropped, and which generations stay and why."""

    items: tuple[PruneItem, ...]
    kept: tuple[tuple[str, str], ...]  # (generation, why)

    @property
    def disk_bytes(self) -> int:
        return sum(item.disk_bytes or 0 for item in self.items)

    def to_json(self) -> dict[str, Any]:
        return {
            "items": [item.to_json() for item in self.items],
            "kept": [{"generation": name, "reason": reason} for name, reason in self.kept],
            "disk_bytes": self.disk_bytes,
        }


def plan_prune(
    data: DataDirectory, *, standby: bool = False, after_hold_over: bool = False
) -> PrunePlan:
    """What can be dropped now. standby: the standby generation too, before its hold-over is over.
    after_hold_over: every generation that is not wanted stays for the hold-over too, so that a
    person may look at what the gate refused, and overrule it.

    Never what is live or aliased, what a build works on, or what a process answers from.
    """
    items: list[PruneItem] = []
    kept: list[tuple[str, str]] = []
    in_use = _in_use(data)
    collections = set(data.store.names())
    alias = data.store.alias()
    for generation in data.catalog.all():
        reason, is_wanted = _verdict(data, generation, standby=standby)
        left_s = _hold_over_left_s(data, generation)
        if after_hold_over and not is_wanted and left_s > 0:
            reason, is_wanted = f"{reason}, {left_s / 3600:.0f} h of its hold-over left", True
        if generation.name in in_use:
            reason, is_wanted = in_use[generation.name], True
        elif alias == generation.collection:
            reason, is_wanted = "the alias points at it", True
        if is_wanted:
            kept.append((generation.name, reason))
        else:
            items.append(
                PruneItem(
                    kind="generation",
                    name=generation.name,
                    reason=reason,
                    disk_bytes=_disk_bytes(data, generation.collection, collections),
                    collection=generation.collection,
                )
            )
    for generation in data.catalog.all({"pruned"}):
        if generation.collection in collections and generation.collection != alias:
            items.append(
                PruneItem(
                    kind="collection",
                    name=generation.collection,
                    reason=f"an earlier prune of {generation.name} was interrupted",
                    disk_bytes=_disk_bytes(data, generation.collection, collections),
                    collection=generation.collection,
                )
            )
    items += _lexical_items(data, going={item.name for item in items if item.kind == "generation"})
    items += [
        PruneItem(
            kind="leftover files",
            name=str(path.relative_to(data.path)),
            reason="left by a process that was killed",
            disk_bytes=bytes_on_disk(path),
        )
        for path in _leftovers(data)
    ]
    return PrunePlan(items=tuple(items), kept=tuple(kept))


def prune(
    data: DataDirectory,
    plan: PrunePlan,
    *,
    on_step: Callable[[str], None] = lambda _step: None,
) -> list[PruneItem]:
    """Drop what the plan lists and what may still be dropped; returns what was.

    No switch can begin meanwhile. Raises LeaseHeld while one is under way, StoreLocked when another
    process keeps a collection open; the next prune then finishes this one.
    """
    give_spare(data.path)
    dropped: list[PruneItem] = []
    try:
        with data.journal.lease(CUT_OVER_LEASE):
            for item in plan.items:
                on_step(f"dropping {item.name}")
                if _drop(data, item):
                    dropped.append(item)
    finally:
        if dropped:
            data.catalog.events.record(
                "prune",
                None,
                {
                    "dropped": [item.name for item in dropped],
                    "disk_bytes": sum(item.disk_bytes or 0 for item in dropped),
                },
            )
    return dropped


# -- generations ----------------------------------------------------------------------------------


def _verdict(data: DataDirectory, generation: Generation, *, standby: bool) -> tuple[str, bool]:
    """Why it goes or stays, and whether it stays."""
    if generation.state in ("retired", "failed"):
        return _why_unwanted(generation), False
    if generation.state != "standby":
        return {
            "live": "it is live",
            "ready": f"it is ready; cut over to it, or run `reindexer cancel {generation.name}`",
        }.get(generation.state, "its build is not finished"), True
    if standby:
        return "it is the standby: no way back after this", False
    left_s = _hold_over_left_s(data, generation)
    if left_s <= 0:
        return f"its hold-over of {data.settings.hold_over_h:g} h is over", False
    return f"it is the standby for another {left_s / 3600:.0f} h; --standby drops it now", True


def _hold_over_left_s(data: DataDirectory, generation: Generation) -> float:
    """From the moment that it came into its present state; all of it, where that lies ahead because
    the clock went back since."""
    now = time.time()
    return min(generation.state_at, now) + 3600 * data.settings.hold_over_h - now


def _why_unwanted(generation: Generation) -> str:
    if generation.state == "retired":
        return "it was retired by a later cut-over"
    report = generation.verified
    return (
        "the gate refused it" if report and not report.get("passed") else "its build was given up"
    )


def _in_use(data: DataDirectory) -> dict[str, str]:
    """Why a generation must stay whatever its state, by name."""
    result: dict[str, str] = {}
    for process in data.catalog.processes.seen():
        for name in (process.generation, process.prepared):
            if name is not None:
                result[name] = f"the process at {process.address} has it open"
    if data.journal.holder(BUILD_LEASE) is not None:
        for build in data.journal.builds({"running"}):
            result[build.generation] = "a build is working on it"
    request = data.catalog.pointers().request
    if request is not None:
        result[request.target] = "a cut-over to it is under way"
    return result


def _drop(data: DataDirectory, item: PruneItem) -> bool:
    if item.kind == "generation":
        return _drop_generation(data, item.name)
    if item.kind == "collection":
        assert item.collection is not None
        _drop_collection(data, item.collection)
        return True
    if item.kind == "lexical index":
        return _drop_lexical(data, item.name)
    shutil.rmtree(data.path / item.name, ignore_errors=True)
    return True


def _drop_generation(data: DataDirectory, name: str) -> bool:
    """Look again under the lease, since time has passed; then fence, then drop."""
    generation = data.catalog.get(name)
    if generation.state not in ("retired", "failed", "standby") or name in _in_use(data):
        return False
    if data.store.alias() == generation.collection:
        return False
    if generation.state == "standby":
        data.catalog.move(name, "retired", reason="pruned while standby")
    data.catalog.move(name, "pruned")
    reached("prune.fenced")
    _drop_collection(data, generation.collection)
    reached("prune.dropped")
    return True


def _drop_collection(data: DataDirectory, collection: str) -> None:
    """Drop it, once a service that had it open as standby has given it back."""
    deadline = time.monotonic() + HANDED_BACK_S
    while True:
        try:
            data.store.drop(collection)
            return
        except StoreLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


# -- files ----------------------------------------------------------------------------------------


def _lexical_items(data: DataDirectory, going: set[str]) -> list[PruneItem]:
    folder = data.path / "lexical"
    if not folder.is_dir():
        return []
    used = {
        generation.recipe.analyzer.id
        for generation in data.catalog.all()
        if generation.name not in going and generation.recipe.lexical.kind == "bm25s"
    }
    return [
        PruneItem(
            kind="lexical index",
            name=path.name,
            reason="no generation uses it",
            disk_bytes=bytes_on_disk(path),
        )
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name not in used
    ]


def _drop_lexical(data: DataDirectory, name: str) -> bool:
    """Only while nobody replays: a service keeps its lexical indexes open and saves them."""
    with contextlib.suppress(LeaseHeld), data.journal.lease(SYNC_LEASE):
        if name not in {item.name for item in _lexical_items(data, set())}:
            return False
        shutil.rmtree(data.path / "lexical" / name)
        return True
    return False


def _leftovers(data: DataDirectory) -> list[Path]:
    """Folders that a killed process was writing into. Who writes into one holds a lock on it."""
    candidates = [*data.registry.root.glob(".incoming-*"), *data.path.glob(".plan-*")]
    return [path for path in candidates if path.is_dir() and not _is_locked(path)]


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _disk_bytes(data: DataDirectory, collection: str, there: Collection[str]) -> int | None:
    return data.store.disk_bytes(collection) if collection in there else 0
