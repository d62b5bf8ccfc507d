"""Verbs on generations: generations, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    report_option,
    say_where,
)
from reindexer.errors import GateRefused
from reindexer.listings import (
    generation_facts,
    generation_json,
    generations_json,
    votes_json,
)
from reindexer.progress import Progress
from reindexer.terminal import (
    fields,
    next_steps,
    print_json,
    say,
    size,
    table,
)

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory

_GENERATION = (
    '{"generation", "state", "model", "collection", "watermark", "lag_docs", "documents", '
    '"disk_bytes", "created_at", "state_at"}'
)

_VOTES = '"votes": [{"against", "mine", "theirs", "neither"}]'


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
    examples=[
        "reindexer generations show docs@2",
        "reindexer generations show docs@2 --report gate.html",
    ],
    json_fields=_GENERATION[:-1]
    + ', "dtype": "float|int8", "recipe": {…}, "verified": {…} or null, '
    + _VOTES
    + ', "build": {…} or null, "report"}',
)
@click.argument("name", metavar="GEN")
@report_option
@json_option
@pass_invocation
def show(invocation: Invocation, name: str, report_path: Path | None, as_json: bool) -> None:
    """One generation: recipe, watermark, the gate's findings, and votes."""
    with invocation.open_existing() as data:
        generation = data.catalog.get(name)
        value = generation_json(data, name)
        pages = _write(data, name, report_path)
    if as_json:
        print_json({**value, "report": str(pages[0]) if pages else None})
        return
    say(fields(generation_facts(generation, value)))
    if value["verified"]:
        say()
        show_checks(value["verified"])
    show_votes(name, value["votes"])
    say_where(pages)


# -- verify ---------------------------------------------------------------------------------------


@click.command(
    cls=Verb,
    examples=[
        "reindexer verify docs@2",
        "reindexer verify docs@2 --eval judged/ --split test --report gate.html",
    ],
    json_fields='{"generation", "passed", "checks": [{"name", "passed", "found", "expected", '
    '"detail", "value" and "at_least" where the check is of one figure}], "metrics": {"live": {…}, '
    '"candidate": {…}, "difference": {"ndcg@10": {"mean", "low", "high"}, …}, "against", "judged": '
    '{"folder", "split", "queries"}, "changed": {"better", "worse", "alike", "gained": '
    '[{"query_id", "query", "live", "candidate"}], "lost": []}} or null, "verified_at", '
    + _VOTES
    + ', "report"}',
)
@click.argument("name", metavar="GEN")
@judgment_options
@report_option
@json_option
@pass_invocation
def verify(
    invocation: Invocation,
    name: str,
    eval_dir: Path | None,
    split: str,
    report_path: Path | None,
    as_json: bool,
) -> None:
    """The gate: is a generation whole, right and good enough?

    Compares every document and passage with the corpus, encodes a sample again and, with --eval,
    scores judged queries against the live generation. The report is kept, without the votes, which
    are counted whenever it is shown and decide nothing. A ready generation that does not pass
    becomes failed. Exit code 3 when it does not pass.
    """
    from training.judgments import read_judgments

    if eval_dir is not None:
        read_judgments(eval_dir, split)
    if report_path is not None:
        from training.extras import require

        require("matplotlib")
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
        votes = votes_json(data, name)
        pages = _write(data, name, report_path)
    if as_json:
        print_json({**report, "votes": votes, "report": str(pages[0]) if pages else None})
    else:
        show_checks(report)
        show_votes(name, votes)
        say_where(pages)
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


def _write(data: DataDirectory, name: str, path: Path | None) -> tuple[Path, Path] | None:
    if path is None:
        return None
    from reindexer.gate_report import write_gate_report

    return write_gate_report(data, name, path)


def show_votes(name: str, votes: Sequence[Mapping[str, Any]]) -> None:
    """One line for each generation that it was compared with."""
    for row in votes:
        say(
            f"votes {row['mine']:,} for {name}, {row['theirs']:,} for {row['against']}, "
            f"{row['neither']:,} for neither; the gate does not count them"
        )


def show_checks(report: dict[str, Any]) -> None:
    """The gate's report for people."""
    for check in report.get("checks", []):
        mark = click.style("ok", fg="green") if check["passed"] else click.style("NO", fg="red")
        say(f"{mark}  {check['name']:<12} {check['found']}")
        if not check["passed"]:
            say(f"{'':<16} expected {check['expected']}")
            if check["detail"]:
                say(f"{'':<16} {check['detail']}")
