"""The verb that proves the promises on this machine: selftest."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, VerbGroup, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import duration, next_steps, print_json, say, wrapped

if TYPE_CHECKING:
    from reindexer.selftest.proof import Proof
    from reindexer.settings import Settings

Prove = Callable[..., "Proof"]

_PROOF = (
    '{"tool", "kept", "promises": [{"name", "kept", "found", "expected", "detail": [], '
    '"of_speed"}], "figures": {…}, "seed", "seconds", "repeat"}; exit code 1 when a promise is '
    "broken"
)
_EVERY = f"a list of {_PROOF}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What every tool is asked in the same way."""

    invocation: Invocation
    seed: int
    store: str  # embedded or own
    strict: bool
    as_json: bool

    @property
    def own(self) -> Settings | None:
        """Of the installation to work beside; None for a data directory in a place of its own."""
        return self.invocation.settings if self.store == "own" else None


def _asked(function: Callable[..., None]) -> Callable[..., None]:
    """The options that all tools have; the verb gets them as one value, before its own."""

    @functools.wraps(function)
    @pass_invocation
    def verb(
        invocation: Invocation,
        /,
        *,
        seed: int,
        store: str,
        strict: bool,
        as_json: bool,
        **sizes: Any,
    ) -> None:
        asked = Asked(invocation=invocation, seed=seed, store=store, strict=strict, as_json=as_json)
        function(asked, **sizes)

    for option in (
        json_option,
        click.option(
            "--strict", is_flag=True, help="Promises of speed count too: for a quiet machine."
        ),
        click.option(
            "--store",
            type=click.Choice(["embedded", "own"]),
            default="embedded",
            show_default=True,
            help="own: the store and database of the settings, under a name of its own.",
        ),
        click.option(
            "--seed",
            type=click.IntRange(0),
            default=0,
            show_default=True,
            help="The same seed does the same again.",
        ),
    ):
        verb = option(verb)
    return verb


@click.group(
    cls=VerbGroup,
    examples=[
        "reindexer selftest",
        "reindexer selftest kill --kills 300",
        "reindexer selftest all --store own",
    ],
    json_fields=_EVERY,
)
@_asked
@click.pass_context
def selftest(context: click.Context, asked: Asked) -> None:
    """Prove the promises on this machine by breaking things.

    Works in a data directory of its own, which is gone at the end; yours is not touched. By
    itself it runs every tool on a small scale, as `selftest all` does: about three minutes.
    """
    if context.invoked_subcommand is None:
        _prove_all(asked)


@selftest.command(
    "all",
    examples=["reindexer selftest all", "reindexer selftest all --seed 7 --json"],
    json_fields=_EVERY,
)
@_asked
def all_tools(asked: Asked) -> None:
    """Every tool on a small scale: about three minutes."""
    _prove_all(asked)


@selftest.command(
    examples=["reindexer selftest kill", "reindexer selftest kill --kills 300 --seed 3"],
    json_fields=_PROOF,
)
@click.option(
    "--kills", type=click.IntRange(20), default=60, show_default=True, metavar="N", help="How many."
)
@_asked
def kill(asked: Asked, kills: int) -> None:
    """SIGKILL between any two writes: nothing is lost or done twice.

    Runs every verb twice, killed and not; then both must hold the same, row for row.
    """
    from reindexer.selftest.kill import prove_kills

    _prove(asked, prove_kills, kills=kills)


@selftest.command(
    examples=["reindexer selftest writes", "reindexer selftest writes --operations 50000"],
    json_fields=_PROOF,
)
@click.option(
    "--operations",
    type=click.IntRange(8),
    default=5_000,
    show_default=True,
    metavar="N",
    help="For each seed.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many, from --seed on.",
)
@_asked
def writes(asked: Asked, operations: int, seeds: int) -> None:
    """Four writers during everything else: no write is lost.

    Afterwards corpus, live, standby and lexical index must equal what was written.
    """
    from reindexer.selftest.writes import prove_writes

    _prove(asked, prove_writes, operations=operations, seeds=seeds)


@selftest.command(
    examples=["reindexer selftest switch", "reindexer selftest switch --switches 100 --strict"],
    json_fields=_PROOF,
)
@click.option(
    "--queries",
    type=click.IntRange(100),
    default=10_000,
    show_default=True,
    metavar="N",
    help="How many at least.",
)
@click.option(
    "--switches",
    type=click.IntRange(1),
    default=12,
    show_default=True,
    metavar="N",
    help="Cut-overs and rollbacks.",
)
@_asked
def switch(asked: Asked, queries: int, switches: int) -> None:
    """Queries over cut-overs and rollbacks: none fails, none mixes.

    Every answer is scored again by the model of the generation that it names.
    """
    from reindexer.selftest.switch import prove_switch

    _prove(asked, prove_switch, queries=queries, switches=switches)


