"""The verb that scores: evaluate."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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
    table,
    warn,
)

if TYPE_CHECKING:
    from training.probes import Task

Mode = Literal["hybrid", "dense", "lexical"]
MODES: tuple[Mode, ...] = ("lexical", "dense", "hybrid")
SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")


@click.command(
    cls=Verb,
    examples=[
        "reindexer evaluate judged/ --split test",
        "reindexer evaluate judged/ --mode lexical,dense,hybrid --json",
        "reindexer evaluate judged/ --model support@4 --dims 256,128",
        "reindexer evaluate questions/ --model support@4 --task duplicates",
    ],
    json_fields='{"queries", "generation", "model", "metrics": {"hybrid": {"ndcg@10", …}, …}, '
    '"slices": {"hybrid": {NAME: {"queries", "ndcg@10", …}, …}}, "fusion": {…}, '
    '"missing_documents", "seconds"}; a generation with a fitted fusion gets "hybrid-rrf" beside '
    '"hybrid": what plain RRF would give; generation is null with --model; --dims '
    'adds "dense:256" and so on to the metrics; --task prints {"model", "task", '
    '"metrics": {"f1", …}, "counts", "seed", "seconds"}',
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@split_option("test")
@click.option(
    "--mode",
    "mode_text",
    default="hybrid",
    show_default=True,
    metavar="M,M",
    help="lexical, dense, hybrid; several with commas.",
)
@click.option("--generation", metavar="GEN", help="Score this generation instead of the live one.")
@click.option(
    "--model", metavar="REF", help="Score an encoder on the folder alone: exact, without BM25."
)
@click.option(
    "--dims",
    "dims_text",
    metavar="N,N",
    help="With --model: also the first N dimensions of its vectors.",
)
@click.option(
    "--task",
    type=click.Choice(["retrieval", "duplicates", "clustering", "classification"]),
    default="retrieval",
    show_default=True,
    help="With --model: another use of its vectors.",
)
@click.option(
    "--seed", default=0, show_default=True, help="Of --task: cuts its files, begins clusters."
)
@json_option
@pass_invocation
def evaluate(
    invocation: Invocation,
    folder: Path,
    split: str,
    mode_text: str,
    generation: str | None,
    model: str | None,
    dims_text: str | None,
    task: Literal["retrieval", "duplicates", "clustering", "classification"],
    seed: int,
    as_json: bool,
) -> None:
    """Score the live generation on judged queries.

    DIR is a BEIR folder: queries.jsonl, qrels/SPLIT.tsv and, for --model, corpus.jsonl. The judged
    documents must be in the corpus; those that are not count as not found. Queries that carry
    "slice" (a name or a list) or "metadata" (an object) are also scored slice by slice. Hybrid is
    what the generation does; where its fusion was fitted, plain rank fusion stands beside it.

    With --task, DIR holds JSON Lines: duplicates.jsonl with {"text1", "text2", "duplicate"},
    clustering.jsonl or classification.jsonl with {"text", "label"}. Parts can be files of their
    own: duplicates.dev.jsonl and .test.jsonl, classification.train.jsonl and .test.jsonl.
    """
    modes, dims = _modes(mode_text), parse_dims(dims_text)
    if model is not None and generation is not None:
        raise click.UsageError("--model scores an encoder alone; leave out --generation")
    if model is None and (dims or task != "retrieval"):
        raise click.UsageError("--dims and --task are about an encoder alone; name it with --model")
    if model is not None and task != "retrieval":
        _evaluate_task(invocation, folder, task, model, seed, as_json=as_json)
        return
    from training.judgments import read_judgments

    began = time.monotonic()
    judgments = read_judgments(folder, split)
    if model is not None:
        from reindexer.model_scores import score_model

        with invocation.open() as data, Progress("evaluate", quiet=invocation.quiet) as progress:
            report = score_model(data, progress, folder, split, model, dims=dims)
    else:
        from reindexer.generation_scores import score_generation

        with (
            invocation.open_existing() as data,
            Progress("evaluate", quiet=invocation.quiet) as progress,
        ):
            report = score_generation(data, progress, judgments, modes, generation)
    report = {
        "queries": len(judgments.queries),
        **report,
        "seconds": round(time.monotonic() - began, 3),
    }
    if report["missing_documents"]:
        warn(
            f"{count(report['missing_documents'], 'relevant document')} not in the corpus, so no "
            "generation can find them; bring them in with `reindexer ingest DIR`"
        )
    if as_json:
        print_json(report)
        return
    where = report["generation"] or "the encoder alone"
    say(
        f"{where} ({report['model']}) on {count(report['queries'], 'query')} of "
        f"{folder.name}/{split}, {duration(report['seconds'])}\n"
    )
    rows = [
        (name, *(f"{values[metric]:.4f}" for metric in SHOWN_METRICS))
        for name, values in report["metrics"].items()
    ]
    say(table(("", *SHOWN_METRICS), rows))
    for mode, slices in report["slices"].items():
        say()
        rows = [
            (f"{mode}, {name}", means["queries"], *(f"{means[item]:.4f}" for item in SHOWN_METRICS))
            for name, means in slices.items()
        ]
        say(table(("slice", "queries", *SHOWN_METRICS), rows))
    if model is None:
        _say_fusion(report["fusion"])
    if not invocation.quiet and model is None:
        say()
        next_steps(f"reindexer upgrade MODEL --eval {folder} --split {split}")


def _say_fusion(fusion: Mapping[str, Any]) -> None:
    fitted = fusion["fitted"]
    if fitted is None:
        return
    say(f"\nThe fusion was fitted: {fusion['in_words']}.")
    if fitted["on_these_queries"]:
        say("Fitted on these very queries: expect a little less on others, or take another split.")


def _evaluate_task(
    invocation: Invocation, folder: Path, task: Task, model: str, seed: int, *, as_json: bool
) -> None:
    from reindexer.model_scores import probe_model

    began = time.monotonic()
    with invocation.open() as data, Progress(task, quiet=invocation.quiet) as progress:
        report = probe_model(data, progress, folder, task, model, seed=seed)
    report = {**report, "seconds": round(time.monotonic() - began, 3)}
    if as_json:
        print_json(report)
        return
    counts = ", ".join(f"{n:,} {name}" for name, n in report["counts"].items())
    say(f"{report['model']} on {task} of {folder.name} ({counts}), {duration(report['seconds'])}\n")
    say(fields([(name, f"{value:.4f}") for name, value in report["metrics"].items()]))


def parse_dims(text: str | None) -> list[int]:
    """`256,128` as numbers; what is none is a usage error."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise click.UsageError(f"--dims {text!r}: expected numbers with commas between")
    return [int(part) for part in parts]


def _modes(text: str) -> list[Mode]:
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in chosen if part not in MODES]
    if unknown or not chosen:
        raise click.UsageError(f"--mode {text!r}: expected {', '.join(MODES)}, with commas between")
    return [mode for mode in MODES if mode in chosen]
