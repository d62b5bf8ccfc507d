"""The verb that looks at everything: doctor."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import count, next_steps, print_json, say, wrapped

if TYPE_CHECKING:
    from reindexer.findings import Finding

_COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


@click.command(
    cls=Verb,
    examples=["reindexer doctor", "reindexer doctor --deep", "reindexer doctor --fix"],
    json_fields='{"healthy", "findings": [{"name", "state": "ok|warning|problem", "found", '
    '"advice", "fixable"}], "fixed": [{"name", "done"}]}; exit code 1 when there is a problem',
)
@click.option(
    "--deep",
    is_flag=True,
    help="Look through any number of vectors, ask a running service to, and encode a sample again.",
)
@click.option(
    "--fix",
    is_flag=True,
    help="Put right what can be put right without a loss, then look again.",
)
@json_option
@pass_invocation
def doctor(invocation: Invocation, deep: bool, fix: bool, as_json: bool) -> None:
    """Find what is wrong and say how to put it right.

    Compares every stored vector with its text and model, which finds a single foreign one. With
    --fix it moves a stale alias, finishes an interrupted prune and makes a damaged lexical index
    again.
    """
    from reindexer.doctor import diagnose, repair

    with Progress("doctor", quiet=invocation.quiet) as progress:

        def look() -> list[Finding]:
            return diagnose(
                invocation.settings, deep=deep, on_step=lambda step: progress.update(state=step)
            )

        findings, fixed = look(), list[tuple[str, str]]()
        if fix and any(finding.fix is not None for finding in findings):
            progress.update(state="putting things right")
            fixed = repair(invocation.settings, findings)
            findings = look()
    problems = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        print_json(
            {
                "healthy": not problems,
                "findings": [finding.to_json() for finding in findings],
                "fixed": [{"name": name, "done": done} for name, done in fixed],
            }
        )
    else:
        _show(findings, fixed, n_problems=len(problems))
    if problems:
        sys.exit(1)


def _show(findings: list[Finding], fixed: list[tuple[str, str]], *, n_problems: int) -> None:
    indent = " " * 9
    for name, done in fixed:
        say(wrapped(done, first=f"{click.style('fixed   ', fg='green')} {name}: ", rest=indent))
    for finding in findings:
        mark = click.style(finding.state.ljust(8), fg=_COLOURS[finding.state])
        say(f"{mark} {finding.name}: {finding.found}")
        if finding.advice:
            say(wrapped(finding.advice, first=indent, rest=indent))
    say()
    say(f"{count(n_problems, 'problem')}." if n_problems else "No problem found.")
    if any(finding.fix is not None for finding in findings):
        next_steps("reindexer doctor --fix")
