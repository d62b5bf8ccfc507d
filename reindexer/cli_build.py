"""Verbs on a build under way: pause, resume, cancel. And how any build is shown."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_plan import read_evaluation
from reindexer.cli_verb import (
    Invocation,
    Terminated,
    Verb,
    fanout_options,
    json_option,
    judgment_options,
    pass_invocation,
)
from reindexer.progress import Progress
from reindexer.status_screen import STEPS
from reindexer.terminal import count, duration, next_steps, note, print_json, say

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.journal import Build
    from reindexer.upgrade import Upgrade

STEP_S = 0.25  # between two looks at which step a build is in
RESULT = (
    '{"build_id", "generation", "model", "state", "documents", "passages", "encoded", "reused", '
    '"seconds", "docs_per_s", "verify": {…}, "live_before", "live_after"}'
)


@click.command(
    cls=Verb,
    examples=["reindexer pause"],
    json_fields='{"build_id", "generation", "state", "wanted", "docs_done", "docs_total"}',
)
@json_option
@pass_invocation
def pause(invocation: Invocation, as_json: bool) -> None:
    """Ask the running build to stop and keep its checkpoint.

    It does within 2 s. When none runs, the newest that waits for a worker does not begin.
    """
    from reindexer.build_requests import pause_current
    from search.events import local_user

    with invocation.open_existing() as data:
        build = pause_current(data, who=local_user())
    if as_json:
        print_json(_build_json(build))
        return
    if not build.wanted:
        say(f"Build {build.build_id} of {build.generation} waited for a worker; now it is paused.")
        next_steps(f"reindexer resume {build.generation}")
        return
    say(f"Build {build.build_id} of {build.generation} stops now; its checkpoint is kept.")
    next_steps("reindexer resume")


@click.command(
    cls=Verb,
    examples=["reindexer resume", "reindexer resume docs@2 --eval judged/"],
    json_fields=RESULT,
)
@click.argument("generation", metavar="[GEN]", required=False)
@click.option("--cutover", is_flag=True, help="Switch to it when it is ready, as `upgrade` does.")
@judgment_options
@fanout_options
@json_option
@pass_invocation
def resume(
    invocation: Invocation,
    generation: str | None,
    cutover: bool,
    eval_dir: Path | None,
    split: str,
    as_json: bool,
) -> None:
    """Go on with a build that was paused or has stopped.

    Starts at its checkpoint. Takes the newest unfinished one unless GEN says which. Ends with a
    generation that is ready for `cutover`; with --cutover, or `upgrade MODEL`, it goes live.
    """
    from reindexer.upgrade import resume as resume_build

    evaluation = read_evaluation(eval_dir, split)
    with (
        invocation.open_existing() as data,
        Progress("resume", quiet=invocation.quiet) as progress,
        ctrl_c_pauses(),
    ):
        result = resume_build(
            data,
            generation,
            evaluation=evaluation,
            cut_over_after=cutover,
            on_progress=shown_in(progress, data),
            on_wait=lambda message: progress.update(state=message),
        )
    if as_json:
        print_json(result.to_json())
    else:
        show_upgrade(result, quiet=invocation.quiet)


@click.command(
    cls=Verb,
    examples=["reindexer cancel", "reindexer cancel docs@2"],
    json_fields='{"build_id", "generation", "state", "wanted", "docs_done", "docs_total"}',
)
@click.argument("generation", metavar="[GEN]", required=False)
@json_option
@pass_invocation
def cancel(invocation: Invocation, generation: str | None, as_json: bool) -> None:
    """Give up a build; `prune` then drops what it made.

    Without GEN the running build, or the newest that is not finished.
    """
    from reindexer.upgrade import cancel as cancel_build

    with invocation.open_existing() as data:
        build = cancel_build(data, generation)
    if as_json:
        print_json(_build_json(build))
        return
    what = "stops now" if build.wanted else "is cancelled"
    say(f"Build {build.build_id} of {build.generation} {what}.")
    next_steps("reindexer prune    (gives the disk space back)")


@click.command(
    cls=Verb,
    examples=["reindexer scale 8"],
    json_fields='{"build_id", "generation", "state", "wanted", "docs_done", "docs_total"}',
)
@click.argument("actors", type=click.IntRange(min=1))
@json_option
@pass_invocation
def scale(invocation: Invocation, actors: int, as_json: bool) -> None:
    """Give a fanned-out build more actors, or fewer.

    More begin as soon as there is room for them; those that are too many end with their chunk.
    """
    from reindexer.upgrade import scale as scale_build

    with invocation.open_existing() as data:
        build = scale_build(data, actors)
    if as_json:
        print_json(_build_json(build))
        return
    say(f"Build {build.build_id} of {build.generation} goes on with {count(actors, 'actor')}.")
    next_steps("reindexer status --watch")


def _build_json(build: Build) -> dict[str, Any]:
    return {
        "build_id": build.build_id,
        "generation": build.generation,
        "state": build.state,
        "wanted": build.wanted,
        "docs_done": build.docs_done,
        "docs_total": build.docs_total,
    }


# -- how a build is shown --------------------------------------------------------------------------


def shown_in(progress: Progress, data: DataDirectory) -> Callable[[Build], None]:
    """Shows a build's checkpoints; which step it is in is looked up now and then."""
    looked_at = 0.0

    def show(build: Build) -> None:
        nonlocal looked_at
        step = None
        if time.monotonic() - looked_at > STEP_S:
            looked_at = time.monotonic()
            state = data.catalog.get(build.generation).state
            step = STEPS.get(state, state)
            if state == "building" and not build.docs_done:
                step = "loading the model, first window"
        progress.what = f"build {build.generation}"
        progress.update(
            build.docs_done, total=build.docs_total, rate=build.docs_per_s or None, state=step
        )

    return show


