"""Model versions from one registry to another, through a folder anywhere or the Hugging Face hub.

A version arrives whole or not at all. The manifest, which lists every file with its SHA-256, is
written last (on the hub all files are one commit), so that what has a manifest is complete; and
whoever pulls it checks every file against it before anything is registered.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import ModelDamaged, ModelUnsafe, TransferFailed
from training.hub_repository import SCHEME, HubRepository
from training.model_version import MANIFEST, ModelVersion, digest, parse_manifest
from training.registry import ModelRegistry
from training.remote_folder import RemoteFolder

OnProgress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, kw_only=True, slots=True)
class Pushed:
    """Where a version is now."""

    location: str  # what `pull` takes
    size_bytes: int
    sent_bytes: int  # 0 when all of it was there already


def push(
    version: ModelVersion,
    target: str,
    *,
    public: bool = False,
    on_progress: OnProgress | None = None,
) -> Pushed:
    """Copy a version to `TARGET/NAME@N`, or into a hub repository (`hf://organisation/name`) with
    the tag `vN` (or the one after an @). Doing it again sends only what is missing.

    public: of a hub repository; private otherwise. Raises ModelDamaged when the version is not what
    was registered, and TransferFailed.
    """
    version.verify()
    if target.startswith(SCHEME):
        return _push_to_hub(version, HubRepository(target), public=public)
    if public:
        raise TransferFailed(f"--public is for the hub (hf://organisation/name), not for {target}")
    return _push_to_folder(version, RemoteFolder(f"{target.rstrip('/')}/{version}"), on_progress)


def pull(
    registry: ModelRegistry,
    source: str,
    *,
    name: str | None = None,
    fingerprint: str | None = None,
    trust_remote_code: bool = False,
    on_progress: OnProgress | None = None,
) -> ModelVersion:
    """Register the version that was pushed to a place. It keeps its name and its number where they
    are free; one that is here already is returned without a download.

    name: instead of its own. fingerprint: what it must be, or the beginning of that. Raises
    TransferFailed, ModelUnsafe, and what `ModelRegistry.adopt` raises.
    """
    open_source = _HubSource if source.startswith(SCHEME) else _FolderSource
    registry.root.mkdir(parents=True, exist_ok=True)
    with registry.incoming() as folder:
        place = open_source(source, folder)
        version = _described(place, folder)
        if fingerprint and not version.fingerprint.startswith(fingerprint.lower()):
            raise TransferFailed(
                f"{source} has the fingerprint {version.fingerprint}, expected {fingerprint}; it "
                "is another version, or was changed"
            )
        if version.trust_remote_code and not trust_remote_code:
            raise ModelUnsafe(
                f"{version} in {source} brings code of its own. Read it, and if you trust it add "
                "--trust-remote-code"
            )
        known = registry.same(replace(version, name=version.name if name is None else name))
        if known is not None:
            return known
        _check_space(version, folder)
        n_done = 0
        for file, pushed in version.files.items():
            place.fetch(file)
            if not (folder / file).is_file() or digest(folder / file) != pushed:
                raise TransferFailed(
                    f"{source}: {file} is not the file that was pushed; it was changed or only "
                    "half copied. Push the version again from where it was registered"
                )
            n_done += pushed.size_bytes
            if on_progress is not None:
                on_progress(n_done, version.size_bytes)
        try:
            return registry.adopt(version, name=name, trust_remote_code=trust_remote_code)
        except ModelDamaged as error:
            raise TransferFailed(f"{source}: {error}") from error


# -- a folder ------------------------------------------------------------------------------------


def _push_to_folder(
    version: ModelVersion, place: RemoteFolder, on_progress: OnProgress | None
) -> Pushed:
    manifest = (version.path / MANIFEST).read_bytes()
    complete = _is_this(place.read(MANIFEST), version, place.url)
    n_done = n_sent = 0
    for name, file in version.files.items():
        if not complete or place.size_bytes(name) != file.size_bytes:
            place.upload(version.path / name, name)
            n_sent += file.size_bytes
            if place.size_bytes(name) != file.size_bytes:
                raise TransferFailed(
                    f"{place.url}: {name} has {place.size_bytes(name)} bytes there, expected "
                    f"{file.size_bytes:,}; run the same command again"
                )
        n_done += file.size_bytes
        if on_progress is not None:
            on_progress(n_done, version.size_bytes)
    if not complete:
        place.write(MANIFEST, manifest)
    return Pushed(location=place.url, size_bytes=version.size_bytes, sent_bytes=n_sent)


class _FolderSource:
    """A pushed version in a folder."""

    def __init__(self, source: str, folder: Path) -> None:
        self._place = RemoteFolder(source)
        self._folder = folder

    def manifest(self) -> bytes:
        content = self._place.read(MANIFEST)
        if content is None:
            found = [name for name in self._place.names() if "@" in name]
            advice = (
                f"name one of the versions in it, such as {self._place.url}/{found[-1]}"
                if found
                else "no version is there, or its push was broken off. Run `reindexer models push` "
                "where it is registered"
            )
            raise TransferFailed(f"{self._place.url} has no {MANIFEST}; {advice}")
        return content

    def fetch(self, name: str) -> None:
        self._place.download(name, self._folder / name)


# -- the hub -------------------------------------------------------------------------------------


def _push_to_hub(version: ModelVersion, place: HubRepository, *, public: bool) -> Pushed:
    tag = place.revision or f"v{version.number}"
    location = f"{SCHEME}{place.repository}@{tag}"
    tagged = place.look(tag)
    if tagged is not None and _is_this(place.read(MANIFEST, tagged.commit), version, location):
        return Pushed(location=location, size_bytes=version.size_bytes, sent_bytes=0)
    if tagged is not None:
        raise TransferFailed(
            f"{location} is there already and is no version; push with another tag: "
            f"{SCHEME}{place.repository}@TAG"
        )
    place.upload(version, private=not public, tag=tag)
    return Pushed(location=location, size_bytes=version.size_bytes, sent_bytes=version.size_bytes)


class _HubSource:
    """A pushed version in a repository, at the commit its revision has now."""

    def __init__(self, source: str, folder: Path) -> None:
        self._place = HubRepository(source)
        self._folder = folder
        found = self._place.look(self._place.revision)
        if found is None:
            raise TransferFailed(
                f"{source} does not exist, or not for this token. Check the name and the revision; "
                "for a private repository run `hf auth login`"
            )
        self._commit = found.commit

    def manifest(self) -> bytes:
        content = self._place.read(MANIFEST, self._commit)
        if content is None:
            raise TransferFailed(
                f"{self._place.url} has no {MANIFEST}: it was not pushed from here. To register a "
                f"model of the hub run `reindexer models register {self._place.repository}`"
            )
        return content

    def fetch(self, name: str) -> None:
        self._place.download(name, self._folder, self._commit)


# -- checks --------------------------------------------------------------------------------------


def _described(place: _FolderSource | _HubSource, folder: Path) -> ModelVersion:
    try:
        return parse_manifest(place.manifest(), folder)
    except ModelDamaged as error:
        raise TransferFailed(
            f"the {MANIFEST} there {error}. Push the version again from where it was registered"
        ) from error


def _is_this(manifest: bytes | None, version: ModelVersion, where: str) -> bool:
    """Whether a manifest is there, and that of this version. Raises TransferFailed when it is that
    of another one. One that cannot be read was broken off."""
    if manifest is None:
        return False
    try:
        found = parse_manifest(manifest, version.path)
    except ModelDamaged:
        return False
    if (found.fingerprint, found.files) != (version.fingerprint, version.files):
        raise TransferFailed(
            f"{where} is taken by another {found} (fingerprint {found.fingerprint[:12]}, this one "
            f"{version.fingerprint[:12]}); push to another place"
        )
    return True


def _check_space(version: ModelVersion, folder: Path) -> None:
    needed_bytes = 2 * version.size_bytes  # as it comes, and as it is kept
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise TransferFailed(
            f"{version} needs {needed_bytes / 1e6:,.1f} MB while it is checked; {folder.parent} "
            f"has {free_bytes / 1e6:,.1f} MB free. Make room there and pull again"
        )
