"""Verbs of the long way to another model: plan, upgrade, build, pause, resume, cancel."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import (
    Invocation,
    Verb,
    json_option,
    judgment_options,
    pass_invocation,
    yes_option,
)
from reindexer.errors import BuildFailed
from reindexer.progress import Progress
from reindexer.terminal import (
    confirm,
    count,
    duration,
    fields,
    next_steps,
    note,
    print_json,
    rate,
    say,
    size,
    warn,
)

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.journal import Build
    from reindexer.plan import Plan
    from reindexer.upgrade import Evaluation, Upgrade

DETACH_WAIT_S = 60.0
STEP_S = 0.25  # between two looks at which step a build is in
_RESULT = (
    '{"build_id", "generation", "model", "state", "documents", "passages", "encoded", "reused", '
    '"seconds", "docs_per_s", "verify": {…}, "live_before", "live_after"}'
)
_STEPS = {
    "building": "encoding",
    "catching_up": "catching up, index",
    "verifying": "verifying",
}


def _evaluation(eval_dir: Path | None, split: str) -> Evaluation | None:
    from reindexer.upgrade import Evaluation
    from training.judgments import read_judgments

    if eval_dir is None:
        return None
    read_judgments(eval_dir, split)  # a mistyped folder must not show after hours of encoding
    return Evaluation(directory=eval_dir.absolute(), split=split)


# -- plan -----------------------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer plan support@4", "reindexer plan ./our-tuned-model --json"],
    json_fields='{"model", "registered", "live_generation", "documents", "passages", "tokens", '
    '"strategy": "encode|none", "docs_per_s", "estimated_s", "disk_bytes", "free_disk_bytes", '
    '"memory_bytes", "dim", "device", "dtype", "sample_documents", "takes_up", "documents_left", '
    '"warnings": []}',
)
@click.argument("model")
@judgment_options
@json_option
@pass_invocation
def plan(
    invocation: Invocation, model: str, eval_dir: Path | None, split: str, as_json: bool
) -> None:
    """Say what an upgrade will do, cost and take.

    Encodes a sample of the corpus with the real model, here and now; changes nothing.
    """
    with invocation.open_existing() as data:
        made = _plan(data, model, _evaluation(eval_dir, split), quiet=invocation.quiet)
    if as_json:
        print_json(made.to_json())
        return
    _show_plan(made)
    if not invocation.quiet and made.strategy != "none":
        say()
        next_steps(f"reindexer upgrade {model}" + (f" --eval {eval_dir}" if eval_dir else ""))


def _plan(data: DataDirectory, model: str, evaluation: Evaluation | None, *, quiet: bool) -> Plan:
    from reindexer.plan import plan_upgrade

    with Progress("plan", quiet=quiet) as progress:
        return plan_upgrade(
            data, model, evaluation=evaluation, on_step=lambda step: progress.update(state=step)
        )


def _show_plan(plan: Plan) -> None:
    from reindexer.plan import describe

    say(f"Upgrade to {plan.model}, {plan.dim} dimensions, {plan.dtype} on {plan.device}\n")
    say(fields(list(describe(plan).items()), indent="  "))
    if plan.strategy == "none":
        return
    say(
        "\n"
        + fields(
            [
                ("passages", f"about {plan.passages:,}, {plan.tokens:,} tokens"),
                (
                    "time",
                    f"about {duration(plan.estimated_s)} at {rate(plan.docs_per_s)} documents/s, "
                    f"measured on {plan.sample_documents:,}",
                ),
                (
                    "disk",
                    f"about {size(plan.disk_bytes)}; {size(plan.free_disk_bytes)} are free",
                ),
                ("memory", f"up to {size(plan.memory_bytes)}"),
            ],
            indent="  ",
        )
    )
    if plan.warnings:
        say()
    for warning in plan.warnings:
        warn(warning)


# -- upgrade and build ----------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=[
        "reindexer upgrade sentence-transformers/all-MiniLM-L6-v2",
        "reindexer upgrade support@4 --eval judged/ --split test",
        "reindexer upgrade support@4 --yes --detach",
    ],
    json_fields=_RESULT + '; with --detach {"build_id", "generation", "pid", "log"}',
)
@click.argument("model")
@judgment_options
@yes_option
@click.option("--detach", is_flag=True, help="Go on in the background; output goes to a log file.")
@click.option("--no-cutover", is_flag=True, help="Stop when the generation is ready.")
@click.option(
    "--override", metavar="REASON", help="Switch although the gate refuses; this is recorded."
)
@json_option
@pass_invocation
def upgrade(
    invocation: Invocation,
    model: str,
    eval_dir: Path | None,
    split: str,
    yes: bool,
    detach: bool,
    no_cutover: bool,
    override: str | None,
    as_json: bool,
) -> None:
    """Build a generation for MODEL, verify it, and switch to it.

    MODEL is a registered version (support@4, or support for the newest), a folder, a hub id, or
    package:NAME; a model that is not registered yet is registered. Search goes on all the while.
    Shows the plan and asks, unless --yes. What stopped is gone on with from its checkpoint.
    """
    if override is not None and no_cutover:
        raise click.UsageError("--override is about the cut-over; leave out --no-cutover")
    evaluation = _evaluation(eval_dir, split)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on; add --yes to go ahead")
        with invocation.open() as data:
            made = _plan(data, model, evaluation, quiet=invocation.quiet)
        _show_plan(made)
        if made.strategy == "none":
            return
        say()
        if not confirm("Go ahead?"):
            note("Nothing was changed.")
            sys.exit(1)
    if detach:
        arguments = ["upgrade", model, "--yes", "--split", split]
        arguments += ["--eval", str(evaluation.directory)] if evaluation is not None else []
        arguments += ["--no-cutover"] if no_cutover else []
        arguments += ["--override", override] if override is not None else []
        _detach(invocation, arguments, as_json=as_json)
        return
    _run_upgrade(
        invocation,
        model,
        evaluation,
        cut_over_after=not no_cutover,
        override=override,
        as_json=as_json,
    )


@click.command(
    cls=Verb,
    examples=["reindexer build support@4", "reindexer build support@4 --eval judged/ --detach"],
    json_fields=_RESULT + '; with --detach {"build_id", "generation", "pid", "log"}',
)
@click.argument("model")
@judgment_options
@click.option("--detach", is_flag=True, help="Go on in the background; output goes to a log file.")
@json_option
@pass_invocation
def build(
    invocation: Invocation,
    model: str,
    eval_dir: Path | None,
    split: str,
    detach: bool,
    as_json: bool,
) -> None:
    """Build and verify a generation; what is live stays live.

    The same as `upgrade --no-cutover`. Ends with a generation that is ready for `cutover`.
    """
    evaluation = _evaluation(eval_dir, split)
    if detach:
        arguments = ["build", model, "--split", split]
        arguments += ["--eval", str(evaluation.directory)] if evaluation is not None else []
        _detach(invocation, arguments, as_json=as_json)
        return
    _run_upgrade(
        invocation, model, evaluation, cut_over_after=False, override=None, as_json=as_json
    )


def _run_upgrade(
    invocation: Invocation,
    model: str,
    evaluation: Evaluation | None,
    *,
    cut_over_after: bool,
    override: str | None,
    as_json: bool,
) -> None:
    from reindexer.upgrade import upgrade as upgrade_to

    with invocation.open() as data:
        if not data.corpus.head():
            warn("the corpus is empty; bring documents in with `reindexer ingest SOURCE`")
        with Progress("upgrade", quiet=invocation.quiet) as progress, _ctrl_c_pauses():
            progress.update(state=f"looking at {model}")
            result = upgrade_to(
                data,
                model,
                evaluation=evaluation,
                cut_over_after=cut_over_after,
                override=override,
                on_progress=_shown_in(progress, data),
                on_wait=lambda message: progress.update(state=message),
            )
    if as_json:
        print_json(result.to_json())
    else:
        _show_upgrade(result, quiet=invocation.quiet)


def _shown_in(progress: Progress, data: DataDirectory) -> Callable[[Build], None]:
    """Shows a build's checkpoints; which step it is in is looked up now and then."""
    looked_at = 0.0

    def show(build: Build) -> None:
        nonlocal looked_at
        step = None
        if time.monotonic() - looked_at > STEP_S:
            looked_at = time.monotonic()
            state = data.catalog.get(build.generation).state
            step = _STEPS.get(state, state)
            if state == "building" and not build.docs_done:
                step = "loading the model, first window"
        progress.what = f"build {build.generation}"
        progress.update(
            build.docs_done, total=build.docs_total, rate=build.docs_per_s or None, state=step
        )

    return show


