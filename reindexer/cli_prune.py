"""The verb that drops: prune."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation, yes_option
from reindexer.progress import Progress
from reindexer.terminal import confirm, note, print_json, say, size, table

if TYPE_CHECKING:
    from reindexer.prune import PrunePlan


@click.command(
    cls=Verb,
    examples=["reindexer prune", "reindexer prune --standby --yes"],
    json_fields='{"items": [{"kind", "name", "reason", "disk_bytes"}], "kept": [{"generation", '
    '"reason"}], "disk_bytes", "dropped": []}; without --yes nothing is dropped',
)
@yes_option
@click.option(
    "--standby", is_flag=True, help="The standby too, before its hold-over is over: no way back."
)
@json_option
@pass_invocation
def prune(invocation: Invocation, yes: bool, standby: bool, as_json: bool) -> None:
    """Drop what is no longer wanted, after showing it and asking.

    That is: generations that are retired, refused or given up; the standby once its hold-over
    (prune.hold_over_h) is over; lexical indexes without a generation; files of killed processes.
    Never what is live or aliased, being built, or answered from.
    """
    from reindexer.prune import plan_prune
    from reindexer.prune import prune as drop

    with invocation.open_existing() as data:
        planned = plan_prune(data, standby=standby)
        if not as_json:
            _show_plan(planned)
        if not planned.items or (as_json and not yes):
            if as_json:
                print_json({**planned.to_json(), "dropped": []})
            return
        if not yes and not confirm("Drop these?"):
            note("Nothing was dropped.")
            sys.exit(1)
        with Progress("prune", quiet=invocation.quiet) as progress:
            dropped = drop(data, planned, on_step=lambda step: progress.update(state=step))
    if as_json:
        print_json({**planned.to_json(), "dropped": [item.name for item in dropped]})
        return
    freed = sum(item.disk_bytes or 0 for item in dropped)
    say(f"Dropped {', '.join(item.name for item in dropped) or 'nothing'}; {size(freed)} freed.")
    late = [item.name for item in planned.items if item not in dropped]
    if late:
        say(f"In use by now, so kept: {', '.join(late)}")


def _show_plan(planned: PrunePlan) -> None:
    if planned.items:
        rows = [
            (
                item.name,
                item.kind,
                size(item.disk_bytes) if item.disk_bytes is not None else "-",
                item.reason,
            )
            for item in planned.items
        ]
        say(table(("drop", "what", "disk", "why"), rows))
    else:
        say("Nothing to drop.")
    if planned.kept:
        say()
        say(table(("keep", "why"), planned.kept))
    if planned.items:
        say()
