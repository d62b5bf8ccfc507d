"""Verbs of the switch: cutover, rollback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import duration, next_steps, print_json, say

if TYPE_CHECKING:
    from reindexer.cutover import CutOver

_CUT_OVER = (
    '{"live_before", "live_after", "standby", "serving": [], "late": [], "prepare_s", "switch_s"}'
)


def _accepted_yes(function: Any) -> Any:
    return click.option(
        "-y", "--yes", is_flag=True, expose_value=False, hidden=True, help="Nothing is asked."
    )(function)


@click.command(
    cls=Verb,
    examples=["reindexer cutover docs@2", 'reindexer cutover docs@2 --override "checked by hand"'],
    json_fields=_CUT_OVER,
)
@click.argument("name", metavar="GEN")
@click.option(
    "--override", metavar="REASON", help="Switch although the gate refused it; this is recorded."
)
@_accepted_yes
@json_option
@pass_invocation
def cutover(invocation: Invocation, name: str, override: str | None, as_json: bool) -> None:
    """Make a ready generation the live one.

    Every serving process prepares it first; then encoder, vectors and BM25 change over as one. The
    generation that was live becomes the standby, so `rollback` is one command.
    """
    from reindexer.cutover import cut_over

    with (
        invocation.open_existing() as data,
        Progress("cutover", quiet=invocation.quiet) as progress,
    ):
        done = cut_over(
            data, name, override=override, on_wait=lambda text: progress.update(state=text)
        )
    _show_cut_over(done, as_json=as_json, quiet=invocation.quiet)


@click.command(cls=Verb, examples=["reindexer rollback"], json_fields=_CUT_OVER)
@_accepted_yes
@json_option
@pass_invocation
def rollback(invocation: Invocation, as_json: bool) -> None:
    """Go back to the standby generation; no write is lost.

    The standby was kept in step, so what was written since the cut-over is in it. Once more goes
    forward again.
    """
    from reindexer.cutover import rollback as roll_back

    with (
        invocation.open_existing() as data,
        Progress("rollback", quiet=invocation.quiet) as progress,
    ):
        done = roll_back(data, on_wait=lambda text: progress.update(state=text))
    _show_cut_over(done, as_json=as_json, quiet=invocation.quiet)


def _show_cut_over(done: CutOver, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_json(done.to_json())
        return
    before = f", {done.live_before} before" if done.live_before else ""
    say(f"{done.live_after} is live{before}; switched in {duration(done.switch_s)}.")
    if done.serving:
        say(f"Answering from it: {', '.join(done.serving)}")
    for name in done.late:
        say(f"Not seen to follow yet: {name}")
    if done.standby:
        say(f"{done.standby} is the standby and is kept in step.")
    if not quiet:
        say()
        if done.standby:
            next_steps('reindexer search "…"', "reindexer rollback    (if it turns out wrong)")
        else:
            next_steps('reindexer search "…"')
