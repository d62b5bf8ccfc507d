"""Verbs that ask: search, evaluate."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import (
    count,
    duration,
    fields,
    next_steps,
    print_json,
    say,
    table,
    terminal_width,
    warn,
    wrapped,
)

if TYPE_CHECKING:
    from training.probes import Task

Mode = Literal["hybrid", "dense", "lexical"]
MODES: tuple[Mode, ...] = ("lexical", "dense", "hybrid")
DEPTH = 100
TITLE_LINES = 2
SNIPPET_LINES = 3
SHOWN_METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")
MIN_STEM = 4  # letters of a query word that a matched word begins with


@click.command(
    cls=Verb,
    examples=[
        'reindexer search "who approves a refund"',
        'reindexer search "rate limits" -k 3 --mode lexical --filter lang=en --filter "year>=2020"',
        'reindexer search "rate limits" --generation docs@1 --explain',
    ],
    json_fields='{"query", "mode", "generation", "model", "degraded": [], "took_ms": {"encode", '
    '"lexical", "dense", "fuse", "hydrate", "total"}, "hits": [{"rank", "doc_id", "score", '
    '"title", "snippet", "metadata", "lexical_rank", "dense_rank"}]}; --explain adds to each hit '
    '"lexical_score", "dense_score", "contributions", "weights", "passage", "seq"',
)
@click.argument("query")
@click.option(
    "-k", default=10, show_default=True, type=click.IntRange(1, 1_000), metavar="N", help="Hits."
)
@click.option(
    "--mode", type=click.Choice(["hybrid", "dense", "lexical"]), default="hybrid", show_default=True
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="FIELD=VALUE",
    help="On metadata; also a|b, >=3, 1..5. Repeat it: all must hold.",
)
@click.option("--generation", metavar="GEN", help="Ask this generation instead of the live one.")
@click.option("--explain", is_flag=True, help="Show how each hit came to its place.")
@json_option
@pass_invocation
def search(
    invocation: Invocation,
    query: str,
    k: int,
    mode: Mode,
    filters: tuple[str, ...],
    generation: str | None,
    explain: bool,
    as_json: bool,
) -> None:
    """Ask the live generation.

    Goes through the service when one runs. Without one the generation is opened for this one
    query, which takes a few seconds for the model; recent changes are brought in first.
    """
    from search.documents import parse_filter
    from search.errors import InvalidQuery

    try:
        where = parse_filter(filters)
    except InvalidQuery as error:
        raise click.UsageError(str(error)) from error
    from reindexer.live import open_live
    from search.searcher import SearchRequest

    try:
        request = SearchRequest(query=query, k=k, mode=mode, where=where, explain=explain)
    except InvalidQuery as error:
        raise click.UsageError(str(error)) from error
    with (
        invocation.open_existing() as data,
        Progress("search", quiet=invocation.quiet) as progress,
        open_live(data, generation, on_wait=lambda text: progress.update(state=text)) as live,
    ):
        answer = live.search(request)
    if as_json:
        print_json(answer)
    else:
        _show_answer(answer, explain=explain)


def _show_answer(answer: Mapping[str, Any], *, explain: bool) -> None:
    took = answer["took_ms"]["total"]
    head = f"{answer['generation']} ({answer['model']}), {answer['mode']}, {took:.1f} ms"
    say(click.style(head, dim=True))
    for part in answer["degraded"]:
        reason = answer.get("problems", {}).get(part, "it failed")
        warn(f"answered without the {part} part: {reason}")
    if not answer["hits"]:
        say("\nNo document matches. Try other words, --mode dense, or fewer --filter.")
    pattern = _matching(answer["query"])
    for hit in answer["hits"]:
        say()
        _show_hit(hit, pattern, explain=explain)


def _show_hit(hit: Mapping[str, Any], pattern: re.Pattern[str] | None, *, explain: bool) -> None:
    ranks = [
        f"{leg} {hit[f'{leg}_rank']}"
        for leg in ("lexical", "dense")
        if hit[f"{leg}_rank"] is not None
    ]
    indent = " " * 4
    title = " ".join((hit["title"] or hit["doc_id"]).split())
    head, *more = wrapped(title, first=f"{hit['rank']:>2}. ", rest=indent).splitlines()
    say("\n".join(click.style(line, bold=True) for line in [head, *more[: TITLE_LINES - 1]]))
    about = [hit["doc_id"]] if hit["title"] else []
    about += [", ".join(ranks), f"score {hit['score']:.4f}"]
    say(indent + click.style("  ".join(part for part in about if part), dim=True))
    text = wrapped(" ".join(hit["snippet"].split()), first=indent, rest=indent)
    lines = text.splitlines()
    if len(lines) > SNIPPET_LINES:
        lines = lines[:SNIPPET_LINES]
        lines[-1] = lines[-1][: terminal_width() - 2] + " …"
    for line in lines:
        say(pattern.sub(_mark, line) if pattern is not None else line)
    if explain:
        say(fields(_explanation(hit), indent=indent))


def _explanation(hit: Mapping[str, Any]) -> list[tuple[str, Any]]:
    parts = ", ".join(
        f"{leg} {value:.5f} (weight {hit['weights'][leg]:g})"
        for leg, value in hit["contributions"].items()
    )
    metadata = ", ".join(f"{name}={value}" for name, value in hit["metadata"].items())
    return [
        ("BM25", f"{hit['lexical_score']:.3f}" if hit["lexical_score"] is not None else None),
        ("cosine", f"{hit['dense_score']:.4f}" if hit["dense_score"] is not None else None),
        ("added", parts),
        ("passage", str(hit["passage"]) if hit["passage"] is not None else None),
        ("seq", hit["seq"]),
        ("metadata", metadata),
    ]


def _matching(query: str) -> re.Pattern[str] | None:
    """Words that begin like a word of the query: what stemming would find, nearly."""
    words = {word for word in re.findall(r"\w+", query) if len(word) > 2}
    stems = {word[: max(MIN_STEM, len(word) - 2)] for word in words}
    if not stems:
        return None
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(stems)))})\w*", re.IGNORECASE)


def _mark(found: re.Match[str]) -> str:
    return click.style(found[0], fg="green", bold=True)


# -- evaluate -------------------------------------------------------------------------------------


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
@click.option("--split", default="test", show_default=True, help="Which of the folder's qrels.")
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