def show_upgrade(result: Upgrade, *, quiet: bool) -> None:
    build, generation = result.build, result.generation
    if result.live_before == generation.name:
        say(f"{generation.name} is live and was made with {generation.recipe.model} already.")
        return
    reused = f", {build.reused:,} reused" if build.reused else ""
    say(
        f"{generation.name} ({generation.recipe.model}) is {generation.state}: "
        f"{count(build.docs_done, 'document')}, {count(build.passages, 'passage')}{reused}, "
        f"{duration(build.busy_s)}"
    )
    _show_gate(generation.verified)
    if result.live_after == generation.name and result.live_before is not None:
        say(f"{result.live_before} is the standby and is kept in step.")
    if quiet:
        return
    say()
    if result.live_after == generation.name:
        back = ["reindexer rollback    (if it turns out wrong)"] if result.live_before else []
        next_steps('reindexer search "…"', *back)
    else:
        next_steps(f"reindexer cutover {generation.name}")


def _show_gate(report: Any) -> None:
    if not report:
        return
    checks = report["checks"]
    refused = [check["name"] for check in checks if not check["passed"]]
    if refused:
        say(f"The gate refused it: {', '.join(refused)}")
        return
    names = ", ".join(check["name"] for check in checks)
    say(click.wrap_text(f"The gate passed it: {names}", width=80, subsequent_indent="  "))
    difference = ((report.get("metrics") or {}).get("difference") or {}).get("ndcg@10")
    if difference:
        say(
            f"nDCG@10 {difference['mean']:+.4f} against the one before "
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )


@contextlib.contextmanager
def ctrl_c_pauses() -> Iterator[None]:
    """Ctrl-C, or SIGTERM, asks the build to stop, and says so."""

    def interrupt(number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        note("\nPausing; Ctrl-C again stops at once.")
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    try:
        before = {
            number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:  # not the main thread: nobody can press Ctrl-C
        yield
        return
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        note("The build is kept. Next: reindexer status, then reindexer resume")
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
