"""The verb pairs build."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from reindexer.cli_synthesis import build_with_llm, show_written
from reindexer.cli_synthesis_options import check_no_other_source, synthesis_options
from reindexer.cli_verb import (
    Invocation,
    NothingHere,
    Verb,
    json_option,
    pass_invocation,
)
from reindexer.progress import Progress
from reindexer.terminal import (
    count,
    duration,
    next_steps,
    note,
    print_json,
    say,
    table,
)

if TYPE_CHECKING:
    from reindexer.cli_synthesis import Written
    from reindexer.cli_synthesis_options import SynthesisOptions
    from training.clicks import ClickFacts, ClickLog
    from training.pair_build import PairReport
    from training.pair_sources import PairSource
    from training.pairs import PairRow, RejectedRow

SHOWN_REJECTIONS = 10
LOSSES = ("mnrl", "cached-mnrl", "triplet", "cosent", "gist")


@click.command(
    "build",
    cls=Verb,
    examples=[
        "reindexer pairs build judged/ --split train -o pairs.jsonl",
        "reindexer pairs build faq.csv --rename frage=anchor --rename antwort=positive "
        "-o pairs.jsonl",
        "reindexer pairs build clicks.jsonl --corpus documents.jsonl -o pairs.jsonl",
        "reindexer pairs build --clicks -o pairs.jsonl",
        "reindexer pairs build documents.jsonl --llm-base-url http://127.0.0.1:8000/v1 "
        "--llm-model NAME -o pairs.jsonl",
    ],
    json_fields='{"source", "format", "out", "pairs_sha256", "columns": {"question": "anchor"}, '
    '"read", "kept", "duplicates": {"exact", "near"}, "below_score", "negatives_dropped", '
    '"rejected": [{"where", "reason"}], "rejected_total", "clicks": {…}|null, '
    '"synthesis": {"model", "documents", "answered_before", '
    '"failed", "requests", "queries", "rejected": {…}, "round_trip": {"k", "documents", "kept", '
    '"dropped"}|null, "usage": {"prompt_tokens", "completion_tokens", "uncounted_requests"}, '
    '"cost"}|null, "seconds"}',
)
@click.argument("source", required=False)
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The JSON Lines file to write.",
)
@click.option(
    "--format", default="auto", show_default=True, help="auto, or what it is: beir, clicks, …"
)
@click.option("--split", metavar="S", help="Of a BEIR folder or a dataset; train unless given.")
@click.option(
    "--loss", type=click.Choice(LOSSES), help="Check the columns for this loss before all else."
)
@click.option(
    "--rename", multiple=True, metavar="COLUMN=ROLE", help="Such as question=anchor; repeatable."
)
@click.option(
    "--score-max", default=1.0, show_default=True, metavar="X", help="The score that means 1."
)
@click.option(
    "--min-score", type=float, metavar="X", help="Leave out pairs that score less (0..1)."
)
@click.option(
    "--graded", is_flag=True, help="Keep the grades of a BEIR folder as scores, for cosent."
)
@click.option(
    "--group-field",
    metavar="FIELD",
    help="Field of a BEIR corpus that says which documents belong together.",
)
@click.option(
    "--max-characters",
    type=click.IntRange(1),
    default=50_000,
    show_default=True,
    metavar="N",
    help="Reject longer texts.",
)
@click.option(
    "--near",
    type=click.FloatRange(0.7, 1),
    default=0.8,
    show_default=True,
    metavar="X",
    help="Word runs that near duplicates share, 0.7 to 1.",
)
@click.option("--keep-near", is_flag=True, help="Keep near duplicates.")
@click.option(
    "--corpus",
    metavar="REF",
    help="Texts for a click log: BEIR folder or JSONL; the ingested documents unless given.",
)
@click.option(
    "--clicks",
    is_flag=True,
    help="SOURCE is a click log; without SOURCE, the query log of the service.",
)
@click.option(
    "--min-clicks",
    type=click.IntRange(1),
    default=2,
    show_default=True,
    metavar="N",
    help="Clicks it takes to believe a click log.",
)
@json_option
@synthesis_options
@pass_invocation
@click.pass_context
def build(
    context: click.Context,
    invocation: Invocation,
    source: str | None,
    out: Path,
    format: str,
    split: str | None,
    loss: str | None,
    rename: Sequence[str],
    score_max: float,
    min_score: float | None,
    graded: bool,
    group_field: str | None,
    max_characters: int,
    near: float,
    keep_near: bool,
    corpus: str | None,
    clicks: bool,
    min_clicks: int,
    as_json: bool,
    llm: SynthesisOptions | None,
) -> None:
    """Make training pairs of judgments, a file, clicks, or documents.

    SOURCE is a BEIR folder (what is judged above 0), a JSONL, CSV, TSV or Parquet file of pairs, a
    Hugging Face dataset (a saved folder, or owner/name), or a click log (JSONL of query, doc_id,
    clicked, position, time, user). With --clicks and no SOURCE it is what the service has logged.
    Repeated pairs are left out. A row that cannot be used is reported with its place and reason;
    the exit code is 1 then.

    With --llm-model a language model writes queries for documents that have none: SOURCE is then
    anything that `ingest` reads, or left out for the ingested documents. It shows what that takes
    and asks, unless --yes. Answers are kept as they come: stopped or killed, the same command goes
    on where it was.
    """
    from training.pair_build import build_pairs
    from training.pair_columns import check_pairs
    from training.pair_sources import FORMATS, format_of, open_pairs
    from training.pairs import pairs_hash, write_pairs

    if format not in FORMATS:
        raise click.UsageError(f"--format {format!r}: expected one of {', '.join(FORMATS)}")
    if not out.name.endswith((".jsonl", ".ndjson")):
        raise click.UsageError(
            f"-o {out}: pairs are written as JSON Lines; name it {out.stem}.jsonl"
        )
    if score_max <= 0:
        raise click.UsageError("--score-max: expected a number above 0")
    if clicks and format not in ("auto", "clicks"):
        raise click.UsageError(f"--clicks means --format clicks, and --format is {format}")
    label = source or ("the query log" if clicks else "the ingested documents")
    written: Written | None = None
    opened: PairSource | ClickLog | Sequence[PairRow | RejectedRow]
    if llm is not None:
        check_no_other_source(context)
        written, found = build_with_llm(invocation, source, llm), "llm"
    elif clicks:
        found = "clicks"
    elif source is None:
        raise click.UsageError("name a SOURCE; only --clicks and --llm-model have one of their own")
    else:
        found = format_of(source) if format == "auto" else format
    with Progress(f"pairs {label}", quiet=invocation.quiet) as progress:
        with _click_log(invocation, found, source, corpus, min_clicks) as click_log:
            if written is not None:
                opened = written.rows()
            else:
                opened = click_log or open_pairs(
                    label,
                    format=found,
                    split=split,
                    loss=loss,
                    rename=_renames(rename),
                    score_max=score_max,
                    graded=graded,
                    group_field=group_field,
                )
            kept, report = build_pairs(
                opened,
                max_characters=max_characters,
                min_score=min_score,
                near_threshold=None if keep_near else near,
                on_progress=lambda what, n: progress.update(n, state=what),
            )
        if kept:
            if loss is not None:
                check_pairs(kept, loss=loss, label=label)
            progress.update(state="writing")
            write_pairs(out, kept)
    renamed = {} if click_log is not None else dict(getattr(opened, "renamed", {}))
    facts = click_log.facts if click_log is not None else None
    if as_json:
        value = {
            "source": source,
            "format": found,
            "out": str(out) if kept else None,
            "pairs_sha256": pairs_hash(kept) if kept else None,
            "columns": renamed,
            **report.to_json(),
            "clicks": facts.to_json() if facts is not None else None,
            "synthesis": written.facts if written is not None else None,
        }
        print_json(value)
    else:
        if written is not None:
            show_written(written)
        _show_build(report, renamed, facts)
    if not kept:
        note(f"No pair is left, so {out} was not written.")
        context.exit(1)
    if report.rejected_total:
        note(
            f"{count(report.rejected_total, 'row')} rejected; everything else is in {out}. "
            "Repair them and build again"
        )
        context.exit(1)
    if not as_json and not invocation.quiet:
        next_steps(
            f"reindexer pairs audit {out} --base MODEL", f"reindexer pairs split {out} -o split/"
        )


@contextmanager
def _click_log(
    invocation: Invocation, format: str, source: str | None, corpus: str | None, min_clicks: int
) -> Iterator[ClickLog | None]:
    """The click log, when it is one, with the texts of its documents at hand. source: its file; the
    log in the data directory unless given."""
    if format != "clicks":
        if corpus is not None:
            raise click.UsageError(
                f"--corpus gives texts to a click log, and {source} is read as {format}; leave it "
                "out, or add --format clicks"
            )
        yield None
        return
    from reindexer.document_texts import texts_in, texts_of_corpus
    from reindexer.feedback import write_click_log
    from training.clicks import ClickLog, ClickRules

    rules = ClickRules(min_clicks=min_clicks)
    if corpus is not None and source is not None:
        yield ClickLog(Path(source), texts_in(corpus), rules)
        return
    try:
        invocation.check_exists()
    except NothingHere as error:
        raise NothingHere(
            f"a click log needs the texts of its documents: {error}, or name them with --corpus REF"
        ) from error
    with invocation.open() as data, TemporaryDirectory(prefix="reindexer-") as folder:
        texts = texts_in(corpus) if corpus is not None else texts_of_corpus(data.corpus)
        path = Path(source) if source is not None else Path(folder) / "query-log.jsonl"
        if source is None:
            write_click_log(data.database, path)
        yield ClickLog(path, texts, rules)


def _renames(values: Sequence[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for value in values:
        column, sign, role = value.rpartition("=")
        if not sign or not column or not role:
            raise click.UsageError(f"--rename {value!r}: expected COLUMN=ROLE, as question=anchor")
        result[column] = role
    return result


def _show_build(report: PairReport, renamed: Mapping[str, str], facts: ClickFacts | None) -> None:
    if renamed:
        read_as = ", ".join(f"{column} as {role}" for column, role in renamed.items())
        note(f"Read {read_as}.")
    if facts is not None:
        say(
            f"{facts.events:,} events on {count(facts.pages, 'page')} of "
            f"{count(facts.queries, 'query')}; left out: {count(facts.bots, 'bot')} with "
            f"{facts.bot_events:,} events, {facts.too_few_clicks:,} documents with too few clicks, "
            f"{facts.too_unattractive:,} that were clicked for their position, {facts.gone:,} that "
            "are gone"
        )
        for text in facts.notes:
            note(text)
    say(
        f"{count(report.kept, 'pair')} kept of {report.read:,} read in {duration(report.seconds)}; "
        f"{count(report.duplicates_exact, 'duplicate')}, "
        f"{count(report.duplicates_near, 'near duplicate')}, "
        f"{report.rejected_total:,} rejected"
    )
    if report.below_score:
        say(f"{count(report.below_score, 'pair')} left out for the score")
    if report.negatives_dropped:
        say(f"{count(report.negatives_dropped, 'negative')} dropped: a positive of the same anchor")
    rows = [(row.where, row.reason) for row in report.rejected[:SHOWN_REJECTIONS]]
    if rows:
        say()
        say(table(("rejected", "why"), rows))
        left = report.rejected_total - len(rows)
        if left:
            say(f"and {left:,} more; --json lists them")
