"""The process that builds, from the side that starts it, watches it and ends it.

What that process does is in `build.py`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from reindexer import logs
from reindexer.build_job import EXIT_PAUSED, BuildJob, ended_by, record_stop
from reindexer.data_directory import DataDirectory
from reindexer.errors import BuildFailed, GateRefused
from reindexer.journal import Build, BuildState, Lease
from reindexer.vector_copy import copy_source, copy_vectors
from search.errors import GenerationNotFound, StoreLocked
from search.generations import Generation
from search.processes import STILL_S, Stillness, run_module

log = logging.getLogger(__name__)

POLL_S = 0.1
DEAF_S = 1.0  # a child that has not stopped so long after it was asked to is ended
STOP_S = 60.0  # a child that was asked to stop gets so long before it is killed


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Judged queries that the candidate is compared with the live generation on."""

    directory: Path
    split: str = "test"


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


def run_build(
    data: DataDirectory,
    generation: Generation,
    lease: Lease,
    *,
    evaluation: Evaluation | None,
    on_progress: Callable[[Build], None],
    copies: bool = True,
) -> Build:
    """Run the build in a child process to its end. The lease is this process's to renew.

    copies: it may begin with the vectors of another generation.

    Raises GateRefused when verification did not pass, BuildFailed when the child stopped before
    its end; the checkpoint is kept either way.
    """
    build = build_of(data, generation)
    data.journal.start_run(build)
    build = data.journal.build_of(generation.name)  # running now, whatever it was before
    if copies and generation.watermark == 0 and generation.state == "building":
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
        run_module("reindexer.build", str(os.getpid())),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for this process, which then asks the child to stop
    )
    is_still = False  # it hung: the embedded engine may, where it finds no memory
    try:
        assert child.stdin is not None
        child.stdin.write(job.to_json().encode("utf-8"))
        child.stdin.close()
        stillness = Stillness(child.pid)
        asked_at: float | None = None  # when somebody's wish to stop the build was first seen
        while child.poll() is None:
            lease.check()
            build = data.journal.build_of(generation.name)
            on_progress(build)
            if build.stop is not None:
                asked_at = asked_at or time.monotonic()
                if time.monotonic() - asked_at > DEAF_S:
                    return _end_deaf(data, child, build, build.stop)
            if stillness.seconds() > STILL_S:
                child.kill()
                child.wait()
                is_still = True
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
    except BaseException:
        _stop(child)
        raise
    build = data.journal.build_of(generation.name)
    on_progress(build)
    return _outcome(data, build, child.returncode, is_still=is_still)


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
        if found.stop is not None:
            record_stop(data, found, found.stop)
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


def _outcome(
    data: DataDirectory, build: Build, returncode: int, *, is_still: bool = False
) -> Build:
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
        reason = ended_by(-returncode)
        if is_still:
            reason += f", because it did nothing for {STILL_S:g} s"
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
