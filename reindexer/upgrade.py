"""An upgrade: plan, build, verify, cut over. The side that watches; the work is in `build.py`."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from reindexer import logs
from reindexer.build_job import EXIT_PAUSED, BuildJob, record_stop
from reindexer.cutover import check_trained_better, cut_over
from reindexer.data_directory import DataDirectory
from reindexer.errors import BuildFailed, GateRefused, LeaseHeld
from reindexer.headroom import check_headroom
from reindexer.journal import BUILD_LEASE, Build, BuildState, Lease
from reindexer.vector_copy import copy_source, copy_vectors
from search.dense import FieldType, field_types
from search.documents import Change
from search.errors import GenerationNotFound, StoreLocked, WrongState
from search.generations import UNFINISHED, Generation
from search.recipe import AnalyzerRecipe, LexicalRecipe, Recipe
from search.splitter import default_splitter_recipe
from training.errors import ModelNotFound
from training.registry import ModelVersion

log = logging.getLogger(__name__)

POLL_S = 0.1
DEAF_S = 1.0  # a child that has not stopped so long after it was asked to is ended
STOP_S = 60.0  # a child that was asked to stop gets so long before it is killed
FIELD_SAMPLE = 2_000
LENGTH_SAMPLE = 20_000  # documents whose mean length counts: it comes out right to within 1 %
LENGTH_PLACES = 16  # in the log; they come from so many stretches
MAX_FILTER_FIELDS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Judged queries that the candidate is compared with the live generation on."""

    directory: Path
    split: str = "test"


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
    on_progress: Callable[[Build], None] = lambda _build: None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Upgrade:
    """Build a generation for `model`, verify it, and switch to it.

    An unfinished build of the same recipe is resumed; a generation that is ready is not built
    again; when the live generation already has this recipe nothing happens.

    Raises LeaseHeld (another build is running), GateRefused (also for a version that was refused
    when it was trained, or when the disk is too small, unless override says why), CutOverRefused,
    BuildFailed, ModelNotFound, ModelDamaged.
    """
    version = find_model(data, model)
    recipe = recipe_for(data, version)
    live = data.catalog.live()
    live_name = live.name if live is not None else None
    if live is not None and same_recipe(live.recipe, recipe):
        return Upgrade(
            build=data.journal.build_of(live.name),
            generation=live,
            live_before=live.name,
            live_after=live.name,
        )
    standby = data.catalog.standby()
    if standby is not None and same_recipe(standby.recipe, recipe):
        return _switch_to_standby(data, standby, live_name, cut_over_after, on_wait)
    if cut_over_after:
        check_trained_better(data, str(version), override)  # before hours of encoding
    with data.journal.lease(BUILD_LEASE) as lease:
        generation = generation_for(data, recipe)
        check_headroom(data, generation, override)
        try:
            build = run_build(
                data, generation, lease, evaluation=evaluation, on_progress=on_progress
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
    with data.journal.lease(BUILD_LEASE) as lease:
        build = run_build(data, generation, lease, evaluation=evaluation, on_progress=on_progress)
    if cut_over_after:
        return _switch_after(data, generation, live_before, on_wait)
    return Upgrade(
        build=build,
        generation=data.catalog.get(generation.name),
        live_before=live_before,
        live_after=live_before,
    )


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


# -- which model, which recipe, which generation -------------------------------------------------


def find_model(data: DataDirectory, model: str) -> ModelVersion:
    """A registered version; a reference that is not registered yet is registered."""
    try:
        return data.registry.resolve(model)
    except ModelNotFound:
        if "@" in model:
            raise
    return data.registry.register(model)


def recipe_for(data: DataDirectory, version: ModelVersion) -> Recipe:
    """The recipe that the settings and the corpus give for this model version."""
    settings = data.settings
    analyzer = AnalyzerRecipe(language=settings.language)
    return Recipe(
        model=str(version),
        fingerprint=version.fingerprint,
        dim=version.dim,
        splitter=default_splitter_recipe(version.max_tokens),
        analyzer=analyzer,
        lexical=lexical_recipe(data, analyzer),
        hnsw_m=settings.hnsw_m,
        hnsw_ef_construct=settings.hnsw_ef_construct,
        quantization=settings.quantization,
        filter_fields=filter_fields(data.corpus.changes(0, FIELD_SAMPLE)),
    )


def lexical_recipe(data: DataDirectory, analyzer: AnalyzerRecipe) -> LexicalRecipe:
    """As the settings have it; for the server with the mean length of a sample of the documents."""
    if data.settings.lexical_kind == "bm25s":
        return LexicalRecipe()
    from search.term_weights import fitted_lexical

    head = data.corpus.head()
    places = {head * place // LENGTH_PLACES for place in range(LENGTH_PLACES)}
    changes = [
        change
        for place in sorted(places)
        for change in data.corpus.changes(place, LENGTH_SAMPLE // LENGTH_PLACES)
    ]
    documents = {change.doc_id: change.document for change in changes if change.document}
    return fitted_lexical(analyzer, documents.values())


def filter_fields(changes: list[Change]) -> dict[str, FieldType]:
    """Metadata fields that get a payload index: those with values of one kind."""
    kinds: dict[str, set[FieldType]] = {}
    for change in changes:
        for name, value in (change.document.metadata if change.document else {}).items():
            kinds.setdefault(name, set()).update(field_types(value))
    uniform = {name: next(iter(found)) for name, found in sorted(kinds.items()) if len(found) == 1}
    return dict(list(uniform.items())[:MAX_FILTER_FIELDS])


def same_recipe(one: Recipe, other: Recipe) -> bool:
    """Would give the same vectors and postings; which payload fields are indexed does not count,
    nor how the legs are fused."""
    ignored = {"filter_fields", "fusion", "model"}
    return all(
        getattr(one, item.name) == getattr(other, item.name)
        for item in fields(Recipe)
        if item.name not in ignored
    )


def generation_for(data: DataDirectory, recipe: Recipe) -> Generation:
    """An unfinished or ready generation of this recipe, or a new one."""
    for generation in reversed(data.catalog.all(UNFINISHED | {"ready"})):
        if same_recipe(generation.recipe, recipe):
            return generation
    return data.catalog.record(recipe)


def build_of(
    data: DataDirectory, generation: Generation, *, state: BuildState = "running"
) -> Build:
    """The build of a generation; a process that was killed right after it had recorded the
    generation has left none. state: of one that is recorded now."""
    try:
        return data.journal.build_of(generation.name)
    except GenerationNotFound:
        return data.journal.record_build(
            generation.name,
            start_head=data.corpus.head(),
            docs_total=data.corpus.count(),
            state=state,
        )


def _newest_unfinished(data: DataDirectory) -> Generation:
    unfinished = data.catalog.all(UNFINISHED)
    if not unfinished:
        raise WrongState("no build is unfinished; start one with `reindexer upgrade MODEL`")
    return unfinished[-1]


# -- the child process ----------------------------------------------------------------------------


def run_build(
    data: DataDirectory,
    generation: Generation,
    lease: Lease,
    *,
    evaluation: Evaluation | None,
    on_progress: Callable[[Build], None],
) -> Build:
    """Run the build in a child process to its end. The lease is this process's to renew.

    Raises GateRefused when verification did not pass, BuildFailed when the child stopped before
    its end; the checkpoint is kept either way.
    """
    build = build_of(data, generation)
    data.journal.start_run(build)
    build = data.journal.build_of(generation.name)  # running now, whatever it was before
    if generation.watermark == 0 and generation.state == "building":
        build = _copied(data, generation, build, lease, on_progress)
        if build.state != "running":
            return _outcome(data, build, EXIT_PAUSED)
    job = BuildJob(
        generation=generation.name,
        token=lease.token,
        settings={
            item.name: getattr(data.settings, item.name)
            for item in fields(data.settings)
            if item.name != "origins"
        },
        eval_dir=str(evaluation.directory) if evaluation is not None else None,
        eval_split=evaluation.split if evaluation is not None else "test",
        log_level=logging.getLogger().getEffectiveLevel(),
        log_format=logs.current_format(),
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "reindexer.build", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for this process, which then asks the child to stop
    )
    try:
        assert child.stdin is not None
        child.stdin.write(job.to_json().encode("utf-8"))
        child.stdin.close()
        asked_at: float | None = None  # when somebody's wish to stop the build was first seen
        while child.poll() is None:
            lease.check()
            build = data.journal.build_of(generation.name)
            on_progress(build)
            if build.wanted is not None:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > DEAF_S:
                    return _end_deaf(data, child, build, build.wanted)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
    except BaseException:
        _stop(child)
        raise
    build = data.journal.build_of(generation.name)
    on_progress(build)
    return _outcome(data, build, child.returncode)


def _copied(
    data: DataDirectory,
    generation: Generation,
    build: Build,
    lease: Lease,
    on_progress: Callable[[Build], None],
) -> Build:
    """The build with the vectors that another generation has, if one has them. Paused or cancelled
    when somebody asked for that meanwhile."""
    source = copy_source(data, generation.recipe)
    if source is None:
        return build

    def look(_message: str) -> None:
        found = data.journal.build_of(generation.name)
        on_progress(found)
        if found.wanted is not None:
            record_stop(data, found, found.wanted)
            raise _Stopped

    try:
        return copy_vectors(data, source, generation, build, lease, look)
    except StoreLocked as error:  # by a process that cannot be asked for them
        log.info("the vectors of %s are encoded anew: %s", source.name, error)
        return build
    except _Stopped:
        return data.journal.build_of(generation.name)


class _Stopped(Exception):
    """Somebody asked for the copy to end."""


def _outcome(data: DataDirectory, build: Build, returncode: int) -> Build:
    if returncode == 0:
        return build
    if returncode == 3:
        raise GateRefused(
            f"{build.generation} was refused, what was live still is: {build.reason}. Look at "
            f"`reindexer generations show {build.generation}`"
        )
    if returncode == EXIT_PAUSED:
        raise BuildFailed(
            f"build {build.build_id} of {build.generation} is {build.state} at "
            f"{build.docs_done:,} of {build.docs_total:,} documents; go on with `reindexer resume`"
        )
    if returncode < 0:
        name = signal.Signals(-returncode).name
        reason = f"its process was ended by {name}"
        data.journal.update_build(build.build_id, state="failed", reason=reason)
    else:
        reason = build.reason or f"its process ended with exit code {returncode}"
    raise BuildFailed(
        f"build {build.build_id} of {build.generation} stopped: {reason}. Its checkpoint is kept; "
        "go on with `reindexer resume`"
    )


def _end_deaf(
    data: DataDirectory, child: subprocess.Popen[bytes], build: Build, wanted: str
) -> Build:
    """End a child that does not hear: finishing the graph stops its every thread, and one batch of
    a large model may take longer than a person waits. Its checkpoint is kept, as after any kill."""
    child.kill()
    child.wait()
    found = data.journal.build_of(build.generation)
    if found.state == "running":  # and has not come to its end in this very moment
        record_stop(data, found, wanted)
        found = data.journal.build_of(build.generation)
    return _outcome(data, found, 0 if found.state == "done" else EXIT_PAUSED)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask the child to stop at a checkpoint; kill it when it takes too long."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while child.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(POLL_S)
    if child.poll() is None:
        child.kill()
        child.wait()
