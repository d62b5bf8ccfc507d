"""Verbs that move search to another model: upgrade, and its long part alone: build."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reindexer.cli_build import RESULT, ctrl_c_pauses, show_upgrade, shown_in
from reindexer.cli_plan import make_plan, read_evaluation, show_plan
from reindexer.cli_verb import (
    Invocation,
    Verb,
    fanout_options,
    json_option,
    judgment_options,
    pass_invocation,
    yes_option,
)
from reindexer.errors import BuildFailed
from reindexer.progress import Progress
from reindexer.terminal import confirm, next_steps, note, print_json, say, warn
from search.processes import run_module

if TYPE_CHECKING:
    from reindexer.build_process import Evaluation
    from reindexer.data_directory import DataDirectory
    from reindexer.journal import Build

DETACH_WAIT_S = 60.0


@click.command(
    cls=Verb,
    examples=[
        "reindexer upgrade sentence-transformers/all-MiniLM-L6-v2",
        "reindexer upgrade support@4 --eval judged/ --split test",
        "reindexer upgrade support@4 --yes --detach",
        "reindexer upgrade support@4 --anew",
    ],
    json_fields=RESULT + '; with --detach {"build_id", "generation", "pid", "log"}',
)
@click.argument("model")
@judgment_options
@yes_option
@fanout_options
@click.option("--detach", is_flag=True, help="Go on in the background; output goes to a log file.")
@click.option("--no-cutover", is_flag=True, help="Stop when the generation is ready.")
@click.option("--anew", is_flag=True, help="Encode everything again: what is there is damaged.")
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
    anew: bool,
    override: str | None,
    as_json: bool,
) -> None:
    """Build a generation for MODEL, verify it, and switch to it.

    MODEL is a registered version (support@4, or support for the newest), a folder, a hub id, or
    package:NAME; a model that is not registered yet is registered. Search goes on all the while.
    Shows the plan and asks, unless --yes. What stopped is gone on with from its checkpoint. A
    generation of MODEL that is there already is not built again, unless --anew.
    """
    if override is not None and no_cutover:
        raise click.UsageError("--override is about the cut-over; leave out --no-cutover")
    evaluation = read_evaluation(eval_dir, split)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("there is no terminal to ask on; add --yes to go ahead")
        with invocation.open() as data:
            made = make_plan(data, model, evaluation, quiet=invocation.quiet, anew=anew)
        show_plan(made)
        if made.strategy == "none" and made.takes_up is None:
            return
        say()
        if not confirm("Go ahead?"):
            note("Nothing was changed.")
            sys.exit(1)
    if detach:
        arguments = ["upgrade", model, "--yes", "--split", split]
        arguments += ["--eval", str(evaluation.directory)] if evaluation is not None else []
        arguments += ["--no-cutover"] if no_cutover else []
        arguments += ["--anew"] if anew else []
        arguments += ["--override", override] if override is not None else []
        _detach(invocation, arguments, as_json=as_json)
        return
    _run_upgrade(
        invocation,
        model,
        evaluation,
        cut_over_after=not no_cutover,
        override=override,
        anew=anew,
        as_json=as_json,
    )


@click.command(
    cls=Verb,
    examples=["reindexer build support@4", "reindexer build support@4 --eval judged/ --detach"],
    json_fields=RESULT + '; with --detach {"build_id", "generation", "pid", "log"}',
)
@click.argument("model")
@judgment_options
@fanout_options
@click.option("--detach", is_flag=True, help="Go on in the background; output goes to a log file.")
@click.option(
    "--override", metavar="REASON", help="Build although a gate refuses; this is recorded."
)
@json_option
@pass_invocation
def build(
    invocation: Invocation,
    model: str,
    eval_dir: Path | None,
    split: str,
    detach: bool,
    override: str | None,
    as_json: bool,
) -> None:
    """Build and verify a generation; what is live stays live.

    The same as `upgrade --no-cutover`. Ends with a generation that is ready for `cutover`.
    """
    evaluation = read_evaluation(eval_dir, split)
    if detach:
        arguments = ["build", model, "--split", split]
        arguments += ["--eval", str(evaluation.directory)] if evaluation is not None else []
        arguments += ["--override", override] if override is not None else []
        _detach(invocation, arguments, as_json=as_json)
        return
    _run_upgrade(
        invocation, model, evaluation, cut_over_after=False, override=override, as_json=as_json
    )


def _run_upgrade(
    invocation: Invocation,
    model: str,
    evaluation: Evaluation | None,
    *,
    cut_over_after: bool,
    override: str | None,
    as_json: bool,
    anew: bool = False,
) -> None:
    from reindexer.upgrade import upgrade as upgrade_to

    with invocation.open() as data:
        if not data.corpus.head():
            warn("the corpus is empty; bring documents in with `reindexer ingest SOURCE`")
        with Progress("upgrade", quiet=invocation.quiet) as progress, ctrl_c_pauses():
            progress.update(state=f"looking at {model}")
            result = upgrade_to(
                data,
                model,
                evaluation=evaluation,
                cut_over_after=cut_over_after,
                override=override,
                anew=anew,
                on_progress=shown_in(progress, data),
                on_wait=lambda message: progress.update(state=message),
            )
    if as_json:
        print_json(result.to_json())
    else:
        show_upgrade(result, quiet=invocation.quiet)


# -- in the background ----------------------------------------------------------------------------


def _detach(invocation: Invocation, arguments: list[str], *, as_json: bool) -> None:
    """The same verb in a session of its own; returns as soon as its build is known."""
    with invocation.open() as data:
        logs = data.path / "logs"
        logs.mkdir(exist_ok=True)
        log_path = logs / f"{arguments[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                run_module("reindexer", *invocation.arguments(), *arguments),
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
    if build is not None:
        say(f"Build {build.build_id} of {build.generation} goes on in the background.")
    elif process.poll() is None:
        say("It goes on in the background, and has not begun to build yet.")
    else:
        say(log_path.read_text(encoding="utf-8", errors="replace").rstrip())
        return
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
