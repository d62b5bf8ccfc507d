"""How a lexical index lies on disk: arrays with checksums, switched by one atomic rename.

    CURRENT             checksum and manifest: analyzer, watermark, which two files belong together
    base-<nonce>.bin    the compacted documents; never changed once written
    changes-<nonce>.bin what has changed since; small, and written anew by every save

A process killed at any moment leaves the old CURRENT or the new one, each with its files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.errors import LexicalDamaged
from training.kill_points import reached
from training.whole_file import new_file, sync_folder

FORMAT = 1
ALIGNMENT = 64  # bytes
OPEN_ATTEMPTS = 50  # a save may replace the files while another process opens them

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayFile:
    """One file of arrays, as the manifest describes it."""

    name: str
    n_bytes: int
    crc32: int
    arrays: dict[str, tuple[Any, int, int]]  # name → (dtype, first byte, length)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What CURRENT holds."""

    analyzer: dict[str, Any]
    watermark: int
    documents: int
    fields: list[str]  # names of metadata fields, by number
    base: ArrayFile
    changes: ArrayFile
    format: int = FORMAT


def write_arrays(folder: Path, kind: str, arrays: Mapping[str, NDArray[Any]]) -> ArrayFile:
    """Write arrays into a new file `<kind>-<nonce>.bin`; returns once they are on disk."""
    path = folder / f"{kind}-{secrets.token_hex(8)}.bin"
    crc, end = 0, 0
    described = {}
    with new_file(path) as file:
        for name, array in arrays.items():
            padding = bytes(-end % ALIGNMENT)
            raw = np.ascontiguousarray(array).view(np.uint8).data
            for part in (padding, raw):
                file.write(part)
                crc = zlib.crc32(part, crc)
            dtype = array.dtype.descr if array.dtype.names else array.dtype.str
            described[name] = (dtype, end + len(padding), len(array))
            end += len(padding) + len(raw)
    reached("lexical.arrays")
    return ArrayFile(name=path.name, n_bytes=end, crc32=crc, arrays=described)


def map_arrays(folder: Path, file: ArrayFile, *, check: bool = True) -> Arrays:
    """The arrays of a file, mapped read-only. Raises LexicalDamaged when the file is not what the
    manifest says, FileNotFoundError when it is not there."""
    path = folder / file.name
    with path.open("rb") as opened:
        n_bytes = os.fstat(opened.fileno()).st_size
        if n_bytes != file.n_bytes:
            raise _damaged(path, f"has {n_bytes:,} bytes, expected {file.n_bytes:,}")
        raw: Any = b""
        if n_bytes:
            raw = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    if check and (crc := zlib.crc32(raw)) != file.crc32:
        raise _damaged(path, f"has the checksum {crc:08x}, expected {file.crc32:08x}")
    return {
        name: np.frombuffer(raw, _dtype(dtype), count=length, offset=start)
        if length
        else np.empty(0, _dtype(dtype))
        for name, (dtype, start, length) in file.arrays.items()
    }


def read_manifest(folder: Path) -> Manifest | None:
    """What CURRENT says; None when nothing was saved yet. Raises LexicalDamaged."""
    path = folder / "CURRENT"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    crc, _, body = raw.partition(b" ")
    if not body or crc != b"%08x" % zlib.crc32(body):
        raise _damaged(path, f"has {len(raw):,} bytes that do not match their checksum")
    value = json.loads(body)
    manifest = manifest_from_json(value)
    if manifest is None:
        raise _damaged(path, f"has format {value['format']}, this release reads {FORMAT}")
    return manifest


def manifest_from_json(value: Mapping[str, Any]) -> Manifest | None:
    """None for one of another format."""
    if value["format"] != FORMAT:
        return None
    files = {name: ArrayFile(**value[name]) for name in ("base", "changes")}
    return Manifest(**{**value, **files})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Switch to the files that the manifest names, then remove those that nobody opens any more:
    a reader of the manifest before this one still finds its files. Call it under `writing`."""
    previous: Manifest | None = None
    with contextlib.suppress(LexicalDamaged):
        previous = read_manifest(folder)
    body = json.dumps(asdict(manifest), ensure_ascii=False).encode("utf-8")
    fresh = folder / f"CURRENT.{secrets.token_hex(8)}"
    with new_file(fresh) as file:
        file.write(b"%08x " % zlib.crc32(body) + body)
    reached("lexical.manifest")
    fresh.replace(folder / "CURRENT")
    sync_folder(folder)
    reached("lexical.saved")
    wanted = {"CURRENT", "LOCK"}
    for kept in (manifest, previous):
        if kept is not None:
            wanted |= {kept.base.name, kept.changes.name}
    for path in folder.iterdir():
        if path.name not in wanted:
            path.unlink(missing_ok=True)


def remove_files(folder: Path) -> None:
    """Remove what was saved; CURRENT goes first, so that a killed removal leaves an empty index."""
    with writing(folder):
        (folder / "CURRENT").unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name != "LOCK":
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Only one process at a time writes here; the others wait. A killed one lets go."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    with (folder / "LOCK").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def open_files(folder: Path) -> tuple[Manifest, Arrays, Arrays] | None:
    """Manifest, base and changes as they belong together; None when nothing was saved yet.

    Raises LexicalDamaged naming the file. Safe while another process saves.
    """
    manifest = read_manifest(folder)
    for _ in range(OPEN_ATTEMPTS):
        if manifest is None:
            return None
        try:
            return (
                manifest,
                map_arrays(folder, manifest.base),
                map_arrays(folder, manifest.changes),
            )
        except FileNotFoundError as error:
            missing = Path(error.filename)
        before, manifest = manifest, read_manifest(folder)
        if manifest == before:
            break
        time.sleep(0.01)
    raise _damaged(missing, "is missing")


def _dtype(described: Any) -> np.dtype[Any]:
    if isinstance(described, str):
        return np.dtype(described)
    return np.dtype([tuple(field) for field in described])


def _damaged(path: Path, found: str) -> LexicalDamaged:
    return LexicalDamaged(
        f"the lexical file {path} {found}; the index must be rebuilt from the corpus: "
        "run `reindexer sync`"
    )
