"""The verb that proves the promises on this machine: selftest."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from reindexer.cli_verb import Invocation, VerbGroup, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import duration, next_steps, print_json, say, wrapped

if TYPE_CHECKING:
    from reindexer.selftest.proof import Proof
    from reindexer.settings import Settings

Function = TypeVar("Function", bound=Callable[..., Any])
Prove = Callable[..., "Proof"]

_PROOF = (
    '{"tool", "kept", "promises": [{"name", "kept", "found", "expected", "detail": [], '
    '"of_speed"}], "figures": {…}, "seed", "seconds", "repeat"}; exit code 1 when a promise is '
    "broken"
)
_EVERY = f"a list of {_PROOF}"


def _common_options(function: Function) -> Function:
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
        function = option(function)
    return function


@click.group(
    cls=VerbGroup,
    examples=[
        "reindexer selftest",
        "reindexer selftest kill --kills 300",
        "reindexer selftest all --store own",
    ],
    json_fields=_EVERY,
)
@_common_options
@pass_invocation
@click.pass_context
def selftest(
    context: click.Context,
    invocation: Invocation,
    seed: int,
    store: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Prove the promises on this machine by breaking things.

    Works in a data directory of its own, which is gone at the end; yours is not touched. By
    itself it runs every tool on a small scale, as `selftest all` does: about three minutes.
    """
    if context.invoked_subcommand is None:
        _prove_all(invocation, seed, store, strict, as_json)


@selftest.command(
    "all",
    examples=["reindexer selftest all", "reindexer selftest all --seed 7 --json"],
    json_fields=_EVERY,
)
@_common_options
@pass_invocation
def all_tools(invocation: Invocation, seed: int, store: str, strict: bool, as_json: bool) -> None:
    """Every tool on a small scale: about three minutes."""
    _prove_all(invocation, seed, store, strict, as_json)


@selftest.command(
    examples=["reindexer selftest kill", "reindexer selftest kill --kills 300 --seed 3"],
    json_fields=_PROOF,
)
@click.option(
    "--kills", type=click.IntRange(1), default=60, show_default=True, metavar="N", help="How many."
)
@_common_options
@pass_invocation
def kill(
    invocation: Invocation, kills: int, seed: int, store: str, strict: bool, as_json: bool
) -> None:
    """SIGKILL between any two writes: nothing is lost or done twice.

    Runs every verb twice, killed and not; then both must hold the same, row for row.
    """
    from reindexer.selftest.kill import prove_kills

    _prove(invocation, prove_kills, store, strict, as_json, kills=kills, seed=seed)


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
@_common_options
@pass_invocation
def writes(
    invocation: Invocation,
    operations: int,
    seeds: int,
    seed: int,
    store: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Four writers during everything else: no write is lost.

    Afterwards corpus, live, standby and lexical index must equal what was written.
    """
    from reindexer.selftest.writes import prove_writes

    _prove(
        invocation,
        prove_writes,
        store,
        strict,
        as_json,
        operations=operations,
        seeds=seeds,
        seed=seed,
    )


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
@_common_options
@pass_invocation
def switch(
    invocation: Invocation,
    queries: int,
    switches: int,
    seed: int,
    store: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Queries over cut-overs and rollbacks: none fails, none mixes.

    Every answer is scored again by the model of the generation that it names.
    """
    from reindexer.selftest.switch import prove_switch

    _prove(
        invocation,
        prove_switch,
        store,
        strict,
        as_json,
        queries=queries,
        switches=switches,
        seed=seed,
    )


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
@_common_options
@pass_invocation
def gate(
    invocation: Invocation,
    documents: int,
    queries: int,
    healthy: int,
    seed: int,
    store: str,
    strict: bool,
    as_json: bool,
) -> None:
    """14 planted faults: each is refused, and nothing healthy is.

    Refused for the right reason, that is, by the check that is made for it.
    """
    from reindexer.selftest.gate import prove_gate

    _prove(
        invocation,
        prove_gate,
        store,
        strict,
        as_json,
        documents=documents,
        queries=queries,
        healthy=healthy,
        seed=seed,
    )


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
@_common_options
@pass_invocation
def soak(
    invocation: Invocation, minutes: float, seed: int, store: str, strict: bool, as_json: bool
) -> None:
    """A service under load and kills: nothing is lost, nothing grows.

    With three upgrades, two rollbacks and a prune; then load alone for the last third.
    """
    from reindexer.selftest.soak import prove_soak

    _prove(invocation, prove_soak, store, strict, as_json, minutes=minutes, seed=seed)


def _prove(
    invocation: Invocation, prove: Prove, store: str, strict: bool, as_json: bool, **sizes: Any
) -> None:
    """One tool, its report, and the exit code."""
    proof = _run(invocation, prove, _own(invocation, store), **sizes)
    if as_json:
        print_json(proof.to_json())
    else:
        _show(proof)
        _show_repeat([proof], store, strict)
    if not proof.is_kept(strict=strict):
        sys.exit(1)


def _prove_all(invocation: Invocation, seed: int, store: str, strict: bool, as_json: bool) -> None:
    from reindexer.selftest.every_tool import every_tool

    own = _own(invocation, store)
    proofs = []
    for prove, sizes in every_tool():
        proofs.append(_run(invocation, prove, own, seed=seed, **sizes))
        if not as_json:
            _show(proofs[-1])
    if as_json:
        print_json([proof.to_json() for proof in proofs])
    else:
        _show_repeat(proofs, store, strict)
    if not all(proof.is_kept(strict=strict) for proof in proofs):
        sys.exit(1)


def _run(invocation: Invocation, prove: Prove, own: Settings | None, **sizes: Any) -> Proof:
    signal.signal(signal.SIGTERM, _end)  # so that the sandbox is removed then too
    with Progress("selftest", quiet=invocation.quiet) as progress:

        def show(done: int, total: int, what: str) -> None:
            progress.update(done, total=total, state=what)

        proof = prove(own=own, on_progress=show, **sizes)
    return proof


def _end(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _own(invocation: Invocation, store: str) -> Settings | None:
    return invocation.settings if store == "own" else None


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


def _show_repeat(proofs: list[Proof], store: str, strict: bool) -> None:
    broken = [proof for proof in proofs if not proof.is_kept(strict=strict)]
    if not broken:
        say("Every promise was kept." if not _slow(proofs) else "Kept, but slower than promised; "
            "that says little on a machine that does other things too.")  # fmt: skip
        return
    say("To see it again:")
    more = " --store own" if store == "own" else ""
    next_steps(*(f"{proof.repeat}{more}" for proof in broken))


def _slow(proofs: list[Proof]) -> bool:
    return any(not proof.is_kept(strict=True) for proof in proofs)
