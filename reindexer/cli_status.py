"""The verb that is typed most: status. It imports nothing that takes time."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.status_screen import screen
from reindexer.terminal import next_steps, print_json, say

if TYPE_CHECKING:
    from reindexer.watch import StatusSource

MIN_INTERVAL_S = 0.2


@click.command(
    cls=Verb,
    examples=[
        "reindexer status",
        "reindexer status --watch",
        "reindexer status --watch --url http://search.example:8321",
        "reindexer status --json",
    ],
    json_fields='{"live": {"generation", "model", "fingerprint", "documents", "watermark", '
    '"lag_docs", "lag_s", "since"} or null, "standby": the same, "builds": [{"build_id", '
    '"generation", "model", "state", "step", "wanted", "docs_done", "docs_total", "docs_per_s", '
    '"eta_s", "lag_docs", "passages", "encoded", "reused", "tokens", "batches", "stages": {stage: '
    'seconds}, "pace", "pace_reason", "retries", "reason", "started_at", "updated_at"}], '
    '"searchers": [{"name", "address", "generation", "prepared", "problem", "seen_at", '
    '"queries_per_s", "p50_ms", "p99_ms"}], "workers": [name], "jobs": {state: how many}, '
    '"switches": {kind: how many}, "events": [{"at", "kind", "generation", "who"}], "corpus": '
    '{"documents", "head_seq"}, "data_dir"}',
)
@click.option("--watch", "is_watching", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(MIN_INTERVAL_S),
    metavar="S",
    help="Seconds between two looks; 1, or 5 when stdout is no terminal.",
)
@click.option("--url", help="Ask the service at this URL instead of the database.")
@click.option(
    "--key", envvar="REINDEXER_KEY", show_envvar=True, help="API key for --url (scope search)."
)
@json_option
@pass_invocation
def status(
    invocation: Invocation,
    is_watching: bool,
    interval_s: float | None,
    url: str | None,
    key: str | None,
    as_json: bool,
) -> None:
    """Everything that is going on.

    What is live and what stands by, builds with rate and time left, processes that serve.
    """
    if is_watching and as_json:
        raise click.UsageError("--watch draws a screen; call --json as often as you like instead")
    if is_watching:
        _watch(_source(invocation, url, key), interval_s)
        return
    found: Any
    if url is None:
        from reindexer.status import read_status

        found = read_status(invocation.settings)
    else:
        found = _source(invocation, url, key).read()
    if as_json:
        print_json(found)
        return
    say(screen(found))
    if not invocation.quiet:
        say()
        next_steps(*_next(found))


def _source(invocation: Invocation, url: str | None, key: str | None) -> StatusSource:
    from reindexer.watch import DatabaseStatus, ServiceStatus

    return ServiceStatus(url, key) if url is not None else DatabaseStatus(invocation.settings)


def _watch(source: StatusSource, interval_s: float | None) -> None:
    from reindexer.watch import watch

    def tell(text: str) -> None:
        say(text)
        sys.stdout.flush()

    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    watch(source, interval_s, is_terminal=is_terminal, say=tell)


def _next(found: dict[str, Any]) -> list[str]:
    newest = found["builds"][0] if found["builds"] else None
    if newest is not None and newest["state"] == "running":
        return ["reindexer status --watch"]
    if newest is not None and newest["state"] in ("stopped", "paused", "failed"):
        if newest["step"] != "failed":
            return ["reindexer resume"]
        return [f"reindexer generations show {newest['generation']}"]
    if newest is not None and newest["step"] == "ready":
        return [f"reindexer cutover {newest['generation']}"]
    if not found["corpus"]["documents"]:
        return ["reindexer ingest SOURCE", "reindexer demo    (on text every machine has)"]
    if found["live"] is None:
        return ["reindexer upgrade MODEL"]
    lag = max(found[name]["lag_docs"] for name in ("live", "standby") if found[name])
    if lag and not found["searchers"]:
        return ["reindexer sync"]
    return ['reindexer search "…"']