def _show_upgrade(result: Upgrade, *, quiet: bool) -> None:
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
        next_steps('reindexer search "…"')
        if result.live_before is not None:
            next_steps("reindexer rollback    (if it turns out wrong)")
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
    say(f"The gate passed it: {', '.join(check['name'] for check in checks)}")
    difference = ((report.get("metrics") or {}).get("difference") or {}).get("ndcg@10")
    if difference:
        say(
            f"nDCG@10 {difference['mean']:+.4f} against the one before "
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
        )


@contextlib.contextmanager
def _ctrl_c_pauses() -> Iterator[None]:
    """Ctrl-C asks the build to stop at its next checkpoint, and says so."""

    def interrupt(_number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note("\nPausing at the next checkpoint; Ctrl-C again stops at once.")
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread: nobody can press Ctrl-C
        yield
        return
    try:
        yield
    except KeyboardInterrupt:
        note("The build is kept. Next: reindexer status, then reindexer resume")
        raise
    finally:
        signal.signal(signal.SIGINT, before)


# -- in the background ----------------------------------------------------------------------------


def _detach(invocation: Invocation, arguments: list[str], *, as_json: bool) -> None:
    """The same verb in a session of its own; returns as soon as its build is known."""
    with invocation.open() as data:
        logs = data.path / "logs"
        logs.mkdir(exist_ok=True)
        log_path = logs / f"{arguments[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "reindexer", *invocation.arguments(), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        build = _build_of(data, process)
    report = {
        "build_id": build.build_id if build is not None else None,
        "generation": build.generation if build is not None else None,
        "pid": process.pid,
        "log": str(log_path),
    }
    if process.poll() not in (None, 0):
        lines = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
        raise BuildFailed(f"{lines[-1].removeprefix('Error: ') if lines else 'it ended at once'}")
    if as_json:
        print_json(report)
        return
    if build is None:
        say(log_path.read_text(encoding="utf-8", errors="replace").rstrip())
        return
    say(f"Build {build.build_id} of {build.generation} goes on in the background.")
    say(f"Output: {log_path}")
    next_steps("reindexer status --watch", "reindexer pause")


def _build_of(data: DataDirectory, process: subprocess.Popen[bytes]) -> Build | None:
    """The build that the process has begun; None when it ended, or takes very long to begin."""
    from reindexer.journal import BUILD_LEASE

    deadline = time.monotonic() + DETACH_WAIT_S
    while process.poll() is None and time.monotonic() < deadline:
        holder = data.journal.holder(BUILD_LEASE) or ""
        if f":{process.pid}:" in holder and (running := data.journal.builds({"running"})):
            return running[0]
        time.sleep(0.1)
    return None


# -- pause, resume, cancel ------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer pause"],
    json_fields='{"build_id", "generation", "state", "wanted", "docs_done", "docs_total"}',
)
@json_option
@pass_invocation
def pause(invocation: Invocation, as_json: bool) -> None:
    """Ask the running build to stop at its next checkpoint."""
    from reindexer.upgrade import pause as pause_build

    with invocation.open_existing() as data:
        build = pause_build(data)
    if as_json:
        print_json(_build_json(build))
        return
    say(f"Build {build.build_id} of {build.generation} stops at its next checkpoint.")
    next_steps("reindexer resume")


