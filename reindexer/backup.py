"""A backup: corpus, catalog, journal, models, vectors and lexical indexes, while all goes on.

What is copied first may be older than what is copied last, never newer. A generation's watermark is
read, then its points, and the database comes last, in one snapshot. So every change after that
watermark is in the corpus that was copied, and nothing in the copied points is missing there: the
replay that follows a restore brings both together, as it does every day.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reindexer.backup_folder import (
    Backup,
    BackupFolder,
    StoredCollection,
    StoredFile,
    StoredTable,
    now,
)
from reindexer.data_directory import DataDirectory
from reindexer.errors import ReindexerError
from reindexer.live import points_of
from reindexer.point_spool import PointSpool
from search.database import SCHEMA_REVISION
from search.dense import FloatMatrix, Point
from search.errors import StoreLocked
from search.generations import Generation
from search.lexical_files import read_manifest
from search.stored_points import PointDigest
from search.stored_rows import CorpusDigest, rows_to_bytes
from search.table_rows import read_parts, table_names

log = logging.getLogger(__name__)

BACKUP_LEASE = "backup"
ANSWERING = frozenset({"live", "standby", "ready"})  # worth more than building them again
ATTEMPTS = 5  # for a generation that went live in the middle of a backup

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupReport:
    """What a backup did."""

    name: str
    location: str
    backup: Backup
    sent_bytes: int  # the rest was there already
    removed: tuple[str, ...]  # older backups
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {
            "backup": self.name,
            "location": self.location,
            **describe(self.backup),
            "sent_bytes": self.sent_bytes,
            "removed": list(self.removed),
            "seconds": round(self.seconds, 3),
        }


def describe(backup: Backup) -> dict[str, Any]:
    """A backup as the verbs print it."""
    return {
        "made_at": backup.made_at,
        "head_seq": backup.head_seq,
        "documents": backup.documents,
        "live": backup.live,
        "collections": {
            name: {"watermark": stored.watermark, "passages": stored.n_points}
            for name, stored in backup.collections.items()
        },
        "models": sorted(backup.models),
        "size_bytes": backup.size_bytes,
    }


def make_backup(
    data: DataDirectory,
    place: str,
    *,
    collections: bool = True,
    keep: int | None = None,
    on_step: OnStep = lambda _step: None,
) -> BackupReport:
    """Add a backup to a folder or URL. Writers, queries and a running service go on.

    collections: vectors too; without them a restore encodes every passage again. keep: remove all
    but so many backups afterwards. Raises LeaseHeld when another one is being made, TransferFailed.
    """
    began = time.monotonic()
    folder = BackupFolder(place)
    with data.journal.lease(BACKUP_LEASE) as lease:
        on_step("looking at what is there")
        clear_leftovers(data)
        folder.begin()
        copied: dict[str, StoredCollection] = {}
        for _ in range(ATTEMPTS):
            if collections:
                for generation in _missing(data, copied):
                    on_step(f"copying the vectors of {generation.name}")
                    lease.check()
                    copied[generation.name] = _keep_points(data, folder, generation, on_step)
            on_step("copying lexical indexes and models")
            lexical = _keep_lexical(data, folder)
            models = _keep_models(data, folder)
            on_step("copying the database")
            lease.check()
            backup = _keep_database(data, folder, copied, lexical, models)
            if not collections or not _missing(data, copied):
                break
        name = folder.finish(backup)
        lease.check()
        removed = folder.sweep(keep) if keep is not None else []
    return BackupReport(
        name=name,
        location=folder.url,
        backup=backup,
        sent_bytes=folder.sent_bytes,
        removed=tuple(removed),
        seconds=time.monotonic() - began,
    )


# -- vectors ---------------------------------------------------------------------------------------


def _missing(data: DataDirectory, copied: dict[str, StoredCollection]) -> list[Generation]:
    """Generations that answer, or may, and whose points were not copied yet."""
    return [one for one in data.catalog.all(set(ANSWERING)) if one.name not in copied]


def _keep_points(
    data: DataDirectory, folder: BackupFolder, generation: Generation, on_step: OnStep
) -> StoredCollection:
    """The points in parts by seq, so that a part changes only when its documents do."""
    watermark = data.catalog.watermark(generation.name)  # read before the points
    digest = PointDigest()
    with (
        tempfile.TemporaryDirectory(prefix=".backup-", dir=data.path) as spool,
        _points_of(data, generation) as pages,
    ):
        spooled = PointSpool(Path(spool))
        for points, vectors in pages:
            digest.add(points)
            spooled.add(points, vectors)
            on_step(f"copying the vectors of {generation.name}: {digest.n_points:,} passages")
        files = [
            folder.keep(f"{generation.name}/{part:012d}", frame) for part, frame in spooled.parts()
        ]
    return StoredCollection(
        watermark=watermark, n_points=digest.n_points, digest=digest.value, files=tuple(files)
    )


@contextlib.contextmanager
def _points_of(
    data: DataDirectory, generation: Generation
) -> Iterator[Iterator[tuple[list[Point], FloatMatrix]]]:
    """Every point with its vector: from the service, if that has the collection open."""
    with contextlib.ExitStack() as stack:
        try:
            pages = stack.enter_context(points_of(data, generation))
        except StoreLocked as error:
            raise ReindexerError(
                f"{error}. A backup reads it when that process has closed it; try again, or leave "
                "the vectors out (--without-collections)"
            ) from error
        yield pages


# -- files -----------------------------------------------------------------------------------------


def _keep_lexical(data: DataDirectory, folder: BackupFolder) -> dict[str, tuple[StoredFile, ...]]:
    """What each index last saved. A save may replace the files meanwhile: then look again; an index
    that cannot be copied is rebuilt from the corpus after a restore."""
    result: dict[str, tuple[StoredFile, ...]] = {}
    for place in sorted((data.path / "lexical").glob("*")):
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                manifest = read_manifest(place)
                if manifest is None:
                    break
                current = (place / "CURRENT").read_bytes()
                names = (manifest.base.name, manifest.changes.name)
                files = [folder.keep_file(name, place / name) for name in names]
                if current == (place / "CURRENT").read_bytes():
                    result[place.name] = (*files, folder.keep("CURRENT", current))
                    break
    return result


def _keep_models(data: DataDirectory, folder: BackupFolder) -> dict[str, tuple[StoredFile, ...]]:
    """Every version that can be read. They never change, so one that is there is not sent again."""
    for name, problem in data.registry.damaged().items():
        log.warning("%s is left out of the backup: %s", name, problem)
    result: dict[str, tuple[StoredFile, ...]] = {}
    for model in data.registry.list():
        result[str(model)] = tuple(
            folder.keep_file(file.relative_to(model.path).as_posix(), file)
            for file in sorted(model.path.rglob("*"))
            if file.is_file()
        )
    return result


# -- the database ----------------------------------------------------------------------------------


def _keep_database(
    data: DataDirectory,
    folder: BackupFolder,
    collections: dict[str, StoredCollection],
    lexical: dict[str, tuple[StoredFile, ...]],
    models: dict[str, tuple[StoredFile, ...]],
) -> Backup:
    """Every table in one snapshot, and what the backup then consists of."""
    tables: dict[str, StoredTable] = {}
    head, n_documents, live = 0, 0, None
    digest = CorpusDigest()
    with data.database.read(slow=True) as connection:
        for name in table_names():
            files: list[StoredFile] = []
            n_rows = 0
            for path, columns, rows in read_parts(connection, name):
                files.append(folder.keep(path, rows_to_bytes(rows)))
                n_rows += len(rows)
                if name == "documents":
                    n_documents += digest.add(columns, rows)
                elif name == "corpus_head":
                    head = rows[0][columns.index("seq")]
                elif name == "generations":
                    live = next((row[1] for row in rows if row[2] == "live"), live)
            tables[name] = StoredTable(columns=tuple(columns), n_rows=n_rows, files=tuple(files))
    return Backup(
        made_at=now(),
        made_by=f"reindexer {version('reindexer')}",
        schema_revision=SCHEMA_REVISION,
        head_seq=head,
        documents=n_documents,
        corpus_digest=digest.value,
        live=live,
        tables=tables,
        collections=collections,
        lexical=lexical,
        models=models,
        removed_models=tuple(
            sorted(file.name for file in (data.registry.root / ".removed").glob("*"))
        ),
    )


def clear_leftovers(data: DataDirectory) -> None:
    """Remove what a killed backup or restore left in the data directory. Under the lease."""
    for left in data.path.glob(".backup-*"):
        shutil.rmtree(left, ignore_errors=True)
