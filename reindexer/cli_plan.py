"""The verb that looks ahead: plan. And what `upgrade` shows before it asks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from reindexer.cli_verb import (
    Invocation,
    Verb,
    json_option,
    judgment_options,
    pass_invocation,
)
from reindexer.progress import Progress
from reindexer.terminal import duration, fields, next_steps, print_json, rate, say, size, warn

if TYPE_CHECKING:
    from reindexer.build_process import Evaluation
    from reindexer.data_directory import DataDirectory
    from reindexer.plan import Plan


def read_evaluation(eval_dir: Path | None, split: str) -> Evaluation | None:
    from reindexer.build_process import Evaluation
    from training.judgments import read_judgments

    if eval_dir is None:
        return None
    read_judgments(eval_dir, split)  # a mistyped folder must not show after hours of encoding
    return Evaluation(directory=eval_dir.absolute(), split=split)


@click.command(
    cls=Verb,
    examples=["reindexer plan support@4", "reindexer plan ./our-tuned-model --json"],
    json_fields='{"model", "registered", "live_generation", "documents", "passages", "tokens", '
    '"strategy": "encode|copy|none", "docs_per_s", "estimated_s", "disk_bytes", "free_disk_bytes", '
    '"memory_bytes", "dim", "device", "dtype", "sample_documents", "copies_from", "takes_up", '
    '"documents_left", "warnings": []}',
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
        made = make_plan(data, model, read_evaluation(eval_dir, split), quiet=invocation.quiet)
    if as_json:
        print_json(made.to_json())
        return
    show_plan(made)
    if not invocation.quiet and (made.strategy != "none" or made.takes_up):
        say()
        next_steps(f"reindexer upgrade {model}" + (f" --eval {eval_dir}" if eval_dir else ""))


def make_plan(
    data: DataDirectory,
    model: str,
    evaluation: Evaluation | None,
    *,
    quiet: bool,
    anew: bool = False,
) -> Plan:
    from reindexer.plan import plan_upgrade

    with Progress("plan", quiet=quiet) as progress:
        return plan_upgrade(
            data,
            model,
            evaluation=evaluation,
            anew=anew,
            on_step=lambda step: progress.update(state=step),
        )


def show_plan(plan: Plan) -> None:
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