@click.command(
    cls=Verb,
    examples=["reindexer resume", "reindexer resume docs@2 --eval judged/"],
    json_fields=_RESULT,
)
@click.argument("generation", metavar="[GEN]", required=False)
@judgment_options
@json_option
@pass_invocation
def resume(
    invocation: Invocation,
    generation: str | None,
    eval_dir: Path | None,
    split: str,
    as_json: bool,
) -> None:
    """Go on with a build that was paused or has stopped.

    Starts at its checkpoint. Takes the newest unfinished one unless GEN says which. Ends with a
    generation that is ready for `cutover`; `upgrade MODEL` does the same and cuts over.
    """
    from reindexer.upgrade import resume as resume_build

    evaluation = _evaluation(eval_dir, split)
    with (
        invocation.open_existing() as data,
        Progress("resume", quiet=invocation.quiet) as progress,
        _ctrl_c_pauses(),
    ):
        result = resume_build(
            data, generation, evaluation=evaluation, on_progress=_shown_in(progress, data)
        )
    if as_json:
        print_json(result.to_json())
    else:
        _show_upgrade(result, quiet=invocation.quiet)


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
    what = "stops at its next checkpoint" if build.wanted else "is cancelled"
    say(f"Build {build.build_id} of {build.generation} {what}.")
    next_steps("reindexer prune    (gives the disk space back)")


def _build_json(build: Build) -> dict[str, Any]:
    return {
        "build_id": build.build_id,
        "generation": build.generation,
        "state": build.state,
        "wanted": build.wanted,
        "docs_done": build.docs_done,
        "docs_total": build.docs_total,
    }
