"""A folder that fsspec reaches: file://, memory://, s3://, gs:// and whatever else has a driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from training.errors import MAKE_ROOM, TransferFailed, is_disk_full
from training.outgoing import check_address, guard_drivers, raise_refused

MAX_MANIFEST_BYTES = 10_000_000

# https://filesystem-spec.readthedocs.io/en/latest/api.html#other-known-implementations
_DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oci": "ocifs",
    "oss": "ossfs",
    "sftp": "paramiko",
    "ssh": "paramiko",
    "smb": "smbprotocol",
    "webdav": "webdav4",
    "http": "aiohttp",
    "https": "aiohttp",
}


class RemoteFolder:
    """One folder, by its URL. Every error of a driver becomes TransferFailed."""

    def __init__(self, url: str) -> None:
        """Raises TransferFailed for a protocol without a driver, HostRefused. So does whatever is
        asked of it later, when a server leads elsewhere."""
        import fsspec  # type: ignore[import-untyped]

        self.url = url.rstrip("/")
        check_address(self.url)
        guard_drivers()
        protocol = url.partition("://")[0] if "://" in url else "file"
        self._files: Any
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            package = _DRIVERS.get(protocol)
            advice = f"run `pip install {package}`" if package else str(error)
            raise TransferFailed(
                f"{url}: no driver for {protocol}:// is installed; {advice}"
            ) from None
        except ValueError as error:
            raise TransferFailed(
                f"{url} cannot be used ({error}); name a folder, or a URL such as "
                "s3://bucket/models, gs://bucket/models, file:///srv/models or "
                "hf://organisation/name"
            ) from error

    def size_bytes(self, name: str) -> int | None:
        """Of one file; None when it is not there."""
        with self._failing(f"look at {name}"):
            try:
                return int(self._files.info(self._path(name))["size"])
            except FileNotFoundError as error:
                raise_refused(error)
                return None

    def read(self, name: str) -> bytes | None:
        """A small file, whole; None when it is not there."""
        with self._failing(f"read {name}"):
            try:
                content: bytes = self._files.cat_file(self._path(name), end=MAX_MANIFEST_BYTES)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                return None
        return content

    def write(self, name: str, content: bytes) -> None:
        with self._failing(f"write {name}"):
            self._files.pipe_file(self._path(name), content)

    def upload(self, path: Path, name: str) -> None:
        with self._failing(f"write {name}"):
            target = self._path(name)
            self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(path), target)

    def download(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._failing(f"read {name}"):
            try:
                self._files.get_file(self._path(name), str(path))
            except FileNotFoundError:
                raise TransferFailed(
                    f"{self.url}: {name} is missing; push the version again from where it was "
                    "registered"
                ) from None

    def names(self) -> list[str]:
        """What lies right in the folder; [] when it is not there."""
        with self._failing("list it"):
            try:
                found = self._files.ls(self._root, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def sizes(self) -> dict[str, int]:
        """Size in bytes of every file right in the folder, by name; {} when it is not there."""
        with self._failing("list it"):
            try:
                found = self._files.ls(self._root, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return {}
        return {
            str(item["name"]).rstrip("/").rpartition("/")[2]: int(item["size"] or 0)
            for item in found
            if item["type"] == "file"
        }

    def make(self) -> None:
        """Make the folder where folders are made at all."""
        with self._failing("make it"):
            self._files.makedirs(self._root, exist_ok=True)

    def remove(self, name: str) -> None:
        """One file; nothing happens when it is not there."""
        with self._failing(f"remove {name}"), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Drivers raise what their own libraries raise: anything."""
        try:
            yield
        except TransferFailed:
            raise
        except Exception as error:
            raise_refused(error)
            told = " ".join(str(error).split())[:200] or type(error).__name__
            advice = (
                "Check the URL, the credentials that its driver reads, and the network, then run "
                "the same command again"
            )
            if is_disk_full(error):
                advice = MAKE_ROOM.capitalize()
            raise TransferFailed(
                f"{self.url}: could not {what} ({type(error).__name__}: {told}). {advice}"
            ) from error
