"""The verbs backup and restore."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation, yes_option
from reindexer.progress import Progress
from reindexer.terminal import (
    confirm,
    count,
    duration,
    next_steps,
    note,
    print_json,
    say,
    size,
    table,
)

if TYPE_CHECKING:
    from reindexer.backup_folder import Backup, BackupFolder
    from reindexer.data_directory import DataDirectory

_BACKUP_FIELDS = (
    '"backup", "location", "made_at", "head_seq", "documents", "live", '
    '"collections": {"GEN": {"watermark", "passages"}}, "models": [], "size_bytes"'
)


@click.command(
    cls=Verb,
    examples=[
        "reindexer backup /mnt/backups/reindexer",
        "reindexer backup s3://our-bucket/reindexer --keep 14",
    ],
    json_fields=f'{{{_BACKUP_FIELDS}, "sent_bytes", "removed": [], "seconds"}}',
)
@click.argument("place", metavar="DIR|URL")
@click.option(
    "--without-collections",
    is_flag=True,
    help="Leave vectors out; a restore then encodes every passage again.",
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Remove all but the newest N backups from the place afterwards.",
)
@json_option
@pass_invocation
def backup(
    invocation: Invocation, place: str, without_collections: bool, keep: int | None, as_json: bool
) -> None:
    """Copy corpus, catalog, models and vectors to another place.

    Writers, queries and a running service go on meanwhile. A place holds any number of backups, and
    what has not changed since an earlier one is not sent again. The place is a folder or a URL that
    fsspec knows (s3://, gs://, ...). One that is interrupted leaves the backups before it whole.
    """
    from reindexer.backup import make_backup

    with (
        invocation.open_existing() as data,
        Progress("backup", quiet=invocation.quiet) as progress,
    ):
        report = make_backup(
            data,
            place,
            collections=not without_collections,
            keep=keep,
            on_step=lambda step: progress.update(state=step),
        )
    if as_json:
        print_json(report.to_json())
        return
    made = report.backup
    sent = size(report.sent_bytes) if report.sent_bytes else "nothing"
    holds = ", ".join(
        [
            f"{count(made.documents, 'document')} at seq {made.head_seq:,}",
            count(len(made.collections), "collection"),
            count(len(made.models), "model version"),
        ]
    )
    say(f"Backup {report.name}: {holds}.")
    say(f"{size(made.size_bytes)}, {sent} of it sent, in {duration(report.seconds)}.")
    if report.removed:
        say(f"{count(len(report.removed), 'older backup')} removed.")
    if not invocation.quiet:
        next_steps(
            f"reindexer restore {report.location} --check",
            f"reindexer --data-dir NEW restore {report.location}    (a drill: it disturbs nothing)",
        )


@click.command(
    cls=Verb,
    examples=[
        "reindexer restore s3://our-bucket/reindexer --list",
        "reindexer restore s3://our-bucket/reindexer --check",
        "reindexer --data-dir ./drill restore /mnt/backups/reindexer",
        "reindexer restore /mnt/backups/reindexer --overwrite --yes",
    ],
    json_fields=f'{{{_BACKUP_FIELDS}, "to_encode": [], "seconds"}}; with --check the same without '
    '"to_encode" and "seconds"; with --list a list of {"backup", "made_at", "head_seq", '
    '"documents", "live", "collections", "models", "size_bytes"}',
)
@click.argument("place", metavar="DIR|URL")
@click.option("--backup", "name", metavar="NAME", help="Which one; the newest unless given.")
@click.option("--list", "is_list", is_flag=True, help="List the backups that lie there.")
@click.option("--check", is_flag=True, help="Read all of it and compare checksums; change nothing.")
@click.option(
    "--without-collections",
    is_flag=True,
    help="Leave vectors out: replay encodes every passage again.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a data directory (and database) that is not empty."
)
@yes_option
@json_option
@pass_invocation
def restore(
    invocation: Invocation,
    place: str,
    name: str | None,
    is_list: bool,
    check: bool,
    without_collections: bool,
    overwrite: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Bring a backup back, after checking all of it.

    Nothing is changed before every checksum is right, and the switch is one transaction. Database
    and store may be of another kind than those that were backed up. Refuses while a service runs
    on the data directory, and when that is not empty, unless --overwrite is given.
    """
    from reindexer.backup_folder import BackupFolder
    from reindexer.restore import check_backup, check_target
    from reindexer.restore import restore as bring_back

    folder = BackupFolder(place)
    if is_list:
        _list(folder, as_json)
        return
    if check:
        with Progress("restore", quiet=invocation.quiet) as progress:
            name, found = check_backup(
                place, name, on_step=lambda step: progress.update(state=step)
            )
        _show_checked(folder, name, found, as_json)
        return
    name = name or folder.newest()
    found = folder.read(name)
    with invocation.open() as data:
        check_target(data, overwrite=overwrite)
        if not _may_replace(data, name, found, yes=yes):
            note("Nothing was changed.")
            sys.exit(1)
        with Progress("restore", quiet=invocation.quiet) as progress:
            report = bring_back(
                data,
                place,
                name=name,
                collections=not without_collections,
                overwrite=overwrite,
                on_step=lambda step: progress.update(state=step),
            )
    if as_json:
        print_json(report.to_json())
        return
    say(
        f"Restored {report.name} of {found.made_at[:19]}Z: {count(found.documents, 'document')} at "
        f"seq {found.head_seq:,}; {found.live or 'nothing'} is live. "
        f"It took {duration(report.seconds)}."
    )
    if report.to_encode:
        say(f"Vectors are made again by replay: {', '.join(report.to_encode)}.")
    if not invocation.quiet:
        here = f"reindexer --data-dir {invocation.settings.data_dir}"
        verify = [f"{here} verify {found.live}"] if found.live else []
        next_steps(f"{here} sync", *verify, f"{here} serve")


def _may_replace(data: DataDirectory, name: str, found: Backup, *, yes: bool) -> bool:
    """True at once for an empty target: nothing is lost."""
    generations = data.catalog.all()
    if yes or not (data.corpus.head() or generations):
        return True
    note(
        f"{data.path} holds {count(data.corpus.count(), 'document')} and "
        f"{count(len(generations), 'generation')}; all of it is replaced by {name}: "
        f"{count(found.documents, 'document')} at seq {found.head_seq:,}."
    )
    return confirm("Replace it?")


def _list(folder: BackupFolder, as_json: bool) -> None:
    from reindexer.backup import describe

    found = {name: folder.read(name) for name in folder.names()}
    if as_json:
        print_json([{"backup": name, **describe(one)} for name, one in found.items()])
        return
    rows = [
        (
            name,
            f"{one.documents:,}",
            f"{one.head_seq:,}",
            one.live or "-",
            ", ".join(one.collections) or "-",
            size(one.size_bytes),
        )
        for name, one in found.items()
    ]
    say(table(("backup", "documents", "seq", "live", "vectors of", "size"), rows))


def _show_checked(folder: BackupFolder, name: str, found: Backup, as_json: bool) -> None:
    from reindexer.backup import describe

    if as_json:
        print_json({"backup": name, "location": folder.url, **describe(found)})
        return
    say(
        f"{name} is whole: {count(found.documents, 'document')} at seq {found.head_seq:,}, "
        f"{size(found.size_bytes)}."
    )
