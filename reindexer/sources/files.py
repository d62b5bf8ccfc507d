"""Files that are read from beginning to end or entered in the middle: on this machine, or behind a
URL that fsspec knows."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from reindexer.errors import SourceInvalid, SourceStopped
from reindexer.sources.locations import digest, location_of, without_credentials
from reindexer.sources.positions import AtEnd
from training.outgoing import check_address, guard_drivers, raise_refused

BLOCK_BYTES = 4 << 20  # read ahead of what a source asks for
ATTEMPTS = 4  # of one read
FIRST_PAUSE_S = 0.5  # doubles
# What drivers call it: S3 and the web, GCS, Azure, files on disk, memory.
_VERSION_FIELDS = (
    *("ETag", "etag", "md5Hash", "Content-MD5", "content_md5"),
    *("mtime", "LastModified", "last_modified", "updated", "modified", "created"),
)

# https://filesystem-spec.readthedocs.io/en/latest/api.html#other-known-implementations
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "http": "aiohttp",
    "https": "aiohttp",
    "sftp": "paramiko",
    "hdfs": "pyarrow",
}


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of a source."""

    label: str  # shown with its rows: docs.jsonl
    location: str  # without credentials
    size: int | None  # bytes; None when the server does not say
    version: str | None  # changes with the contents; None when the server does not say
    is_remote: bool
    opened: Callable[[], io.BufferedReader]

    @property
    def suffixes(self) -> list[str]:
        return [suffix.lower() for suffix in PurePosixPath(self.label).suffixes]

    @property
    def at_end(self) -> AtEnd:
        return "pass_over" if self.is_remote else "read_again"

    def version_with(self, *reading: object) -> str | None:
        """Its version, and how its rows are read."""
        return None if self.version is None else digest((self.version, *reading))

    @contextmanager
    def open(self) -> Iterator[io.BufferedReader]:
        """Raises SourceInvalid; reading raises OSError, or SourceStopped behind a URL."""
        try:
            file = self.opened()
        except OSError as error:
            reason = error.strerror or without_credentials(str(error))
            raise SourceInvalid(f"{self.label} cannot be opened: {reason}") from error
        with file:
            yield file


def local_file(path: Path) -> SourceFile:
    """Raises SourceInvalid when the file cannot be looked at."""
    try:
        found = path.stat()
    except OSError as error:
        raise SourceInvalid(f"{path.name} cannot be opened: {error.strerror}") from error
    return SourceFile(
        label=path.name,
        location=str(path.absolute()),
        size=found.st_size,
        version=f"{found.st_size}:{found.st_mtime_ns}",
        is_remote=False,
        opened=lambda: path.open("rb"),
    )


def remote_files(url: str) -> list[SourceFile]:
    """The file behind a URL, or all that a pattern (s3://bucket/2026/*.jsonl.gz) stands for, in
    the order of their paths. Raises SourceInvalid when there is none, or no driver for it, and
    HostRefused, also in the middle of a file."""
    import fsspec  # type: ignore[import-untyped]

    check_address(url)
    guard_drivers()
    shown = without_credentials(url)
    protocol = url.partition("://")[0].lower()
    try:
        files, path = fsspec.core.url_to_fs(url)
        if _is_pattern(protocol, path):
            found = files.glob(path, detail=True)
            infos = {name: info for name, info in sorted(found.items()) if info["type"] == "file"}
        else:
            infos = {path: files.info(path)}
    except ImportError:
        package = _DRIVERS.get(protocol, f"the fsspec driver of {protocol}")
        raise SourceInvalid(
            f"{shown}: no driver for {protocol}:// is installed; run `pip install {package}`"
        ) from None
    except FileNotFoundError as error:
        raise_refused(error)
        raise SourceInvalid(f"there is no file {shown}") from None
    except Exception as error:  # drivers raise what their own libraries raise: anything
        raise_refused(error)
        raise SourceInvalid(
            f"{shown} cannot be read ({_cause(error)}); check the URL, the credentials that its "
            "driver reads, and the network"
        ) from error
    if not infos:
        raise SourceInvalid(f"no file matches {shown}")
    if any(info.get("type") == "directory" for info in infos.values()):
        raise SourceInvalid(
            f"{shown} is a folder; name its files, such as {shown.rstrip('/')}/*.parquet"
        )
    base = _fixed_part(path) if _is_pattern(protocol, path) else path.rpartition("/")[0]
    here = location_of(url)
    return [
        SourceFile(
            label=_label(name, base),
            location=here if len(infos) == 1 and name == path else f"{protocol}://{_bare(name)}",
            size=info.get("size"),
            version=_version(info),
            is_remote=protocol not in ("file", "local"),
            opened=_opener(files, name, _label(name, base), info.get("size")),
        )
        for name, info in infos.items()
    ]


def _opener(files: Any, path: str, label: str, size: int | None) -> Callable[[], io.BufferedReader]:
    def open_file() -> io.BufferedReader:
        return io.BufferedReader(_RemoteFile(files, path, label, size), BLOCK_BYTES)

    return open_file


class _RemoteFile(io.RawIOBase):
    """Reads through a driver: what fails is tried again at the same place, and an error of any
    library becomes SourceStopped."""

    def __init__(self, files: Any, path: str, label: str, size: int | None) -> None:
        self._files = files
        self._path = path
        self._label = label
        self._size = size
        self._at = 0
        self._file: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size or 0}[whence]
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if self._file is None:
                    self._file = self._files.open(self._path, "rb", cache_type="none")
                if self._file.tell() != self._at:
                    self._file.seek(self._at)
                content = self._file.read(len(buffer))
                break
            except Exception as error:
                self._file = None
                raise_refused(error)
                if attempt == ATTEMPTS or isinstance(error, FileNotFoundError | PermissionError):
                    raise SourceStopped(
                        f"{self._label} cannot be read any further ({_cause(error)}); what was "
                        "read is stored: run the same command again, and it goes on from there"
                    ) from error
                time.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()


def is_pattern(path: str) -> bool:
    return any(character in path for character in "*[?")


def _is_pattern(protocol: str, path: str) -> bool:
    # The question mark of a web address begins its query, and [ is in addresses of machines.
    return "*" in path if protocol in ("http", "https") else is_pattern(path)


def _fixed_part(pattern: str) -> str:
    """The folders before the first one that is a pattern."""
    fixed: list[str] = []
    for name in pattern.split("/"):
        if is_pattern(name):
            break
        fixed.append(name)
    return "/".join(fixed)


def _label(path: str, base: str) -> str:
    shown = path.removeprefix(base).lstrip("/") if base else path.lstrip("/")
    if "://" in path:
        shown = urlsplit(path).path.rpartition("/")[2]
    return shown or path


def _bare(path: str) -> str:
    """A driver's path without the protocol and without credentials."""
    return location_of(path).partition("://")[2] if "://" in path else path


def _version(info: Mapping[str, Any]) -> str | None:
    told = [str(info[field]) for field in _VERSION_FIELDS if info.get(field) is not None]
    return ":".join([str(info.get("size")), *told]) if told else None


def _cause(error: BaseException) -> str:
    told = without_credentials(" ".join(str(error).split()))[:200]
    return f"{type(error).__name__}: {told}" if told else type(error).__name__