@selftest.command(
    examples=["reindexer selftest gate", "reindexer selftest gate --healthy 100"],
    json_fields=_PROOF,
)
@click.option(
    "--documents",
    type=click.IntRange(1_000),
    default=2_000,
    show_default=True,
    metavar="N",
    help="In the corpus.",
)
@click.option(
    "--queries",
    type=click.IntRange(300),
    default=300,
    show_default=True,
    metavar="N",
    help="Judged ones; with fewer, chance alone may look like a loss.",
)
@click.option(
    "--healthy",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Generations without a fault.",
)
@_asked
def gate(asked: Asked, documents: int, queries: int, healthy: int) -> None:
    """15 planted faults: each is refused, and nothing healthy is.

    Refused for the right reason, that is, by the check that is made for it.
    """
    from reindexer.selftest.gate import prove_gate

    _prove(asked, prove_gate, documents=documents, queries=queries, healthy=healthy)


@selftest.command(
    examples=["reindexer selftest soak", "reindexer selftest soak --minutes 60"],
    json_fields=_PROOF,
)
@click.option(
    "--minutes",
    type=click.FloatRange(0.5),
    default=2.0,
    show_default=True,
    metavar="N",
    help="How long.",
)
@_asked
def soak(asked: Asked, minutes: float) -> None:
    """A service under load and kills: nothing is lost, nothing grows.

    With three upgrades, two rollbacks and a prune; then load alone for the last third.
    """
    from reindexer.selftest.soak import prove_soak

    _prove(asked, prove_soak, minutes=minutes)


def _prove(asked: Asked, prove: Prove, **sizes: Any) -> None:
    """One tool, its report, and the exit code."""
    proof = _run(asked, prove, **sizes)
    if asked.as_json:
        print_json(proof.to_json())
    else:
        _show(proof)
    _end_with([proof], asked)


def _prove_all(asked: Asked) -> None:
    from reindexer.selftest.every_tool import every_tool

    proofs = []
    for prove, sizes in every_tool():
        proofs.append(_run(asked, prove, **sizes))
        if not asked.as_json:
            _show(proofs[-1])
    if asked.as_json:
        print_json([proof.to_json() for proof in proofs])
    _end_with(proofs, asked)


def _run(asked: Asked, prove: Prove, **sizes: Any) -> Proof:
    with Progress("selftest", quiet=asked.invocation.quiet) as progress:

        def show(done: int, total: int, what: str) -> None:
            progress.update(done, total=total, state=what)

        return prove(own=asked.own, on_progress=show, seed=asked.seed, **sizes)


def _show(proof: Proof) -> None:
    say(f"{click.style(proof.tool, bold=True)}  {duration(proof.seconds)}, seed {proof.seed}")
    for promise in proof.promises:
        if promise.kept:
            mark = click.style("kept  ", fg="green")
        elif promise.of_speed:
            mark = click.style("slow  ", fg="yellow")
        else:
            mark = click.style("BROKEN", fg="red")
        say(f"  {mark}  {promise.name}: {promise.found}")
        if not promise.kept:
            indent = " " * 10
            say(wrapped(f"expected {promise.expected}", first=indent, rest=indent))
            for line in promise.detail:
                say(wrapped(line, first=indent, rest=indent))
    say()


def _end_with(proofs: list[Proof], asked: Asked) -> None:
    """Say how to see it again, and exit with 1, when something is broken."""
    broken = [proof for proof in proofs if not proof.is_kept(strict=asked.strict)]
    if not asked.as_json:
        _show_repeat(proofs, broken, asked)
    if broken:
        sys.exit(1)


def _show_repeat(proofs: list[Proof], broken: list[Proof], asked: Asked) -> None:
    if not broken:
        say("Every promise was kept." if not _slow(proofs) else "Kept, but slower than promised; "
            "that says little on a machine that does other things too.")  # fmt: skip
        return
    say("To see it again:")
    more = " --store own" if asked.store == "own" else ""
    next_steps(*(f"{proof.repeat}{more}" for proof in broken))


def _slow(proofs: list[Proof]) -> bool:
    return any(not proof.is_kept(strict=True) for proof in proofs)
