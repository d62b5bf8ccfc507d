"""The verb that is typed most: status. It imports nothing that takes time."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.terminal import count, duration, next_steps, print_json, rate, say, table

WATCH_S = 1.0
WATCH_LINE_S = 5.0  # when stdout is not a terminal
_CLEAR = "\x1b[H\x1b[J"


@click.command(
    cls=Verb,
    examples=["reindexer status", "reindexer status --watch", "reindexer status --json"],
    json_fields='{"live": {"generation", "model", "documents", "watermark", "lag_docs", "since"} '
    'or null, "standby": the same, "builds": [{"build_id", "generation", "model", "state", "step", '
    '"docs_done", "docs_total", "docs_per_s", "eta_s", "lag_docs", "passages", "encoded", '
    '"reused", "retries", "reason", "started_at", "updated_at"}], "searchers": [{"name", '
    '"address", "generation", "prepared", "problem", "seen_at"}], "corpus": {"documents", '
    '"head_seq"}, "data_dir"}',
)
@click.option("--watch", is_flag=True, help="Look again every second, until Ctrl-C.")
@json_option
@pass_invocation
def status(invocation: Invocation, watch: bool, as_json: bool) -> None:
    """Everything that is going on.

    What is live and what stands by, builds with rate and time left, processes that serve.
    """
    from reindexer.status import read_status

    if watch and as_json:
        raise click.UsageError("--watch draws a screen; call --json as often as you like instead")
    settings = invocation.settings
    if watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(invocation)
        return
    found = read_status(settings)
    if as_json:
        print_json(found)
        return
    say(screen(found))
    if not invocation.quiet:
        say()
        next_steps(*_next(found))


def _watch(invocation: Invocation) -> None:
    from reindexer.status import read_status

    on_terminal = sys.stdout.isatty()
    while True:
        found = read_status(invocation.settings)
        if on_terminal:
            say(_CLEAR + screen(found) + "\n\n" + click.style("Ctrl-C ends this.", dim=True))
            time.sleep(WATCH_S)
        else:
            say(line(found))
            sys.stdout.flush()
            time.sleep(WATCH_LINE_S)


def screen(found: dict[str, Any]) -> str:
    """The status for people, at most 80 columns wide."""
    corpus = found["corpus"]
    parts = [
        f"{'corpus':<9}{count(corpus['documents'], 'document')}, seq {corpus['head_seq']:,}, "
        f"in {found['data_dir']}",
        f"{'live':<9}{_pointer(found['live'])}",
        f"{'standby':<9}{_pointer(found['standby'])}",
    ]
    for searcher in found["searchers"]:
        parts.append(f"{'serving':<9}{_searcher(searcher)}")
    text = "\n".join(parts)
    if found["builds"]:
        text += "\n\n" + _builds(found["builds"])
    return text


def line(found: dict[str, Any]) -> str:
    """The status on one line, for logs: the newest build, or what is live."""
    live = found["live"]
    where = f"live {live['generation']} lag {live['lag_docs']}" if live else "live none"
    if not found["builds"]:
        return where
    build = found["builds"][0]
    share = 100 * build["docs_done"] / max(1, build["docs_total"])
    eta = duration(build["eta_s"]) if build["eta_s"] is not None else "n/a"
    return (
        f"build {build['generation']}: {build['docs_done']}/{build['docs_total']} {share:.1f}%; "
        f"{build['docs_per_s']:.1f}/s; eta {eta}; {build['state']} ({build['step']}); {where}"
    )


def _pointer(pointer: dict[str, Any] | None) -> str:
    if pointer is None:
        return "none"
    lag = pointer["lag_docs"]
    step = "in step" if not lag else click.style(f"{count(lag, 'change')} behind", fg="yellow")
    documents = count(pointer["documents"], "document")
    return f"{pointer['generation']} ({pointer['model']}), {documents}, {step}"


def _searcher(searcher: dict[str, Any]) -> str:
    pid = searcher["name"].split(":")[1]
    text = f"process {pid} at {searcher['address']}, answers from {searcher['generation'] or '-'}"
    if searcher["prepared"]:
        text += f", prepared for {searcher['prepared']}"
    if searcher["problem"]:
        text += f"\n{'':<9}{click.style(searcher['problem'], fg='red')}"
    return text


def _builds(builds: list[dict[str, Any]]) -> str:
    rows = []
    reasons = []
    for build in builds:
        share = 100 * build["docs_done"] / max(1, build["docs_total"])
        eta = duration(build["eta_s"]) if build["eta_s"] is not None else ""
        state = build["state"]
        if state == "running" and build["step"] != "building":
            state = build["step"].replace("_", " ")
        rows.append(
            (
                str(build["build_id"]),
                build["generation"],
                state,
                f"{build['docs_done']:,}/{build['docs_total']:,}",
                f"{share:.0f} %",
                f"{rate(build['docs_per_s'])}/s",
                eta,
                build["model"],
            )
        )
        if build["reason"] and state != "done":
            reasons.append(f"build {build['build_id']}: {build['reason']}")
    headers = ("build", "of", "state", "documents", "", "rate", "left", "model")
    return "\n".join([table(headers, rows), *reasons])


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
