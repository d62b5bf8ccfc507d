"""The verb pairs audit."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reindexer.cli_verb import (
    Invocation,
    Verb,
    json_option,
    pass_invocation,
)
from reindexer.progress import Progress
from reindexer.terminal import (
    next_steps,
    print_json,
    say,
    table,
    warn,
)

if TYPE_CHECKING:
    from training.audit import NoiseEstimate
    from training.pairs import Pair

SHOWN_SUSPECTS = 10
SHOWN_CHARACTERS = 32


@click.command(
    "audit",
    cls=Verb,
    examples=[
        "reindexer pairs audit pairs.jsonl --base support",
        "reindexer pairs audit pairs.jsonl --base support --sheet audit.html",
        "reindexer pairs audit pairs.jsonl --verdicts verdicts.csv",
    ],
    json_fields='{"pairs", "pairs_total", "base", "noise": {"share", "low", "high", "method", '
    '"sampled"}|null, "cross_encoder": {…}|null, "high", "suspects": [{"pair", "rank", "anchor", '
    '"positive", "doc_id"}], "sheet", "verdicts": {"share", "low", "high", "judged", "unsure", '
    '"open"}|null, "seconds"}',
)
@click.argument("file", metavar="PAIRS")
@click.option("--base", metavar="REF", help="The model that looks for mismatched pairs.")
@click.option(
    "--cross-encoder", metavar="REF", help="Ask this model as well: slower, and it knows better."
)
@click.option(
    "--sheet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a sample for a person: .html with buttons, or .csv.",
)
@click.option(
    "--sample",
    type=click.IntRange(3),
    default=50,
    show_default=True,
    metavar="N",
    help="Pairs on the sheet.",
)
@click.option(
    "--verdicts",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The sheet as CSV when a person has judged it.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of what is drawn.")
@json_option
@pass_invocation
def audit(
    invocation: Invocation,
    file: str,
    base: str | None,
    cross_encoder: str | None,
    sheet: Path | None,
    sample: int,
    verdicts: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Estimate how many pairs do not belong together.

    The base model ranks each positive among random others, on a sample of 500 pairs: the share that
    ranks in the lowest three tenths, divided by 0.3, is the share of mismatched pairs. A positive
    that is wrong but close it cannot tell; a person can, on the sheet. Over 10 % the pairs need
    repair before training.
    """
    if base is None and verdicts is None:
        raise click.UsageError(
            "name the model that looks at the pairs with --base REF, or give --verdicts FILE"
        )
    if base is None and (sheet is not None or cross_encoder is not None):
        raise click.UsageError("--sheet and --cross-encoder need --base REF")
    from training.audit import NOISE_WARNING, matching, sample_for_a_person
    from training.audit_sheet import read_verdicts, write_sheet
    from training.pairs import read_pairs

    began = time.monotonic()
    by_person = read_verdicts(verdicts) if verdicts is not None else None
    with Progress(f"audit {file}", quiet=invocation.quiet) as progress:
        progress.update(state="reading")
        found = read_pairs(file)
        by_model = by_cross = None
        if base is not None:
            matching(found)  # too few is said before a model is loaded
            by_model = _base_estimate(invocation, progress, found, base, seed)
            if cross_encoder is not None:
                by_cross = _cross_estimate(invocation, progress, found, cross_encoder, seed)
            if sheet is not None:
                drawn = sample_for_a_person(by_model, found, size=sample, seed=seed)
                write_sheet(sheet, drawn, title=f"{Path(file).name}: do these belong together?")
    # A person knows better than a model, and a model that reads both texts better than one
    # that does not.
    best = by_person or by_cross or by_model
    assert best is not None
    suspects = (by_cross or by_model).suspects if by_model is not None else []
    value = {
        "pairs": file,
        "pairs_total": len(found),
        "base": base,
        "noise": by_model.to_json() if by_model is not None else None,
        "cross_encoder": by_cross.to_json() if by_cross is not None else None,
        "high": best.is_high,
        "suspects": [
            {
                "pair": at + 1,
                "rank": round(rank, 4),
                "anchor": found[at].anchor,
                "positive": found[at].positive,
                "doc_id": found[at].doc_id,
            }
            for at, rank in suspects
        ],
        "sheet": str(sheet) if sheet is not None else None,
        "verdicts": by_person.to_json() if by_person is not None else None,
        "seconds": round(time.monotonic() - began, 3),
    }
    if as_json:
        print_json(value)
    else:
        for name, estimate in (
            (f"by {base}", by_model),
            (f"by {cross_encoder}", by_cross),
            ("by a person", by_person),
        ):
            if estimate is not None:
                say(
                    f"mismatched {name}: {estimate.share:.1%} of the pairs (95 % interval "
                    f"{estimate.low:.1%} to {estimate.high:.1%})"
                )
        if suspects:
            say()
            rows = [
                (at + 1, f"{rank:.0%}", _cut(found[at].anchor), _cut(found[at].positive))
                for at, rank in suspects[:SHOWN_SUSPECTS]
            ]
            say(table(("pair", "beats", "anchor", "positive"), rows))
            if len(suspects) > len(rows):
                say(f"and {len(suspects) - len(rows):,} more; --json lists them")
    if best.is_high:
        warn(
            f"more than {NOISE_WARNING:.0%} of the pairs seem mismatched; training learns them. "
            "Look at the suspects, and repair what makes them before you train"
        )
    if as_json or invocation.quiet:
        return
    if sheet is not None:
        next_steps(
            f"open {sheet} in a browser or a spreadsheet, judge, and save as CSV",
            f"reindexer pairs audit {file} --verdicts verdicts.csv",
        )
    elif by_person is None:
        next_steps(f"reindexer pairs audit {file} --base {base} --sheet audit.html")
    else:
        next_steps(f"reindexer pairs split {file} -o split/")


def _base_estimate(
    invocation: Invocation, progress: Progress, found: Sequence[Pair], base: str, seed: int
) -> NoiseEstimate:
    with invocation.open() as data:
        progress.update(state=f"loading {base}")
        from reindexer.recipes import find_model
        from training.audit import estimate_noise

        encoder = data.load_encoder(str(find_model(data, base)))
        progress.update(state="encoding a sample")
        return estimate_noise(encoder, found, seed=seed)


def _cross_estimate(
    invocation: Invocation, progress: Progress, found: Sequence[Pair], ref: str, seed: int
) -> NoiseEstimate:
    progress.update(state=f"loading {ref}")
    from training.audit import estimate_noise_by_cross_encoder
    from training.cross_encoder import PairScorer

    scorer = PairScorer(ref, device=invocation.settings.device)
    progress.update(state="reading pairs together")
    return estimate_noise_by_cross_encoder(scorer.scores, found, seed=seed)


def _cut(text: str) -> str:
    return textwrap.shorten(text, SHOWN_CHARACTERS, placeholder="…")
