"""The verb that asks: search."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import (
    fields,
    print_json,
    say,
    terminal_width,
    warn,
    wrapped,
)

Mode = Literal["hybrid", "dense", "lexical"]
TITLE_LINES = 2
SNIPPET_LINES = 3
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
