"""Verbs on generations: generations, verify, cutover, rollback, prune."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import (
    Invocation,
    Verb,
    VerbGroup,
    json_option,
    judgment_options,
    pass_invocation,
    yes_option,
)
from reindexer.errors import GateRefused
from reindexer.progress import Progress
from reindexer.terminal import (
    confirm,
    count,
    duration,
    fields,
    next_steps,
    note,
    print_json,
    say,
    size,
    table,
    when,
)

if TYPE_CHECKING:
    from reindexer.cutover import CutOver
    from reindexer.data_directory import DataDirectory
    from reindexer.prune import PrunePlan
    from search.generations import Generation

_GENERATION = (
    '{"generation", "state", "model", "collection", "watermark", "lag_docs", "documents", '
    '"disk_bytes", "created_at", "state_at"}'
)
_CUT_OVER = (
    '{"live_before", "live_after", "standby", "serving": [], "late": [], "prepare_s", "switch_s"}'
)


# -- generations ----------------------------------------------------------------------------------


@click.group(
    cls=VerbGroup,
    examples=["reindexer generations", "reindexer generations show docs@2"],
    json_fields=f"a list, oldest first, of {_GENERATION}",
)
@json_option
@pass_invocation
@click.pass_context
def generations(context: click.Context, invocation: Invocation, as_json: bool) -> None:
    """Every copy of the corpus that still takes space."""
    if context.invoked_subcommand is not None:
        return
    with invocation.open_existing() as data:
        found = [_generation_json(data, item) for item in data.catalog.all()]
    if as_json:
        print_json(found)
        return
    if not found:
        say("No generation yet.")
        next_steps("reindexer upgrade MODEL")
        return
    rows = [
        (
            item["generation"],
            item["state"],
            item["documents"],
            item["lag_docs"],
            size(item["disk_bytes"]) if item["disk_bytes"] is not None else "-",
            item["model"],
        )
        for item in found
    ]
    say(table(("name", "state", "documents", "behind", "disk", "model"), rows))
    if not invocation.quiet:
        say()
        next_steps(f"reindexer generations show {found[-1]['generation']}")


@generations.command(
    "show",
    examples=["reindexer generations show docs@2", "reindexer generations show docs@2 --json"],
    json_fields=_GENERATION[:-1]
    + ', "recipe": {…}, "verified": {…} or null, "build": {…} or null}',
)
@click.argument("name", metavar="GEN")
@json_option
@pass_invocation
def show(invocation: Invocation, name: str, as_json: bool) -> None:
    """One generation: recipe, watermark, and what the gate found."""
    with invocation.open_existing() as data:
        generation = data.catalog.get(name)
        value = _generation_json(data, generation)
        value["recipe"] = json.loads(generation.recipe.to_json())
        value["verified"] = generation.verified
        value["build"] = _build_json(data, name)
    if as_json:
        print_json(value)
        return
    recipe = value["recipe"]
    build = value["build"]
    disk = value["disk_bytes"]
    since = when(generation.state_at)
    say(
        fields(
            [
                (name, f"{value['state']} since {since}"),
                ("model", f"{recipe['model']}, {recipe['dim']} dimensions"),
                ("fingerprint", recipe["fingerprint"][:16]),
                (
                    "documents",
                    f"{value['documents']:,} at seq {value['watermark']:,}, "
                    f"{count(value['lag_docs'], 'change')} behind",
                ),
                ("collection", value["collection"] + (f", {size(disk)}" if disk else "")),
                (
                    "passages",
                    f"up to {recipe['splitter']['max_tokens']} tokens, "
                    f"{recipe['splitter']['overlap_tokens']} shared with the next",
                ),
                ("BM25", recipe["analyzer"]["language"]),
                (
                    "build",
                    f"{build['state']}, {count(build['passages'], 'passage')}, "
                    f"{duration(build['busy_s'])}"
                    if build
                    else None,
                ),
                (
                    "reason",
                    build["reason"] if build and not generation.verified else None,
                ),
            ]
        )
    )
    if value["verified"]:
        say()
        show_checks(value["verified"])


def _generation_json(data: DataDirectory, generation: Generation) -> dict[str, Any]:
    there = generation.collection in data.store.names()
    return {
        "generation": generation.name,
        "state": generation.state,
        "model": generation.recipe.model,
        "collection": generation.collection,
        "watermark": generation.watermark,
        "lag_docs": data.corpus.lag(generation.watermark),
        "documents": data.corpus.count(generation.watermark),
        "disk_bytes": data.store.disk_bytes(generation.collection) if there else 0,
        "created_at": _iso(generation.created_at),
        "state_at": _iso(generation.state_at),
    }


def _build_json(data: DataDirectory, name: str) -> dict[str, Any] | None:
    from dataclasses import asdict

    from search.errors import GenerationNotFound

    try:
        return asdict(data.journal.build_of(name))
    except GenerationNotFound:
        return None


def _iso(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


# -- verify ---------------------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=["reindexer verify docs@2", "reindexer verify docs@2 --eval judged/ --split test"],
    json_fields='{"generation", "passed", "checks": [{"name", "passed", "found", "expected", '
    '"detail"}], "metrics": {"live": {…}, "candidate": {…}, "difference": {"ndcg@10": {"mean", '
    '"low", "high"}}} or null}',
)
@click.argument("name", metavar="GEN")
@judgment_options
@json_option
@pass_invocation
def verify(
    invocation: Invocation, name: str, eval_dir: Path | None, split: str, as_json: bool
) -> None:
    """The gate: is a generation whole, right and good enough?

    Compares every document and passage with the corpus, encodes a sample again and, with --eval,
    scores judged queries against the live generation. The report is kept. A ready generation that
    does not pass becomes failed. Exit code 3 when it does not pass.
    """
    from training.judgments import read_judgments

    if eval_dir is not None:
        read_judgments(eval_dir, split)
    with (
        invocation.open_existing() as data,
        Progress(f"verify {name}", quiet=invocation.quiet) as progress,
    ):
        report = _verify(data, name, eval_dir, split, progress)
        refused = [check["name"] for check in report["checks"] if not check["passed"]]
        data.catalog.keep_verification(name, report)
        state = data.catalog.get(name).state
        if refused and state == "ready":
            data.catalog.move(name, "failed", reason="; ".join(refused))
    if as_json:
        print_json(report)
    else:
        show_checks(report)
    if refused:
        raise GateRefused(
            f"{name} did not pass: {', '.join(refused)}"
            + (". It is failed now and cannot go live" if state == "ready" else "")
        )
    if not as_json and not invocation.quiet and state == "ready":
        say()
        next_steps(f"reindexer cutover {name}")


def _verify(
    data: DataDirectory, name: str, eval_dir: Path | None, split: str, progress: Progress
) -> dict[str, Any]:
    """Through the service where it has the collection open, else here."""
    from reindexer.live import RunningService, opened_here
    from search.errors import WrongState
    from search.generations import UNFINISHED

    generation = data.catalog.get(name)
    if generation.state == "pruned":
        raise WrongState(f"{name} was pruned; see `reindexer generations` for what there is")
    if generation.state in UNFINISHED:
        raise WrongState(
            f"{name} is {generation.state}: its build verifies it at the end. Run `reindexer "
            "resume` if it has stopped"
        )
    service = RunningService.find(data)
    if service is not None and service.has_open(name):
        with service:
            progress.update(state=f"by the service at {service.url}")
            report = service.verify(name)
            if eval_dir is not None:
                progress.update(state="asking judged queries")
                _add_quality(data, service.pinned_to(name).runs, name, report, eval_dir, split)
        return report
    progress.update(state="opening")
    with opened_here(data, name) as opened:
        from reindexer.verify import Verification, verify_structure

        progress.update(state="comparing with the corpus")
        checks = verify_structure(data.corpus, opened, watermark=data.catalog.get(name).watermark)
        report = Verification(generation=name, checks=tuple(checks)).to_json()
        if eval_dir is not None:
            progress.update(state="asking judged queries")
            _add_quality(data, opened.searcher.runs, name, report, eval_dir, split)
    return report


def _add_quality(
    data: DataDirectory, runs: Any, name: str, report: dict[str, Any], eval_dir: Path, split: str
) -> None:
    from reindexer.quality import compare_with_live

    check, metrics = compare_with_live(data, name, runs, eval_dir, split)
    report["checks"].append(check.to_json())
    report["metrics"] = metrics
    report["passed"] = report["passed"] and check.passed


def show_checks(report: dict[str, Any]) -> None:
    """The gate's report for people."""
    for check in report["checks"]:
        mark = click.style("ok", fg="green") if check["passed"] else click.style("NO", fg="red")
        say(f"{mark}  {check['name']:<12} {check['found']}")
        if not check["passed"]:
            say(f"{'':<16} expected {check['expected']}")
            if check["detail"]:
                say(f"{'':<16} {check['detail']}")


# -- cutover and rollback -------------------------------------------------------------------------


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


# -- prune ----------------------------------------------------------------------------------------


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
