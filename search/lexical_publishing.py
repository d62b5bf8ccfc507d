"""One lexical index for many search nodes: saved by the process that replays, published to a place
that all of them reach, and copied from there by a node that starts with less.

    <sha-256>.bin                        a file of the index, named after its contents
    snapshot-<watermark>-<checksum>      which two belong together; written last

A snapshot is named after its contents too, so one that was cut off is seen to be none, and the one
before it still has its files. A node maps its own copy and replays the rest from the corpus.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from search.errors import LexicalDamaged
from search.lexical_files import (
    ArrayFile,
    Manifest,
    manifest_from_json,
    read_manifest,
    write_manifest,
    writing,
)
from training.errors import TransferFailed
from training.remote_folder import RemoteFolder

log = logging.getLogger(__name__)

KEPT = 2  # snapshots: a node may be copying the one before the last
_SNAPSHOT = re.compile(r"snapshot-(\d{20})-([0-9a-f]{32})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """One published state of an index."""

    name: str
    manifest: Manifest
    objects: dict[str, str]  # name of an array file → SHA-256 of its contents


class PublishedIndex:
    """The published snapshots of one index."""

    def __init__(self, folder: RemoteFolder) -> None:
        self._folder = folder

    def publish(self, path: Path) -> bool:
        """Publish what was saved at path; False when its base is published already, since nodes
        replay the few changes after it by themselves.

        Raises TransferFailed, LexicalDamaged. A process killed here leaves the snapshots before.
        """
        with writing(path):  # a save would take the files away
            manifest = read_manifest(path)
            if manifest is None or not manifest.watermark:
                return False
            newest = next(self.snapshots(), None)
            if newest is not None and newest.manifest.base.name == manifest.base.name:
                return False
            self._folder.make()
            objects = {}
            for file in (manifest.base, manifest.changes):
                objects[file.name] = self._send(path / file.name)
        body = json.dumps({"manifest": asdict(manifest), "objects": objects}).encode("utf-8")
        self._folder.write(_name(manifest.watermark, body), body)
        self._forget_old()
        return True

    def fetch_newer(self, path: Path, *, until: int) -> bool:
        """Copy the newest whole snapshot to path, if it has seen more than what is saved there.

        until: the head of the corpus; a snapshot that has seen more is of another one.
        Raises TransferFailed. A process killed here leaves the old index or the new one.
        """
        saved = 0
        try:
            manifest = read_manifest(path)
            saved = manifest.watermark if manifest is not None else 0
        except LexicalDamaged as error:
            log.warning("%s; a published one is looked for", error)
        for snapshot in self.snapshots():
            if snapshot.manifest.watermark <= saved:
                return False
            if snapshot.manifest.watermark > until:
                continue
            try:
                self._fetch(snapshot, path)
            except (TransferFailed, LexicalDamaged) as error:
                log.warning("the snapshot %s cannot be used: %s", snapshot.name, error)
                continue
            return True
        return False

    def snapshots(self) -> Iterator[Snapshot]:
        """The whole ones, newest first."""
        for name in sorted(self._folder.names(), reverse=True):
            match = _SNAPSHOT.fullmatch(name)
            body = self._folder.read(name) if match else None
            if body is None or match is None or _name(int(match[1]), body) != name:
                continue
            value: dict[str, Any] = json.loads(body)
            manifest = manifest_from_json(value["manifest"])
            if manifest is not None:
                yield Snapshot(name=name, manifest=manifest, objects=value["objects"])

    def remove(self) -> None:
        """Everything; what was published is of another corpus."""
        for name in sorted(self._folder.names(), reverse=True):  # snapshots before their files
            self._folder.remove(name)

    def _send(self, path: Path) -> str:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        name = f"{sha256}.bin"
        if self._folder.size_bytes(name) != path.stat().st_size:  # also one that was cut off
            self._folder.upload(path, name)
        return sha256

    def _fetch(self, snapshot: Snapshot, path: Path) -> None:
        with writing(path):
            for file in (snapshot.manifest.base, snapshot.manifest.changes):
                self._fetch_file(file, snapshot.objects[file.name], path)
            write_manifest(path, snapshot.manifest)

    def _fetch_file(self, file: ArrayFile, sha256: str, path: Path) -> None:
        target = path / file.name
        fresh = path / f"{file.name}.{secrets.token_hex(4)}"
        try:
            self._folder.download(f"{sha256}.bin", fresh)
            with fresh.open("rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != sha256:
                raise LexicalDamaged(f"{sha256}.bin has the SHA-256 {found}, expected its name")
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)

    def _forget_old(self) -> None:
        kept = []
        for number, snapshot in enumerate(self.snapshots()):
            if number < KEPT:
                kept.append(snapshot)
            else:
                self._folder.remove(snapshot.name)
        wanted = {f"{sha256}.bin" for snapshot in kept for sha256 in snapshot.objects.values()}
        for name in self._folder.names():
            if name.endswith(".bin") and name not in wanted:
                self._folder.remove(name)


def _name(watermark: int, body: bytes) -> str:
    return f"snapshot-{watermark:020d}-{hashlib.sha256(body).hexdigest()[:32]}"
