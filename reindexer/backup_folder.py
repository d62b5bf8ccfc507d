"""Where backups lie: a folder, or a URL that fsspec knows.

    objects/<sha-256>              a part of a table, points of a collection, a model's file, ...
    backups/<time>-<checksum>      what one backup consists of, and where each object belongs

An object is named after its contents, so what has not changed is there already and is not sent
again. A backup's own file is written last and named after its contents too: one that was
interrupted has no file, or a file that is seen to be cut off, and the backups before it are whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import orjson

from reindexer.errors import BackupDamaged
from training.errors import TransferFailed
from training.remote_folder import RemoteFolder

FORMAT = 1
_ID_CHECKSUM = 16  # hexadecimal digits of the SHA-256 in a backup's name
_SHA256 = re.compile("[0-9a-f]{64}")
_FOLDER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,254}")  # a version, or an analyzer's id


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFile:
    """One object, and what it is."""

    path: str  # documents/000000000003, model.safetensors, ...
    sha256: str
    n_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTable:
    """One table of the database."""

    columns: tuple[str, ...]
    n_rows: int
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredCollection:
    """The points of one generation."""

    watermark: int  # replay goes on after this seq
    n_points: int
    digest: str  # search.stored_points.PointDigest
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Backup:
    """What one backup consists of."""

    made_at: str  # ISO 8601, UTC
    made_by: str  # reindexer 0.1.0
    schema_revision: str
    head_seq: int
    documents: int  # that are there; tombstones left out
    corpus_digest: str
    live: str | None
    tables: Mapping[str, StoredTable]
    collections: Mapping[str, StoredCollection]  # by generation
    lexical: Mapping[str, tuple[StoredFile, ...]]  # by the analyzer's id
    models: Mapping[str, tuple[StoredFile, ...]]  # by version
    removed_models: tuple[str, ...]  # their numbers are not given out again

    def files(self) -> Iterator[StoredFile]:
        """Every object it needs; the same one may come twice."""
        for table in self.tables.values():
            yield from table.files
        for collection in self.collections.values():
            yield from collection.files
        for group in (*self.lexical.values(), *self.models.values()):
            yield from group

    @property
    def size_bytes(self) -> int:
        return sum({file.sha256: file.n_bytes for file in self.files()}.values())

    def to_bytes(self) -> bytes:
        return orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_SORT_KEYS)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Backup:
        """Raises BackupDamaged."""
        try:
            value = orjson.loads(raw)
            if (found := value.pop("format")) != FORMAT:
                raise BackupDamaged(
                    f"the backup has format {found!r}, this release reads {FORMAT}; restore it "
                    "with the release that made it, or a newer one"
                )
            value["tables"] = {
                name: StoredTable(
                    columns=tuple(table["columns"]),
                    n_rows=table["n_rows"],
                    files=_files(table["files"]),
                )
                for name, table in value["tables"].items()
            }
            value["collections"] = {
                name: StoredCollection(**{**collection, "files": _files(collection["files"])})
                for name, collection in value["collections"].items()
            }
            for group in ("lexical", "models"):
                value[group] = {name: _files(files) for name, files in value[group].items()}
            value["removed_models"] = tuple(value["removed_models"])
            backup = cls(**value)
            _check_names(backup)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise BackupDamaged(f"the backup's file cannot be read ({error})") from error
        return backup


class BackupFolder:
    """Backups at one place. Errors of the place are TransferFailed."""

    def __init__(self, url: str) -> None:
        """url: a folder, or such as s3://bucket/backups."""
        self.url = url.rstrip("/")
        self._objects = RemoteFolder(f"{self.url}/objects")
        self._backups = RemoteFolder(f"{self.url}/backups")
        self._there: dict[str, int] | None = None  # objects and their sizes, once listed
        self.sent_bytes = 0

    # -- writing -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Make the place, where places are made."""
        self._objects.make()
        self._backups.make()
        self.sent_bytes = 0

    def keep(self, path: str, content: bytes) -> StoredFile:
        """Store bytes, unless they are there already."""
        file = StoredFile(
            path=path, sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content)
        )
        if not self._has(file):
            self._objects.write(file.sha256, content)
            self._note(file)
        return file

    def keep_file(self, path: str, source: Path) -> StoredFile:
        """Store a file, unless its contents are there already."""
        file = digest_of(path, source)
        if not self._has(file):
            self._objects.upload(source, file.sha256)
            self._note(file)
        return file

    def finish(self, backup: Backup) -> str:
        """Make it a backup; returns its name. Everything it needs has been kept before."""
        os.sync()  # a backup that says it is whole must be so after a power cut
        raw = backup.to_bytes()
        name = _name(backup.made_at, raw)
        self._backups.write(name, raw)
        os.sync()
        return name

    def sweep(self, keep: int) -> list[str]:
        """Remove all backups but the newest ones, and the objects that no backup needs."""
        names = self.names()
        going = names[: max(0, len(names) - keep)]
        needed = {
            file.sha256
            for name in names[len(going) :]
            for file in self.read(name).files()  # an unreadable one stops it before anything goes
        }
        for name in going:
            self._backups.remove(name)
        for sha256 in set(self._objects.sizes()) - needed:
            self._objects.remove(sha256)
        self._there = None
        return going

    # -- reading -----------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Every finished backup, oldest first. Unfinished ones are left out."""
        return [name for name in self._backups.names() if self._raw(name) is not None]

    def newest(self) -> str:
        """Raises BackupDamaged when there is none."""
        names = self.names()
        if not names:
            raise BackupDamaged(
                f"there is no finished backup at {self.url}; make one with "
                f"`reindexer backup {self.url}`, or name the place where it lies"
            )
        return names[-1]

    def read(self, name: str) -> Backup:
        """Raises BackupDamaged when it is not there or not whole."""
        raw = self._raw(name)
        if raw is None:
            known = ", ".join(self.names()) or "none"
            raise BackupDamaged(f"there is no finished backup {name} at {self.url}; found: {known}")
        return Backup.from_bytes(raw)

    def fetch(self, file: StoredFile, into: Path) -> None:
        """Copy an object and check it. Raises BackupDamaged when it is not what was stored."""
        try:
            self._objects.download(file.sha256, into)
        except TransferFailed as error:
            if file.sha256 in self._sizes():
                raise
            raise BackupDamaged(
                f"{self.url}: objects/{file.sha256} ({file.path}) is missing; restore another "
                "backup (`reindexer restore PLACE --list`)"
            ) from error
        found = digest_of(file.path, into)
        if found != file:
            raise BackupDamaged(
                f"{self.url}: objects/{file.sha256} ({file.path}) has {found.n_bytes:,} bytes with "
                f"the checksum {found.sha256[:12]}…, expected {file.n_bytes:,}; it was damaged. "
                "Nothing was changed; restore another backup (`reindexer restore PLACE --list`)"
            )

    # -- parts -------------------------------------------------------------------------------------

    def _raw(self, name: str) -> bytes | None:
        """None when the file is cut off, or none of ours."""
        raw = self._backups.read(name)
        if raw is None or name.rpartition("-")[2] != _checksum(raw):
            return None
        return raw

    def _sizes(self) -> dict[str, int]:
        if self._there is None:
            self._there = self._objects.sizes()
        return self._there

    def _has(self, file: StoredFile) -> bool:
        """One that a killed backup left behind half has another size and is written anew."""
        return self._sizes().get(file.sha256) == file.n_bytes

    def _note(self, file: StoredFile) -> None:
        self._sizes()[file.sha256] = file.n_bytes
        self.sent_bytes += file.n_bytes


def digest_of(path: str, source: Path) -> StoredFile:
    """The file as it would be stored."""
    with source.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        return StoredFile(path=path, sha256=sha256, n_bytes=opened.tell())


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _name(made_at: str, raw: bytes) -> str:
    """Names sort by time."""
    return f"{made_at[:23].replace(':', '').replace('.', '').replace('-', '')}-{_checksum(raw)}"


def _checksum(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:_ID_CHECKSUM]


def _check_names(backup: Backup) -> None:
    """Names become paths, and the place may be anybody's: none may lead out of where it belongs.
    Raises ValueError."""
    for name in (*backup.models, *backup.lexical, *backup.removed_models):
        if not _FOLDER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} cannot be the name of a folder")
    for file in backup.files():
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts or not path.parts or "\x00" in file.path:
            raise ValueError(f"{file.path!r} leads out of the backup")
        if not _SHA256.fullmatch(file.sha256) or type(file.n_bytes) is not int:
            raise ValueError(f"{file.path!r} has no SHA-256 and size")


def _files(values: Iterable[Mapping[str, Any]]) -> tuple[StoredFile, ...]:
    return tuple(StoredFile(**value) for value in values)
