"""The verb on what people thought of the answers: feedback export, summary."""

from __future__ import annotations

import re
import time
from datetime import datetime
from pathlib import Path

import click

from reindexer.cli_verb import Invocation, VerbGroup, json_option, pass_invocation
from reindexer.terminal import count, fields, next_steps, note, print_json, say, table, when

_SUMMARY = (
    '{"enabled", "queries", "clicks", "judgments", "votes", "generations": [{"generation", '
    '"queries", "no_hits", "clicked", "mrr", "first_at", "last_at"}], "votes_by_pair": [{"one", '
    '"other", "votes", "one_better", "other_better", "neither"}]}'
)
_AGE = re.compile(r"(\d{1,6})([mhdw])")
_UNIT_S = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def _since(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float:
    """Unix seconds of an age such as 30d, or of a date."""
    if text is None:
        return 0.0
    age = _AGE.fullmatch(text)
    if age is not None:
        return time.time() - int(age[1]) * _UNIT_S[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(
            f"{text!r}: expected an age such as 30d, 12h or 90m, or a date such as 2025-01-31"
        ) from None


since_option = click.option(
    "--since",
    callback=_since,
    metavar="AGE",
    help="Only what was asked since: an age such as 30d or 12h, or a date.",
)


@click.group(
    cls=VerbGroup,
    examples=["reindexer feedback", "reindexer feedback export -o clicks.jsonl --since 30d"],
    json_fields=f"as `feedback summary`: {_SUMMARY}",
)
@json_option
@click.pass_context
def feedback(context: click.Context, as_json: bool) -> None:
    """Queries, clicks and votes; by itself the summary."""
    if context.invoked_subcommand is None:
        context.invoke(summary, since=0.0, as_json=as_json)


@feedback.command(
    "summary",
    examples=["reindexer feedback summary --since 7d"],
    json_fields=_SUMMARY,
)
@since_option
@json_option
@pass_invocation
def summary(invocation: Invocation, since: float = 0.0, as_json: bool = False) -> None:
    """How much was asked and clicked, by the generation that answered.

    MRR is the mean of 1/position of the best click, over the queries that have one.
    """
    from search.feedback_reports import feedback_summary, votes_summary

    with invocation.open_existing() as data:
        found = {
            "enabled": data.settings.feedback_enabled,
            **feedback_summary(data.database, since=since),
            "votes_by_pair": votes_summary(data.database),
        }
    if as_json:
        print_json(found)
        return
    say(fields([(name, found[name]) for name in ("queries", "clicks", "judgments", "votes")]))
    rows = [
        (
            row["generation"], row["queries"], row["no_hits"], row["clicked"], row["mrr"],
            when(row["last_at"]),
        )
        for row in found["generations"]
    ]  # fmt: skip
    if rows:
        say()
        say(table(("generation", "queries", "no hits", "clicked", "MRR", "last"), rows))
    pairs = [
        (f"{row['one']} or {row['other']}", row["one_better"], row["other_better"], row["neither"])
        for row in found["votes_by_pair"]
    ]
    if pairs:
        say()
        say(table(("which is better", "the first", "the second", "neither"), pairs))
    if not found["enabled"]:
        say()
        next_steps("REINDEXER_FEEDBACK_ENABLED=true reindexer serve    (the log is off)")


@feedback.command(
    "export",
    examples=[
        "reindexer feedback export -o clicks.jsonl",
        "reindexer feedback export -o clicks.jsonl --since 30d",
    ],
    json_fields='{"out", "queries", "events", "clicks"}',
)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The JSON Lines file to write.",
)
@since_option
@json_option
@pass_invocation
def export(invocation: Invocation, out: Path, since: float, as_json: bool) -> None:
    """Write a click log: what each query showed, and what was clicked.

    `reindexer pairs build FILE` makes training pairs of it; on this data directory, so does `pairs
    build --clicks` without a file.
    """
    from reindexer.feedback import write_click_log

    with invocation.open_existing() as data:
        written = write_click_log(data.database, out, since=since)
    if as_json:
        print_json({"out": str(out), **written})
        return
    say(
        f"{count(written['queries'], 'query')} with {count(written['clicks'], 'click')} on "
        f"{count(written['events'], 'document')} shown are in {out}."
    )
    if not written["events"]:
        note(
            "Queries are logged with feedback.enabled = true, and exported with feedback.query = "
            "text."
        )
    elif not invocation.quiet:
        next_steps(f"reindexer pairs build {out} -o pairs.jsonl")
