"""What `status` says, as text: a screen for people, a line for logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from reindexer.terminal import count, duration, pace, rate, table

Status = Mapping[str, Any]

STEPS = {  # of a build, by the state of its generation
    "building": "encoding",
    "catching_up": "catching up, index",
    "verifying": "verifying",
}


def screen(found: Status) -> str:
    """The status for people, at most 80 columns wide."""
    corpus = found["corpus"]
    parts = [
        f"{'corpus':<9}{count(corpus['documents'], 'document')}, seq {corpus['head_seq']:,}, "
        f"in {found['data_dir']}",
        f"{'live':<9}{_pointer(found['live'])}",
        f"{'standby':<9}{_pointer(found['standby'])}",
    ]
    parts += [f"{'serving':<9}{_searcher(searcher)}" for searcher in found["searchers"]]
    if waiting := jobs_text(found["jobs"]):
        parts.append(f"{'jobs':<9}{waiting}")
    text = "\n".join(parts)
    if found["builds"]:
        text += "\n\n" + _builds(found["builds"])
    return text


def line(found: Status) -> str:
    """The status on one line, for logs: the newest build, or what is live."""
    live = found["live"]
    where = f"live {live['generation']} lag {live['lag_docs']}" if live else "live none"
    if not found["builds"]:
        return where
    build = found["builds"][0]
    share = 100 * build["docs_done"] / max(1, build["docs_total"])
    eta = duration(build["eta_s"]) if build["eta_s"] is not None else "n/a"
    parts = [
        f"build {build['generation']}: {build['docs_done']}/{build['docs_total']} {share:.1f}%",
        pace(build["docs_per_s"], f"{build['docs_per_s']:.1f}"),
        f"eta {eta}",
        f"{build['state']} ({build['step']})",
    ]
    if build["pace_reason"]:
        parts.append(pace_text(build))
    return "; ".join([*parts, where])


def pace_text(build: Status) -> str:
    """`pace 50 %: p99 62 ms > 50 ms on box:7`"""
    return f"pace {100 * build['pace']:.0f} %: {build['pace_reason']}"


def stages_text(build: Status) -> str:
    """`encode 81 %, write 9 %, read 6 %`: the five largest; below a percent is left out."""
    stages: Mapping[str, float] = build["stages"]
    total = sum(stages.values())
    if total <= 0:
        return ""
    shares = sorted(((100 * s / total, name) for name, s in stages.items()), reverse=True)
    return ", ".join(f"{name} {share:.0f} %" for share, name in shares[:5] if share >= 1)


def state_text(build: Status) -> str:
    """The state, and while it runs the step it is at."""
    if build["state"] == "running" and build["step"] != "building":
        return STEPS.get(build["step"], str(build["step"]))
    return str(build["state"])


def jobs_text(jobs: Mapping[str, int]) -> str:
    """What is still to be done; "" when nothing is."""
    open_jobs = [f"{jobs[state]} {state}" for state in ("queued", "running") if jobs.get(state)]
    return ", ".join(open_jobs)


def _pointer(pointer: Status | None) -> str:
    if pointer is None:
        return "none"
    lag = pointer["lag_docs"]
    step = "in step" if not lag else click.style(f"{count(lag, 'change')} behind", fg="yellow")
    documents = count(pointer["documents"], "document")
    return f"{pointer['generation']} ({pointer['model']}), {documents}, {step}"


def _searcher(searcher: Status) -> str:
    pid = searcher["name"].split(":")[1]
    text = f"process {pid} at {searcher['address']}, answers from {searcher['generation'] or '-'}"
    if searcher["prepared"]:
        text += f", prepared for {searcher['prepared']}"
    if searcher["p99_ms"] is not None:
        queries = f"{rate(searcher['queries_per_s'])} queries/s, p99 {searcher['p99_ms']:.0f} ms"
        text += f"\n{'':<9}{queries}"
    if searcher["problem"]:
        text += f"\n{'':<9}{click.style(searcher['problem'], fg='red')}"
    return text


def _builds(builds: list[dict[str, Any]]) -> str:
    rows = []
    notes = []
    for build in builds:
        share = 100 * build["docs_done"] / max(1, build["docs_total"])
        eta = duration(build["eta_s"]) if build["eta_s"] is not None else ""
        rows.append(
            (
                str(build["build_id"]),
                build["generation"],
                state_text(build),
                f"{build['docs_done']:,}/{build['docs_total']:,}",
                f"{share:.0f} %",
                pace(build["docs_per_s"]),
                eta,
                build["model"],
            )
        )
        if build["reason"] and build["state"] != "done":
            notes.append(f"build {build['build_id']}: {build['reason']}")
        if build["pace_reason"]:
            notes.append(f"build {build['build_id']}: {pace_text(build)}")
    if stages := stages_text(builds[0]):
        notes.append(f"build {builds[0]['build_id']}: time in {stages}")
    headers = ("build", "of", "state", "documents", "", "rate", "left", "model")
    return "\n".join([table(headers, rows), *notes])
