"""Putting a backup back: checked whole before anything changes, and switched to in one transaction.

What is restored is put beside what is there: models under their own names, vectors in collections
of new names. Then one transaction replaces every row of the database. Until it commits, the data
directory is what it was; afterwards the old collections are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reindexer.backup import BACKUP_LEASE, clear_leftovers, describe
from reindexer.backup_folder import Backup, BackupFolder, StoredCollection, StoredFile, digest_of
from reindexer.data_directory import DataDirectory
from reindexer.errors import BackupDamaged, LeaseHeld, ReindexerError, TargetNotEmpty, in_words
from reindexer.journal import BUILD_LEASE, CUT_OVER_LEASE, SYNC_LEASE
from reindexer.restore_plan import RestorePlan
from reindexer.restore_rows import FetchedObjects, replace_rows, rows_of_backup
from reindexer.service_address import ServiceAddress
from reindexer.sync import repair_alias
from reindexer.terminal import size
from search.database import SCHEMA_REVISION
from search.dense import DenseCollection
from search.disk_room import COLLECTION_BYTES, RESERVE_BYTES
from search.errors import DatabaseTooNew, SearchError
from search.lexical_files import remove_files, writing
from search.processes import describe_process
from search.stored_points import PointDigest, from_frames

log = logging.getLogger(__name__)

OnStep = Callable[[str], None]
_LEASES = (BACKUP_LEASE, SYNC_LEASE, BUILD_LEASE, CUT_OVER_LEASE)
_MADE = "collections"  # file with the names of the collections that a restore fills


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreReport:
    """What a restore did."""

    name: str
    location: str
    backup: Backup
    to_encode: tuple[str, ...]  # generations whose vectors replay has to make again
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.name,
            "location": self.location,
            **describe(self.backup),
            "to_encode": list(self.to_encode),
            "seconds": round(self.seconds, 3),
        }


def check_backup(
    place: str, name: str | None = None, *, on_step: OnStep = lambda _step: None
) -> tuple[str, Backup]:
    """Read everything that a backup (the newest, if none is named) consists of; its name.

    Raises BackupDamaged naming the first object that is missing or is not what was stored.
    """
    folder = BackupFolder(place)
    name = name or folder.newest()
    backup = folder.read(name)
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary) / "object"
        for file in _fetching(backup, on_step, "checking"):
            folder.fetch(file, target)
    return name, backup


def restore(
    data: DataDirectory,
    place: str,
    *,
    name: str | None = None,
    collections: bool = True,
    overwrite: bool = False,
    on_step: OnStep = lambda _step: None,
) -> RestoreReport:
    """Put a backup (the newest, if none is named) into a data directory.

    collections: vectors too; without them replay encodes every passage again. overwrite: replace
    what is there. Raises BackupDamaged before anything is changed, TargetNotEmpty, LeaseHeld while
    a service or another process works here, DatabaseTooNew, TransferFailed.
    """
    began = time.monotonic()
    folder = BackupFolder(place)
    name = name or folder.newest()
    backup = folder.read(name)
    _check_schema(backup)
    check_target(data, overwrite=overwrite)
    with _alone(data):
        _clear(data)
        _check_space(data, backup, collections=collections)
        with (
            tempfile.TemporaryDirectory(prefix=".restore-", dir=data.path) as staging,
            _nothing_half(data, Path(staging)),
        ):
            fetched = FetchedObjects(Path(staging))
            for file in _fetching(backup, on_step, "fetching"):
                folder.fetch(file, fetched.path(file))
            to_encode = _switch(data, backup, fetched, collections=collections, on_step=on_step)
        os.sync()
    data.catalog.events.record("restore", backup.live, {"backup": name, "place": folder.url})
    return RestoreReport(
        name=name,
        location=folder.url,
        backup=backup,
        to_encode=tuple(to_encode),
        seconds=time.monotonic() - began,
    )


def check_target(data: DataDirectory, *, overwrite: bool) -> None:
    """Raises TargetNotEmpty when a restore would replace something that it may not."""
    generations = data.catalog.all()
    if overwrite or not (data.corpus.head() or generations):
        return
    raise TargetNotEmpty(
        f"{data.path} holds {data.corpus.count():,} documents and {len(generations)} generations; "
        "name an empty --data-dir (and database), or replace them with --overwrite"
    )


# -- before anything changes -----------------------------------------------------------------------


def _check_schema(backup: Backup) -> None:
    if backup.schema_revision > SCHEMA_REVISION:
        raise DatabaseTooNew(
            f"the backup is by {backup.made_by} and has schema {backup.schema_revision}, this "
            f"release knows {SCHEMA_REVISION}; install that release, or a newer one"
        )


def _check_space(data: DataDirectory, backup: Backup, *, collections: bool) -> None:
    needed, free = 2 * backup.size_bytes, data.free_disk_bytes()
    if collections and backup.collections and not data.store.shared:
        needed += RESERVE_BYTES + COLLECTION_BYTES * (1 + len(backup.collections))
    if free < needed:
        raise ReindexerError(
            f"the restore needs about {size(needed)} in {data.path}, beside what is there, and "
            f"{size(free)} are free; nothing was changed. Make room (`reindexer prune` shows what "
            "can go), or name another --data-dir"
        )


@contextlib.contextmanager
def _alone(data: DataDirectory) -> Iterator[None]:
    """No other process works here, and none begins to. Raises LeaseHeld, naming it."""
    address = ServiceAddress.read(data.path)  # of this machine; others are in the catalog
    serving = [process.name for process in data.catalog.processes.seen()]
    if address is not None:
        serving.append(address.process)
    if serving:
        raise LeaseHeld(
            f"a service answers from {data.path}: {describe_process(serving[0])}; stop it first"
        )
    with contextlib.ExitStack() as stack:
        for lease in _LEASES:
            stack.enter_context(data.journal.lease(lease))
        yield


def _clear(data: DataDirectory) -> None:
    """Remove what killed backups and restores left behind, the collections they filled as well."""
    clear_leftovers(data)
    for left in data.path.glob(".restore-*"):
        _drop_made(data, left)
        shutil.rmtree(left)


@contextlib.contextmanager
def _nothing_half(data: DataDirectory, staging: Path) -> Iterator[None]:
    """A restore that fails leaves none of the collections that it has filled: on a full disk they
    would be in the way of the next one."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(SearchError):  # why it failed says more
            _drop_made(data, staging)
        raise


