"""What people ask of builds that a worker does: to begin, to pause, to go on, to be given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reindexer.build_process import build_of
from reindexer.data_directory import DataDirectory
from reindexer.jobs import JobKind, JobQueue
from reindexer.journal import BUILD_LEASE, Build
from reindexer.recipes import generation_for, recipe_for, same_recipe
from reindexer.upgrade import pause
from search.errors import WrongState
from search.generations import UNFINISHED

if TYPE_CHECKING:
    from training.registry import ModelVersion


def queue_build(
    data: DataDirectory,
    version: ModelVersion,
    *,
    cut_over_after: bool,
    arguments: Mapping[str, Any],
    who: str,
) -> Build:
    """Ask a worker for a build of this model; the same that is under way is not asked for twice.

    arguments: of the job, besides model and generation. Raises WrongState when there is nothing to
    build.
    """
    recipe = recipe_for(data, version)
    for kept in data.catalog.all({"live", "standby"}):
        if same_recipe(kept.recipe, recipe):
            advice = "nothing to do" if kept.state == "live" else "roll back to it"
            raise WrongState(
                f"{kept.name} has this very recipe and is {kept.state}, so there is nothing to "
                f"build: {advice}"
            )
    generation = generation_for(data, recipe)
    if generation.state == "ready" and not cut_over_after:
        raise WrongState(f"{generation.name} has this very recipe and is ready; cut over to it")
    build = build_of(data, generation, state="queued")
    kind: JobKind = "upgrade" if cut_over_after else "build"
    queue = JobQueue(data.database)
    last = queue.last_of(generation.name)
    if last is not None and last.state in ("queued", "running") and last.kind in (kind, "upgrade"):
        return build
    if generation.state in UNFINISHED and running_build(data) != build.build_id:
        data.journal.update_build(build.build_id, state="queued", wanted=None, reason=None)
    queue.ask(
        kind,
        {"model": str(version), "generation": generation.name, **arguments},
        who=who,
    )
    return data.journal.build_of(generation.name)


def requeue_build(data: DataDirectory, build: Build, *, who: str) -> None:
    """Go on with a build that is paused or has stopped, as it was asked for. Raises WrongState."""
    generation = data.catalog.get(build.generation)
    _check_unfinished(data, build)
    is_running = running_build(data) == build.build_id
    if is_running and build.stop is None:
        raise WrongState(f"build {build.build_id} of {build.generation} is running already")
    queue = JobQueue(data.database)
    last = queue.last_of(build.generation)
    arguments = {"model": generation.recipe.model, "generation": generation.name}
    if is_running:  # and may or may not have seen that it was to stop
        data.journal.update_build(build.build_id, wanted="resume")
    else:
        data.journal.update_build(build.build_id, state="queued", wanted=None, reason=None)
    queue.ask(
        last.kind if last is not None else "build",
        last.arguments if last is not None else arguments,
        who=who,
    )


def pause_build(data: DataDirectory, build: Build, *, who: str) -> None:
    """Stop at the next checkpoint, until somebody resumes it; one that waits does not begin.
    Raises WrongState."""
    _check_unfinished(data, build)
    if running_build(data) == build.build_id:
        data.journal.update_build(build.build_id, wanted="pause")
        return
    JobQueue(data.database).withdraw(build.generation, reason=f"paused by {who}")
    data.journal.update_build(
        build.build_id, state="paused", wanted=None, reason=f"paused by {who}"
    )


def pause_current(data: DataDirectory, *, who: str) -> Build:
    """The build that runs; or when none does, the newest that waits for a worker. Raises
    WrongState."""
    build_id = running_build(data)
    waiting = data.journal.builds({"queued"}) if build_id is None else []
    if not waiting:
        return pause(data)
    pause_build(data, waiting[0], who=who)
    return data.journal.build_of(waiting[0].generation)


def cancel_build(data: DataDirectory, build: Build, *, who: str) -> None:
    """Give a build up; its generation becomes `failed`, and a prune drops it. Raises WrongState."""
    _check_unfinished(data, build)
    if running_build(data) == build.build_id:
        data.journal.update_build(build.build_id, wanted="cancel")
        return
    JobQueue(data.database).withdraw(build.generation, reason=f"cancelled by {who}")
    data.catalog.move(build.generation, "failed", reason=f"cancelled by {who}")
    data.journal.update_build(
        build.build_id, state="cancelled", wanted=None, reason=f"cancelled by {who}"
    )


def running_build(data: DataDirectory) -> int | None:
    """Id of the build that a living process works on."""
    if data.journal.holder(BUILD_LEASE) is None:
        return None
    return next((build.build_id for build in data.journal.builds({"running"})), None)


def _check_unfinished(data: DataDirectory, build: Build) -> None:
    state = data.catalog.get(build.generation).state
    if state not in UNFINISHED:
        raise WrongState(
            f"build {build.build_id} has ended: {build.generation} is {state}. Look at "
            "`reindexer status`"
        )
