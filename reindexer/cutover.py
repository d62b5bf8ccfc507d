"""The switch: prepare every serving process, catch up, compare-and-swap, and the way back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.errors import GateRefused, LeaseHeld
from reindexer.journal import CUT_OVER_LEASE, SYNC_LEASE, Lease
from search import traces
from search.errors import (
    CutOverRefused,
    NoLiveGeneration,
    StoreError,
    TargetBehind,
    WrongState,
)
from search.generations import Generation
from search.serving import FOLLOW_S
from training.errors import TrainingError
from training.kill_points import reached

log = logging.getLogger(__name__)

POLL_S = FOLLOW_S  # as often as a serving process looks
FOLLOW_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class CutOver:
    """What a switch did."""

    live_before: str | None
    live_after: str
    standby: str | None
    serving: tuple[str, ...]  # processes that prepared and followed
    late: tuple[str, ...]  # processes that had not followed when we stopped waiting
    prepare_s: float
    switch_s: float  # from the compare-and-swap until every process answered from the new one

    def to_json(self) -> dict[str, Any]:
        return {
            "live_before": self.live_before,
            "live_after": self.live_after,
            "standby": self.standby,
            "serving": list(self.serving),
            "late": list(self.late),
            "prepare_s": round(self.prepare_s, 3),
            "switch_s": round(self.switch_s, 3),
        }


def cut_over(
    data: DataDirectory,
    target: str,
    *,
    override: str | None = None,
    kind: str = "cut_over",
    who: str | None = None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> CutOver:
    """Make `target` the live generation.

    override: why a generation whose verification refused it may go live all the same; recorded
    with who said so. who: the user of this process unless given.

    Raises LeaseHeld while another switch is under way, WrongState, GateRefused when the last
    verification did not pass or the model was refused when it was trained, and CutOverRefused when
    a serving process could not prepare or the pointer was not where it was expected. In every case
    what was live still is.
    """
    generation = data.catalog.get(target)
    with traces.span(kind, generation=target), data.journal.lease(CUT_OVER_LEASE) as lease:
        live = data.catalog.live()
        if live is not None and live.name == target:
            raise WrongState(f"{target} is live already; nothing was changed")
        _check_may_go_live(generation, override)
        if generation.state != "standby":
            check_trained_better(data, generation.recipe.model, override)
        return _switch(data, generation, live, lease, override, kind, who, on_wait)


def rollback(
    data: DataDirectory,
    *,
    who: str | None = None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> CutOver:
    """Make the standby generation live again; what was written since is in it."""
    standby = data.catalog.standby()
    if standby is None:
        live = data.catalog.live()
        if live is None:
            raise NoLiveGeneration(
                "nothing is live and nothing is standby; run `reindexer upgrade MODEL` first"
            )
        raise WrongState(
            f"there is no standby generation to go back to; {live.name} stays live. "
            "A generation is standby after the next cut-over, until it is pruned"
        )
    return cut_over(data, standby.name, kind="rollback", who=who, on_wait=on_wait)


def _check_may_go_live(generation: Generation, override: str | None) -> None:
    if generation.state == "standby":
        return  # it was live before
    verified = generation.verified
    if generation.state == "failed" and override is not None and verified is not None:
        return
    if generation.state != "ready":
        advice = {
            "failed": f"run `reindexer verify {generation.name}` to see why, or switch all the "
            'same with --override "REASON"',
            "retired": "it is not kept in step any more; build it again",
        }.get(generation.state, "run `reindexer status`, and `reindexer resume` if it stopped")
        message = f"{generation.name} is {generation.state}, expected ready; {advice}"
        raise GateRefused(message) if generation.state == "failed" else WrongState(message)
    if override is None and (verified is None or not verified.get("passed")):
        raise GateRefused(
            f"{generation.name} has not passed verification; run "
            f"`reindexer verify {generation.name}`"
        )


def check_trained_better(data: DataDirectory, model: str, override: str | None) -> None:
    """Raises GateRefused when this version was trained here and did not prove better than its base,
    unless somebody says why it may go live all the same."""
    try:
        version = data.registry.resolve(model)
    except TrainingError:  # gone or damaged: preparing it says so, with what to do
        return
    if version.lineage.get("gate") != "refused":
        return
    reason = version.lineage.get("gate_reason", "no reason is recorded")
    if override is None:
        raise GateRefused(
            f"{version} was refused when it was trained: {reason}. See `reindexer models show "
            f'{version}`; to switch all the same: --override "REASON"'
        )
    log.warning("%s goes live although it was refused when it was trained: %s", version, reason)


def _switch(
    data: DataDirectory,
    generation: Generation,
    live: Generation | None,
    lease: Lease,
    override: str | None,
    kind: str,
    who: str | None,
    on_wait: Callable[[str], None],
) -> CutOver:
    target, expected = generation.name, live.name if live is not None else None
    timeout_s = data.settings.cut_over_timeout_s
    began = time.monotonic()
    if generation.state == "failed":
        data.catalog.overrule(target, reason=override or "", who=who)
    try:
        data.catalog.request_cut_over(
            target, expected, token=lease.token, seconds=timeout_s + FOLLOW_TIMEOUT_S
        )
        _wait_until_prepared(data, target, lease.token, began + timeout_s, on_wait)
        prepared = time.monotonic()
        reached("cutover.prepared")
        detail = {"override": override} if override else None
        swapped = _swap_when_caught_up(
            data, target, expected, lease, kind, detail, who, began + timeout_s, on_wait
        )
    finally:
        data.catalog.withdraw_cut_over(lease.token)
    serving, late = _wait_until_followed(data, target, swapped)
    finished = time.monotonic()
    _point_alias(data, generation)
    return CutOver(
        live_before=expected,
        live_after=target,
        standby=expected,
        serving=serving,
        late=late,
        prepare_s=prepared - began,
        switch_s=finished - swapped,
    )


def _wait_until_prepared(
    data: DataDirectory,
    target: str,
    token: int,
    deadline: float,
    on_wait: Callable[[str], None],
) -> None:
    """token: of this request; what a process could not do for another one is no reason."""
    told = ""
    while True:
        waiting = [
            p for p in data.catalog.processes.seen() if target not in (p.prepared, p.generation)
        ]
        if not waiting:
            return
        blocked = [p for p in waiting if p.problem and p.request == token]
        if blocked:
            reasons = "; ".join(f"{p.name} at {p.address}: {p.problem}" for p in blocked)
            raise CutOverRefused(
                f"{target} cannot be prepared everywhere, so nothing was switched. {reasons}"
            )
        names = ", ".join(f"{p.name} at {p.address}" for p in waiting)
        if time.monotonic() > deadline:
            raise CutOverRefused(
                f"not prepared for {target} within {data.settings.cut_over_timeout_s:.0f} s: "
                f"{names}. Nothing was switched; look at that process's log, or raise "
                "cutover.timeout_s"
            )
        if names != told:
            on_wait(f"waiting until {target} is prepared by {names}")
            told = names
        time.sleep(POLL_S)


def _swap_when_caught_up(
    data: DataDirectory,
    target: str,
    expected: str | None,
    lease: Lease,
    kind: str,
    detail: dict[str, Any] | None,
    who: str | None,
    deadline: float,
    on_wait: Callable[[str], None],
) -> float:
    """Swap at a moment when target is not behind; returns when the swap was made (monotonic)."""
    told = False
    while True:
        lease.check()
        if not data.catalog.processes.seen() and data.corpus.lag(data.catalog.watermark(target)):
            _catch_up_here(data, target)
        # Others may have started meanwhile.
        _wait_until_prepared(data, target, lease.token, deadline, on_wait)
        try:
            data.catalog.cut_over(
                target,
                expected_live=expected,
                kind=kind,
                token=lease.token,
                detail=detail,
                who=who,
            )
            return time.monotonic()
        except TargetBehind:
            if time.monotonic() > deadline:
                raise
        if not told:
            on_wait(f"waiting until {target} has caught up with the corpus")
            told = True
        time.sleep(POLL_S)


def _catch_up_here(data: DataDirectory, target: str) -> None:
    """No service is running: this process replays what is missing, under the sync lease. Only into
    the target: a live generation that is broken is no reason not to leave it."""
    from reindexer.sync import sync_once  # brings torch in, which a plain switch does not need

    try:
        with data.journal.lease(SYNC_LEASE, wait_s=5.0) as lease:
            sync_once(data, lease, only=target)
    except LeaseHeld:
        log.info("another process is replaying; waiting for it")
        time.sleep(0.2)


def _wait_until_followed(
    data: DataDirectory, target: str, swapped: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    while True:
        processes = data.catalog.processes.seen()
        late = tuple(p.name for p in processes if p.generation != target)
        if not late or time.monotonic() > swapped + FOLLOW_TIMEOUT_S:
            return tuple(p.name for p in processes if p.generation == target), late
        time.sleep(POLL_S)


def _point_alias(data: DataDirectory, generation: Generation) -> None:
    """The alias is a projection for outsiders: its failure does not undo the switch."""
    try:
        if data.store.alias() != generation.collection:
            data.store.set_alias(generation.collection)
        reached("alias.moved")
    except StoreError as error:
        log.warning(
            "the alias does not point at %s yet: %s; `reindexer sync` repairs it",
            generation.name,
            error,
        )
