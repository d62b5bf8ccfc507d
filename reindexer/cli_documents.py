"""Verbs that move documents: ingest, sync."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import count, duration, next_steps, note, print_json, say, table, warn

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.ingest import IngestProgress, IngestReport
    from reindexer.running_service import RunningService

SHOWN_REJECTIONS = 10
POLL_S = 0.1


@click.command(
    cls=Verb,
    examples=[
        "reindexer ingest articles.jsonl",
        "reindexer ingest handbook/ --source handbook --delete-missing",
        "reindexer ingest export.csv --id-field sku --text-field description",
        "reindexer ingest 's3://bucket/articles/*.parquet'",
        "reindexer ingest postgresql://reader@host/shop --table products --updated-at changed",
    ],
    json_fields='{"source", "added", "changed", "unchanged", "deleted", '
    '"rejected": [{"where", "reason"}], "rejected_total", "head_seq", "seconds", "warnings": [], '
    '"passed_over", "went_on"}; of files and tables, those that had not changed, and those that '
    "were entered where an ingest had left them",
)
@click.argument("source_ref", metavar="SOURCE")
@click.option("--format", default="auto", show_default=True, help="auto, or what it is.")
@click.option(
    "--source",
    "source_name",
    default="default",
    show_default=True,
    help="The named source its documents belong to.",
)
@click.option(
    "--delete-missing", is_flag=True, help="Delete this source's documents that it has no more."
)
@click.option(
    "--id-field", metavar="FIELD", help="Where the id is; _id, id or doc_id unless given."
)
@click.option("--text-field", metavar="FIELD", help="Where the text is.")
@click.option("--title-field", metavar="FIELD", help="Where the title is.")
@click.option("--again", is_flag=True, help="Read from the beginning, whatever was read before.")
@click.option("--table", metavar="TABLE", help="Of a database: what to read.")
@click.option("--query", metavar="SELECT", help="Of a database: what to read, instead of a table.")
@click.option(
    "--updated-at",
    metavar="COLUMN",
    help="Of a database: when a row was written; the next ingest asks for newer ones.",
)
@click.option("--split", metavar="SPLIT", help="Of a data set; train unless given.")
@click.option("--subset", metavar="NAME", help="Of a data set that has several.")
@json_option
@pass_invocation
@click.pass_context
def ingest(
    context: click.Context,
    invocation: Invocation,
    /,
    source_ref: str,
    format: str,
    source_name: str,
    delete_missing: bool,
    id_field: str | None,
    text_field: str | None,
    title_field: str | None,
    again: bool,
    as_json: bool,
    **of_format: str | None,
) -> None:
    """Bring documents in.

    SOURCE is a JSONL, CSV, TSV or Parquet file, a pattern or a URL of such files (s3://, gs://,
    https://), a folder of text and Markdown, a BEIR folder, a database (SQLAlchemy URL), a Qdrant
    collection (--format qdrant https://host:6333#collection), or a data set of the Hugging Face hub
    (--format hf NAME). One that stopped half-way goes on there when it is ingested again.
    Documents are compared by id and content: what is stored already takes no work. A row that
    cannot be used is left out and reported with its place and reason; the exit code is 1 then.
    """
    from reindexer.ingest import ingest as ingest_source
    from reindexer.sources import FORMATS, Positions, open_source
    from reindexer.sources.locations import without_credentials

    if format not in FORMATS:
        raise click.UsageError(f"--format {format!r}: expected one of {', '.join(FORMATS)}")
    source = open_source(
        source_ref,
        format=format,
        name=source_name,
        id_field=id_field,
        text_field=text_field,
        title_field=title_field,
        **of_format,
    )
    with invocation.open() as data:
        shown = without_credentials(source_ref)
        with Progress(f"ingest {shown}", quiet=invocation.quiet) as progress:

            def show(done: IngestProgress) -> None:
                share = done.share_read
                total = max(done.rows, round(done.rows / share)) if share else None
                state = f"{done.rejected} rejected" if done.rejected else None
                progress.update(done.rows, total=total, state=state)

            report = ingest_source(
                data.corpus,
                source,
                positions=Positions(data.database),
                delete_missing=delete_missing,
                again=again,
                on_progress=show,
            )
        for warning in report.warnings:
            warn(warning)
        if as_json:
            print_json(report.to_json())
        else:
            _show_report(report)
        if report.rejected_total:
            note(
                f"{count(report.rejected_total, 'row')} rejected; everything else is in. "
                "Repair them and ingest again: what is stored is not touched"
            )
            context.exit(1)
        if not as_json and not invocation.quiet:
            _suggest(data)


def _show_report(report: IngestReport) -> None:
    say(
        f"{report.added:,} added, {report.changed:,} changed, {report.unchanged:,} unchanged, "
        f"{report.deleted:,} deleted, {report.rejected_total:,} rejected in "
        f"{duration(report.seconds)}"
    )
    if report.went_on:
        say("This one went on where the last ingest had stopped, or asked for what is new since.")
    if report.passed_over:
        say(
            f"{count(report.passed_over, 'file')} had not changed since the last ingest; "
            "--again reads them nevertheless"
        )
    rows = [(row.where, row.reason) for row in report.rejected[:SHOWN_REJECTIONS]]
    if rows:
        say()
        say(table(("rejected", "why"), rows))
        left = report.rejected_total - len(rows)
        if left:
            say(f"and {left:,} more; --json lists them")


def _suggest(data: DataDirectory) -> None:
    if data.catalog.live() is None:
        next_steps("reindexer upgrade MODEL    (a folder, a hub id, or package:NAME)")
    else:
        next_steps('reindexer search "…"')


@click.command(
    cls=Verb,
    examples=["reindexer sync", "reindexer sync --json"],
    json_fields='{"head_seq", "generations": {"docs@1": {"watermark", …}}, "encoded", '
    '"lexical_changes", "seconds", "service"}; counts of work are null where the service did it',
)
@json_option
@pass_invocation
def sync(invocation: Invocation, as_json: bool) -> None:
    """Bring live and standby to the head of the corpus, once.

    When a service runs it does this all the time; the verb then waits until the service has caught
    up with what the corpus holds now. One on another machine is waited for likewise.
    """
    from reindexer.running_service import RunningService

    with invocation.open_existing() as data, RunningService.found(data) as service:
        if service is not None:
            report = _wait_for_service(data, service, quiet=invocation.quiet)
        else:
            report = {**_sync_here(data, quiet=invocation.quiet), "service": None}
    if as_json:
        print_json(report)
        return
    if not report["generations"]:
        say("Nothing is live, so there is nothing to keep in step.")
        next_steps("reindexer upgrade MODEL")
        return
    names = " and ".join(report["generations"])
    by = f", by the service at {report['service']}" if report["service"] else ""
    encoded = f", {count(report['encoded'], 'passage')} encoded" if report["encoded"] else ""
    say(f"{names} at seq {report['head_seq']:,}{encoded}, {duration(report['seconds'])}{by}")


def _sync_here(data: DataDirectory, *, quiet: bool) -> dict[str, Any]:
    from reindexer.errors import LeaseHeld
    from reindexer.journal import SYNC_LEASE

    lag_docs = sum(data.corpus.lag(mark) for mark in _marks(data).values())
    with Progress("sync", quiet=quiet) as progress, contextlib.ExitStack() as stack:
        try:
            lease = stack.enter_context(data.journal.lease(SYNC_LEASE))
        except LeaseHeld:
            if not data.store.shared:
                raise
            return _wait_for_another(data, progress)
        if lag_docs:
            progress.update(state=f"{count(lag_docs, 'change')} to bring in")
        from reindexer.sync import sync_once  # brings torch in

        return sync_once(data, lease).to_json()


def _wait_for_another(data: DataDirectory, progress: Progress) -> dict[str, Any]:
    """Wait until the process that replays into the shared store has applied what the corpus holds
    now. Raises LeaseHeld when it ends before that."""
    from reindexer.errors import LeaseHeld
    from reindexer.journal import SYNC_LEASE
    from search.processes import describe_process

    began = time.monotonic()
    head = data.corpus.head()
    while min((marks := _marks(data)).values(), default=head) < head:
        holder = data.journal.holder(SYNC_LEASE)
        if holder is None:
            raise LeaseHeld("the process that replayed has ended; run `reindexer sync` again")
        progress.update(
            min(marks.values()), total=head, state=f"{describe_process(holder)} catches up"
        )
        time.sleep(POLL_S)
    return _waited(head, marks, began, None)


def _marks(data: DataDirectory) -> dict[str, int]:
    """Watermarks of live and standby."""
    pointers = data.catalog.pointers()
    names = [name for name in (pointers.live, pointers.standby) if name is not None]
    return {name: data.catalog.watermark(name) for name in names}


def _wait_for_service(
    data: DataDirectory, service: RunningService, *, quiet: bool
) -> dict[str, Any]:
    """Wait until both legs of live, and the standby, have applied what the corpus holds now."""
    began = time.monotonic()
    head = data.corpus.head()
    told: str | None = None
    with Progress(f"the service at {service.url} catches up", quiet=quiet) as progress:
        while True:
            info = service.info()
            marks = _marks(data)
            lexical = info.get("lexical_watermark") or 0
            if all(mark >= head for mark in marks.values()) and (not marks or lexical >= head):
                break
            problem = info.get("problem")
            if problem is not None and problem != told:
                warn(f"the service cannot catch up yet: {problem}")
                told = problem
            progress.update(min([*marks.values(), lexical]), total=head)
            time.sleep(POLL_S)
    return _waited(head, marks, began, service.url)


def _waited(head: int, marks: dict[str, int], began: float, url: str | None) -> dict[str, Any]:
    return {
        "head_seq": head,
        "generations": {name: {"watermark": mark} for name, mark in marks.items()},
        "encoded": None,
        "lexical_changes": None,
        "seconds": round(time.monotonic() - began, 3),
        "service": url,
    }
