"""The verb that says what to do next: advise."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation, split_option
from reindexer.progress import Progress
from reindexer.terminal import (
    count,
    duration,
    fields,
    next_steps,
    print_json,
    say,
    wrapped,
)

if TYPE_CHECKING:
    from reindexer.advising import Measured
    from training.advice import Advice


@click.command(
    cls=Verb,
    examples=[
        "reindexer advise judged/ --split test",
        "reindexer advise judged/ --pairs pairs.jsonl --target 0.75",
        "reindexer advise judged/ --model sentence-transformers/all-MiniLM-L6-v2 --json",
    ],
    json_fields='{"recommendation": "off-the-shelf|tune retrieval first|generate data first|'
    'fine-tune|fine-tune and improve retrieval", "reasons": [], "target", "gap", '
    '"gap_after_tuning", "expected": {"low", "high"}|null, "thresholds": {"gap", '
    '"retrieval_gain", "pairs_for_effect", "pairs_to_start", "pairs_for_strong", "queries"}, '
    '"measured": {"lexical", "dense", "hybrid", "tuned", "current", "found"}, "queries", '
    '"generation", "model", "pairs", "reindex": {"documents", "docs_per_s", "hours"}, "next": [], '
    '"seconds"}; all figures are nDCG@10, found is the share of relevant documents among the first '
    "100 of either leg",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@split_option("test")
@click.option(
    "--target",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.8,
    show_default=True,
    metavar="X",
    help="The nDCG@10 that is wanted.",
)
@click.option(
    "--pairs",
    "pairs_ref",
    metavar="FILE",
    help="Training pairs at hand; unless given, what the folder's other splits judge.",
)
@click.option(
    "--model",
    metavar="REF",
    help="Measure this model on the folder's own corpus instead of the live generation.",
)
@json_option
@pass_invocation
def advise(
    invocation: Invocation,
    folder: Path,
    split: str,
    target: float,
    pairs_ref: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Say whether fine-tuning is worth it, and what comes first.

    Measures BM25, dense, plain and fitted hybrid on judged queries, and what encoding the corpus
    again would take. DIR is a BEIR folder. With --model the folder's corpus.jsonl is encoded, which
    takes as long as it is large, and no data directory is needed.
    """
    from training.judgments import read_judgments

    began = time.monotonic()
    judgments = read_judgments(folder, split)
    with (
        invocation.open() if model is not None else invocation.open_existing() as data,
        Progress("advise", quiet=invocation.quiet) as progress,
    ):
        progress.update(state="reading")
        from reindexer.advising import judged_pairs, measure_folder, measure_live
        from training.advice import advise as advise_on

        n_pairs = _count(pairs_ref) if pairs_ref is not None else judged_pairs(folder, judgments)
        if model is None:
            measured = measure_live(data, progress, judgments)
        else:
            measured = measure_folder(data, progress, folder, judgments, model)
    advice = advise_on(measured.baseline, pairs=n_pairs, target=target, reindex=measured.reindex)
    commands = _commands(advice, measured, folder, split, pairs_ref)
    seconds = round(time.monotonic() - began, 3)
    if as_json:
        print_json({**_json(advice, measured, n_pairs), "next": commands, "seconds": seconds})
        return
    _show(advice, measured, folder.name, split, seconds)
    if not invocation.quiet and commands:
        say()
        next_steps(*commands)


def _count(pairs_ref: str) -> int:
    from training.pairs import read_pairs

    return len(read_pairs(pairs_ref))


def _json(advice: Advice, measured: Measured, n_pairs: int) -> dict[str, Any]:
    baseline, reindex = measured.baseline, measured.reindex
    return {
        **advice.to_json(),
        "measured": {
            name: round(getattr(baseline, name), 4)
            for name in ("lexical", "dense", "hybrid", "tuned", "current", "found")
        },
        "queries": baseline.queries,
        "generation": measured.generation,
        "model": measured.model,
        "pairs": n_pairs,
        "reindex": {
            "documents": reindex.documents,
            "docs_per_s": round(reindex.docs_per_s, 1),
            "hours": round(reindex.seconds / 3_600, 3),
        },
    }


def _show(advice: Advice, measured: Measured, folder: str, split: str, seconds: float) -> None:
    where = measured.generation or "the folder alone"
    n_queries = count(measured.baseline.queries, "judged query")
    say(f"{where} ({measured.model}) on {n_queries} of {folder}/{split}, {duration(seconds)}\n")
    say(click.style(advice.recommendation[0].upper() + advice.recommendation[1:], bold=True))
    say()
    for reason in advice.reasons:
        say(wrapped(reason[0].upper() + reason[1:] + ".", first="  ", rest="  "))
    if advice.expected is not None:
        low, high = advice.expected
        expected = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
        say("\n" + fields([("expected", f"nDCG@10 {expected}")], indent="  "))


def _commands(
    advice: Advice, measured: Measured, folder: Path, split: str, pairs_ref: str | None
) -> list[str]:
    """What to type next, in order; the cheap step comes before the dear one."""
    kind = advice.recommendation
    commands = []
    if kind in ("tune retrieval first", "fine-tune and improve retrieval") or (
        kind == "generate data first" and advice.gap_after_tuning < advice.gap
    ):
        if measured.generation is None:
            commands += [f"reindexer ingest {folder}", f"reindexer upgrade {measured.model}"]
        commands.append(f"reindexer tune {folder} --split {split}")
    if kind == "generate data first":
        source = "" if measured.generation is not None else f"{folder} "
        commands.append(f"reindexer pairs build {source}--llm-model NAME -o pairs.jsonl")
    if kind in ("fine-tune", "fine-tune and improve retrieval"):
        pairs = pairs_ref or "pairs.jsonl"
        if pairs_ref is None:
            commands.append(f"reindexer pairs build {folder} -o {pairs}")
        commands.append(
            f"reindexer train {pairs} --base {measured.model} --name NAME --eval {folder}"
        )
    return commands
