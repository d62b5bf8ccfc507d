"""Verbs that tidy: prune, compact."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reindexer.cli_build import RESULT, ctrl_c_pauses, show_upgrade, shown_in
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
    from search.disk_room import give_spare

    invocation.check_exists()
    give_spare(invocation.settings.data_dir)  # a full disk does not let the database open
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


@click.command(
    cls=Verb,
    examples=["reindexer compact", "reindexer compact --if-worn --json"],
    json_fields=RESULT + ', or {"generation", "indexed", "due", "waits_for"} when nothing was done',
)
@click.option(
    "--if-worn",
    is_flag=True,
    help="Only when its index covers less than compact.below, and there is no standby to lose.",
)
@json_option
@pass_invocation
def compact(invocation: Invocation, if_worn: bool, as_json: bool) -> None:
    """Rebuild the live generation from the vectors that it has.

    What is written after a build lies beside its ANN index and makes searches slower. Nothing is
    encoded again; the new generation is verified and goes live, the one before is the standby.
    """
    from reindexer.compaction import compact as compact_live
    from reindexer.compaction import wear

    with (
        invocation.open_existing() as data,
        Progress("compact", quiet=invocation.quiet) as progress,
        ctrl_c_pauses(),
    ):
        if if_worn and not (found := wear(data)).is_due:
            if as_json:
                print_json(found.to_json())
                return
            waits = f" It waits for {found.waits_for}." if found.waits_for else ""
            say(f"{found.generation}: {found.indexed:.0%} of its passages are indexed.{waits}")
            return
        result = compact_live(
            data,
            on_progress=shown_in(progress, data),
            on_wait=lambda message: progress.update(state=message),
        )
    if as_json:
        print_json(result.to_json())
    else:
        show_upgrade(result, quiet=invocation.quiet)


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
