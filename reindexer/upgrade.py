"""An upgrade: plan, build, verify, cut over. The side that watches; the work is in `build.py`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reindexer.build_process import Evaluation, build_of, run_build
from reindexer.cutover import check_trained_better, cut_over
from reindexer.data_directory import DataDirectory
from reindexer.errors import GateRefused, LeaseHeld
from reindexer.headroom import check_headroom
from reindexer.journal import BUILD_LEASE, Build
from reindexer.recipes import find_model, generation_for, recipe_for, same_recipe
from search.errors import GenerationNotFound, WrongState
from search.generations import UNFINISHED, Generation

REST_S = 10.0  # a build that was paused just now gets so long to come to rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Upgrade:
    """What an upgrade, or a build, came to."""

    build: Build
    generation: Generation
    live_before: str | None
    live_after: str | None

    def to_json(self) -> dict[str, Any]:
        return {
            "build_id": self.build.build_id,
            "generation": self.generation.name,
            "model": self.generation.recipe.model,
            "state": self.generation.state,
            "documents": self.build.docs_done,
            "passages": self.build.passages,
            "encoded": self.build.encoded,
            "reused": self.build.reused,
            "seconds": round(self.build.busy_s, 3),
            "docs_per_s": round(self.build.docs_per_s, 1),
            "verify": self.generation.verified,
            "live_before": self.live_before,
            "live_after": self.live_after,
        }


def upgrade(
    data: DataDirectory,
    model: str,
    *,
    evaluation: Evaluation | None = None,
    cut_over_after: bool = True,
    override: str | None = None,
    anew: bool = False,
    on_progress: Callable[[Build], None] = lambda _build: None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Upgrade:
    """Build a generation for `model`, verify it, and switch to it.

    An unfinished build of the same recipe is resumed; a generation that is ready is not built
    again; when the live generation already has this recipe nothing happens. anew: encode everything
    for a new generation, whatever is there already, because that is damaged.

    Raises LeaseHeld (another build is running), GateRefused (also for a version that was refused
    when it was trained, or when the disk is too small, unless override says why), CutOverRefused,
    BuildFailed, ModelNotFound, ModelDamaged.
    """
    version = find_model(data, model)
    recipe = recipe_for(data, version)
    live = data.catalog.live()
    live_name = live.name if live is not None else None
    if not anew and live is not None and same_recipe(live.recipe, recipe):
        return Upgrade(
            build=data.journal.build_of(live.name),
            generation=live,
            live_before=live.name,
            live_after=live.name,
        )
    standby = data.catalog.standby()
    if not anew and standby is not None and same_recipe(standby.recipe, recipe):
        return _switch_to_standby(data, standby, live_name, cut_over_after, on_wait)
    if cut_over_after:
        check_trained_better(data, str(version), override)  # before hours of encoding
    with data.journal.lease(BUILD_LEASE) as lease:
        generation = data.catalog.record(recipe) if anew else generation_for(data, recipe)
        check_headroom(data, generation, override)
        try:
            build = run_build(
                data,
                generation,
                lease,
                evaluation=evaluation,
                copies=not anew,
                on_progress=on_progress,
            )
        except GateRefused:
            if override is None:
                raise
            build = data.journal.build_of(generation.name)
    if cut_over_after:
        cut_over(data, generation.name, override=override, on_wait=on_wait)
    live_after = data.catalog.live()
    return Upgrade(
        build=build,
        generation=data.catalog.get(generation.name),
        live_before=live_name,
        live_after=live_after.name if live_after is not None else None,
    )


def _switch_to_standby(
    data: DataDirectory,
    standby: Generation,
    live_name: str | None,
    cut_over_after: bool,
    on_wait: Callable[[str], None],
) -> Upgrade:
    """The standby generation has this recipe and is kept in step: there is nothing to build."""
    if cut_over_after:
        cut_over(data, standby.name, on_wait=on_wait)
    return Upgrade(
        build=data.journal.build_of(standby.name),
        generation=data.catalog.get(standby.name),
        live_before=live_name,
        live_after=standby.name if cut_over_after else live_name,
    )


def resume(
    data: DataDirectory,
    generation_name: str | None = None,
    *,
    evaluation: Evaluation | None = None,
    cut_over_after: bool = False,
    on_progress: Callable[[Build], None] = lambda _build: None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Upgrade:
    """Go on with a build that was paused, or that stopped, from its checkpoint; and with the switch
    to it, if it was to follow."""
    generation = data.catalog.get(generation_name) if generation_name else _newest_unfinished(data)
    live = data.catalog.live()
    live_before = live.name if live is not None else None
    if cut_over_after and generation.state in ("ready", "live"):
        return _switch_after(data, generation, live_before, on_wait)
    if generation.state not in UNFINISHED:
        raise WrongState(
            f"{generation.name} is {generation.state}; only a build that is not finished can be "
            "resumed. Look at `reindexer status`"
        )
    if cut_over_after:
        check_trained_better(data, generation.recipe.model, None)  # before hours of encoding
    rest_s = REST_S if _comes_to_rest(data, generation) else 0.0
    with data.journal.lease(BUILD_LEASE, wait_s=rest_s) as lease:
        build = run_build(data, generation, lease, evaluation=evaluation, on_progress=on_progress)
    if cut_over_after:
        return _switch_after(data, generation, live_before, on_wait)
    return Upgrade(
        build=build,
        generation=data.catalog.get(generation.name),
        live_before=live_before,
        live_after=live_before,
    )


def _comes_to_rest(data: DataDirectory, generation: Generation) -> bool:
    """Whether somebody paused the build just now; its process may still be there."""
    with contextlib.suppress(GenerationNotFound):
        build = data.journal.build_of(generation.name)
        return build.wanted is not None or build.state == "paused"
    return False


def _switch_after(
    data: DataDirectory,
    generation: Generation,
    live_before: str | None,
    on_wait: Callable[[str], None],
) -> Upgrade:
    """The last part of an upgrade whose process may have died after the build."""
    if live_before != generation.name:
        cut_over(data, generation.name, on_wait=on_wait)
    return Upgrade(
        build=data.journal.build_of(generation.name),
        generation=data.catalog.get(generation.name),
        live_before=live_before,
        live_after=generation.name,
    )


def pause(data: DataDirectory) -> Build:
    """Ask the running build to stop; it does within 2 s, and keeps its checkpoint."""
    return _ask(data, "pause")


def cancel(data: DataDirectory, generation_name: str | None = None) -> Build:
    """Give a build up; its generation becomes `failed` and `prune` drops it."""
    if data.journal.holder(BUILD_LEASE) is not None:
        running = data.journal.builds({"running"})
        if generation_name is not None and running and running[0].generation != generation_name:
            raise LeaseHeld(
                f"a build of {running[0].generation} is running; cancel {generation_name} when it "
                "is done"
            )
        return _ask(data, "cancel")
    generation = data.catalog.get(generation_name) if generation_name else _newest_unfinished(data)
    build = build_of(data, generation)
    with data.journal.lease(BUILD_LEASE):
        data.catalog.move(generation.name, "failed", reason="cancelled")
        data.journal.update_build(build.build_id, state="cancelled", wanted=None)
    return data.journal.build_of(generation.name)


def scale(data: DataDirectory, actors: int) -> Build:
    """How many actors the running build is to have from now on."""
    build = _running(data, "to give actors to")
    data.journal.update_build(build.build_id, actors=actors)
    return data.journal.build_of(build.generation)


def _ask(data: DataDirectory, wanted: str) -> Build:
    build = _running(data, f"to {wanted}")
    data.journal.update_build(build.build_id, wanted=wanted)
    return data.journal.build_of(build.generation)


def _running(data: DataDirectory, purpose: str) -> Build:
    running = data.journal.builds({"running"})
    if not running or data.journal.holder(BUILD_LEASE) is None:
        raise WrongState(f"no build is running, so there is nothing {purpose}")
    return running[0]


def _newest_unfinished(data: DataDirectory) -> Generation:
    unfinished = data.catalog.all(UNFINISHED)
    if not unfinished:
        raise WrongState("no build is unfinished; start one with `reindexer upgrade MODEL`")
    return unfinished[-1]