def _drop_made(data: DataDirectory, staging: Path) -> None:
    """The collections that a restore has filled and not switched to."""
    try:
        made = (staging / _MADE).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return
    used = {generation.collection for generation in data.catalog.all()}
    for name in made:
        if name not in used:
            data.store.drop(name)


def _fetching(backup: Backup, on_step: OnStep, doing: str) -> Iterator[StoredFile]:
    """Every object once."""
    files = list({file.sha256: file for file in backup.files()}.values())
    for done, file in enumerate(files, 1):
        on_step(f"{doing} {done:,} of {len(files):,} objects")
        yield file


# -- the switch ------------------------------------------------------------------------------------


def _switch(
    data: DataDirectory,
    backup: Backup,
    fetched: FetchedObjects,
    *,
    collections: bool,
    on_step: OnStep,
) -> list[str]:
    """Put everything beside what is there, replace the rows, drop what was there before; returns
    the generations whose vectors replay has to make."""
    for model, files in backup.models.items():
        on_step(f"restoring {model}")
        _put_model(data, model, files, fetched)
    for removed in backup.removed_models:
        (data.registry.root / ".removed").mkdir(parents=True, exist_ok=True)
        (data.registry.root / ".removed" / removed).touch()
    before = {generation.collection for generation in data.catalog.all()}
    with rows_of_backup(backup, fetched) as rows_of:
        columns, parts = rows_of("generations")
        plan = RestorePlan(
            columns, [row for rows in parts for row in rows], backup, collections=collections
        )
        made = plan.name_collections(data.store.names())
        (fetched.folder / _MADE).write_text("\n".join(made.values()), encoding="utf-8")
        for name, stored in plan.stored.items():
            on_step(f"restoring the vectors of {name}")
            spec = plan.recipe(name).collection_spec(name)
            _fill(data.store.create(made[name], spec), stored, fetched)
        for lexical in (data.path / "lexical").glob("*"):
            remove_files(lexical)  # it is of another corpus in a moment
        data.unpublish_lexicals(backup.lexical)
        on_step("restoring the database")
        replace_rows(data, backup, rows_of, plan)
    repair_alias(data)
    for collection in sorted((before & set(data.store.names())) - set(made.values())):
        data.store.drop(collection)
    for analyzer, files in backup.lexical.items():
        try:
            _put_lexical(data.path / "lexical" / analyzer, files, fetched)
        except OSError as error:  # the switch has happened
            log.warning("%s; the lexical index is made again from the corpus", in_words(error))
    return plan.to_encode


def _put_model(
    data: DataDirectory, model: str, files: Sequence[StoredFile], fetched: FetchedObjects
) -> None:
    """Under its own name; what is there under it is replaced unless it is the same."""
    path = data.registry.root / model
    data.registry.root.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and all(
        (path / file.path).is_file() and digest_of(file.path, path / file.path) == file
        for file in files
    ):
        return
    with data.registry.incoming() as incoming, data.registry.incoming() as leaving:
        for file in files:
            (incoming / file.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fetched.path(file), incoming / file.path)
        if path.is_dir():
            path.rename(leaving / model)
        incoming.rename(path)


def _fill(
    collection: DenseCollection, stored: StoredCollection | None, fetched: FetchedObjects
) -> None:
    """Write the points and build the index. Raises BackupDamaged when they are not those that were
    read from the old collection."""
    with contextlib.closing(collection):
        if stored is None:
            return
        digest = PointDigest()
        for points, vectors in from_frames(fetched.read(file) for file in stored.files):
            collection.upsert(points, vectors)
            digest.add(points)
        if (digest.n_points, digest.value) != (stored.n_points, stored.digest):
            raise BackupDamaged(
                f"the vectors of {collection.spec.generation} are {digest.n_points:,} points with "
                f"the digest {digest.value[:12]}…, expected {stored.n_points:,} with "
                f"{stored.digest[:12]}…; restore another backup, or this one with "
                "--without-collections"
            )
        collection.finish()


def _put_lexical(folder: Path, files: Sequence[StoredFile], fetched: FetchedObjects) -> None:
    """CURRENT comes last, so that a killed restore leaves an index that is rebuilt."""
    with writing(folder):
        for file in files:
            shutil.copyfile(fetched.path(file), folder / file.path)
