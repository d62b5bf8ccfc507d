"""Verbs on generations: generations, verify."""

from __future__ import annotations

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
)
from reindexer.errors import GateRefused
from reindexer.listings import generation_json, generations_json
from reindexer.progress import Progress
from reindexer.terminal import (
    count,
    duration,
    fields,
    next_steps,
    print_json,
    say,
    size,
    table,
    when,
)

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory

_GENERATION = (
    '{"generation", "state", "model", "collection", "watermark", "lag_docs", "documents", '
    '"disk_bytes", "created_at", "state_at"}'
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
        found = generations_json(data)
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
    + ', "dtype": "float|int8", "recipe": {…}, "verified": {…} or null, "build": {…} or null}',
)
@click.argument("name", metavar="GEN")
@json_option
@pass_invocation
def show(invocation: Invocation, name: str, as_json: bool) -> None:
    """One generation: recipe, watermark, and what the gate found."""
    with invocation.open_existing() as data:
        generation = data.catalog.get(name)
        value = generation_json(data, name)
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
                (
                    "fingerprint",
                    recipe["fingerprint"][:16]
                    + (", rows in 8-bit integers" if value["dtype"] == "int8" else ""),
                ),
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
                ("fusion", generation.recipe.fusion.in_words),
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
    from reindexer.live import opened_here
    from reindexer.running_service import RunningService
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
    with RunningService.found(data) as service:
        if service is not None and service.has_open(name):
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
        watermark = opened.generation.watermark  # as of before the lexical half was read
        checks = verify_structure(data.corpus, opened, watermark=watermark)
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
