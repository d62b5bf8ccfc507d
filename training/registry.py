"""Immutable model versions: `<root>/<name>@<number>/` holds the files and a manifest."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.errors import (
    ModelDamaged,
    ModelNotFound,
    ModelUnsafe,
    ModelUnsupported,
    TrainingError,
)
from training.kill_points import reached
from training.model_card import CARD, render
from training.model_description import ModelDescription, describe
from training.model_files import files_to_keep, matters_for_vectors
from training.model_sources import find_model, name_from
from training.model_version import (
    MANIFEST,
    ModelFile,
    ModelVersion,
    digest,
    fingerprint,
    read_manifest,
)
from training.remote_ref import RemoteAccess, is_remote, parse_ref
from training.whole_file import sync_folder

__all__ = ["ModelFile", "ModelRegistry", "ModelVersion"]

log = logging.getLogger(__name__)

COPY_BYTES = 4_194_304

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(rf"({_NAME.pattern})@([1-9][0-9]{{0,8}})")
_INCOMING = ".incoming-"


class ModelRegistry:
    """All model versions under one folder. Any number of processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def register(
        self,
        ref: str | Path,
        *,
        name: str | None = None,
        truncate_dim: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        max_tokens: int | None = None,
        pooling: str | None = None,
        trust_remote_code: bool = False,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
        remote: RemoteAccess | None = None,
        document: Callable[[ModelVersion, Path], None] | None = None,
    ) -> ModelVersion:
        """Copy a model into the registry as the next version of its name, and return it.

        ref: a folder, `package:NAME` (a Python package that ships a model), or a hub id
        (`organisation/name`, `organisation/name@revision`); or a model that is asked elsewhere,
        `openai:URL#MODEL` or `tei:URL`, with `remote` saying how. Settings left out are the
        model's own.
        pooling (mean, cls, lasttoken) is for a folder that has no sentence-transformers
        configuration. The same files with the same settings give the version that is there already.
        A version with a lineage gets a model card as its README.md. document: writes further
        documentation (.md, .html) into the folder it is given, for the version as it will be named;
        while it does, nothing else can be registered.

        Raises ModelNotFound, ModelDamaged, ModelUnsafe, ModelUnsupported; EndpointRefused and
        EndpointUnavailable for a remote model; TrainingError when the registry cannot be written.
        """
        if is_remote(str(ref)):
            return self._register_remote(
                str(ref),
                remote,
                metrics=metrics,
                name=name,
                truncate_dim=truncate_dim,
                query_prompt=query_prompt,
                document_prompt=document_prompt,
                max_tokens=max_tokens,
            )
        folder = find_model(str(ref), trust_remote_code=trust_remote_code)
        name = name_from(str(ref)) if name is None else name
        _check_name(name)
        model = describe(folder, trust_remote_code=trust_remote_code, pooling=pooling)
        version = _describe_version(
            folder,
            model,
            files_to_keep(folder, trust_remote_code=trust_remote_code, pooling=pooling),
            name=name,
            base=str((lineage or {}).get("base", ref)),
            truncate_dim=truncate_dim,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_tokens=max_tokens,
            trust_remote_code=trust_remote_code,
        )
        version = replace(version, metrics=dict(metrics or {}), lineage=dict(lineage or {}))
        return self._keep(
            version, folder, model.added_files, make_card=bool(lineage), document=document
        )

    def adopt(
        self, version: ModelVersion, *, name: str | None = None, trust_remote_code: bool = False
    ) -> ModelVersion:
        """Copy in a version of another registry, from its folder and manifest, and return it.

        It keeps its number where that is free here and was never given out, and gets the next one
        otherwise; the same fingerprint under the same name gives the version that is there. What
        the manifest says about the vectors is derived again from the files. name: instead of its
        own.

        Raises ModelDamaged when the files are not those of the manifest, ModelUnsafe,
        ModelUnsupported; TrainingError when the registry cannot be written.
        """
        if version.is_remote:  # the manifest was checked; the probes are, when it is loaded
            if not trust_remote_code:
                raise ModelUnsafe(
                    f"{version} is loaded elsewhere, and texts and the key would be sent to "
                    f"{version.base}. If you trust it: --trust-remote-code; or register it yourself"
                )
            found = replace(version, name=version.name if name is None else name)
            _check_name(found.name)
            return self._keep(found, version.path, {}, make_card=False)
        model = describe(version.path, trust_remote_code=trust_remote_code)
        found = _describe_version(
            version.path,
            model,
            files_to_keep(version.path, trust_remote_code=trust_remote_code),
            name=version.name if name is None else name,
            base=version.base,
            truncate_dim=version.truncate_dim,
            query_prompt=version.query_prompt,
            document_prompt=version.document_prompt,
            max_tokens=version.max_tokens,
            trust_remote_code=trust_remote_code,
        )
        if not _NAME.fullmatch(found.name):
            raise ModelNotFound(f"{found.name!r} cannot be a model's name; give one with --name")
        if (found.fingerprint, found.files) != (version.fingerprint, dict(version.files)):
            raise ModelDamaged(
                f"the files of {version} in {version.path} do not make the version that its "
                "manifest describes; push it again from where it was registered"
            )
        found = replace(
            found,
            number=version.number,
            created_at=version.created_at,
            notes=version.notes,
            metrics=version.metrics,
            lineage=version.lineage,
        )
        return self._keep(found, version.path, {}, make_card=False)

    def _register_remote(
        self,
        ref: str,
        access: RemoteAccess | None,
        *,
        metrics: Mapping[str, Any] | None,
        **settings: Any,
    ) -> ModelVersion:
        from training.remote_model import REMOTE_FILE, describe_remote, is_same_remote

        access = RemoteAccess.from_environment() if access is None else access
        version, content = describe_remote(parse_ref(ref), access, **settings)
        _check_name(version.name)
        for stored in reversed(self.list()):
            if is_same_remote(stored, version, content):
                return stored
        version = replace(version, metrics=dict(metrics or {}))
        return self._keep(version, self.root, {REMOTE_FILE: content}, make_card=False)

    def get(self, name: str, number: int) -> ModelVersion:
        """One version by its number. Raises ModelNotFound, ModelDamaged."""
        path = self.root / f"{name}@{number}"
        if not path.is_dir():
            raise ModelNotFound(f"no model version {path.name}; {self._known()}")
        return read_manifest(path, name, number)

    def resolve(self, text: str) -> ModelVersion:
        """`support@3`, or `support` for the newest. Raises ModelNotFound, ModelDamaged."""
        if match := _VERSION.fullmatch(text):
            return self.get(match[1], int(match[2]))
        numbers = [number for name, number in self._stored() if name == text]
        if not numbers:
            raise ModelNotFound(f"no model named {text!r}; {self._known()}")
        return self.get(text, max(numbers))

    def list(self) -> list[ModelVersion]:
        """Every readable version, by name and number; `damaged` tells about the others."""
        versions: list[ModelVersion] = []
        for name, number in self._stored():
            with contextlib.suppress(ModelDamaged, ModelNotFound):
                versions.append(self.get(name, number))
        return versions

    def damaged(self) -> dict[str, str]:
        """Versions whose manifest is missing or unreadable, and what is wrong with each."""
        problems: dict[str, str] = {}
        for name, number in self._stored():
            try:
                self.get(name, number)
            except ModelDamaged as error:
                problems[f"{name}@{number}"] = str(error)
        return problems

    def verify(self, text: str) -> ModelVersion:
        """Resolve a version and compare every file with its manifest. Raises ModelDamaged."""
        version = self.resolve(text)
        version.verify()
        return version

    def remove(self, text: str) -> None:
        """Delete one version (`support@3`), readable or not; its number is not given out again.
        Whether a generation still needs it is for the caller to ask. Raises ModelNotFound."""
        match = _VERSION.fullmatch(text)
        if match is None or not (self.root / text).is_dir():
            raise ModelNotFound(f"no model version {text!r} to remove; {self._known()}")
        with self._locked():
            removed = self.root / ".removed"
            removed.mkdir(exist_ok=True)
            (removed / text).touch()
            leaving = self.root / f"{_INCOMING}{secrets.token_hex(8)}"
            (self.root / text).rename(leaving)
        shutil.rmtree(leaving)

    def next_number(self, name: str) -> int:
        """What the next version of this name would be called."""
        folders = [*self.root.glob(f"{name}@*"), *self.root.glob(f".removed/{name}@*")]
        matches = [_VERSION.fullmatch(folder.name) for folder in folders]
        return 1 + max((int(match[2]) for match in matches if match is not None), default=0)

    def same(self, version: ModelVersion) -> ModelVersion | None:
        """The version that is there already under the name of this one: of the same fingerprint,
        and with the same verdict of the gate."""
        for name, number in reversed(self._stored()):
            if name == version.name:
                with contextlib.suppress(ModelDamaged, ModelNotFound):
                    stored = self.get(name, number)
                    if stored.fingerprint == version.fingerprint and _same_verdict(stored, version):
                        return stored
        return None

    def _keep(
        self,
        version: ModelVersion,
        folder: Path,
        added: Mapping[str, bytes],
        *,
        make_card: bool,
        document: Callable[[ModelVersion, Path], None] | None = None,
    ) -> ModelVersion:
        """The version that is there already, or this one, stored."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            return self.same(version) or self._store(
                version, folder, added, make_card=make_card, document=document
            )
        except OSError as error:
            raise TrainingError(
                f"model {version.name} could not be stored under {self.root}: {error}; check the "
                "free space and the permissions, then do it again"
            ) from error

    def _store(
        self,
        version: ModelVersion,
        folder: Path,
        added: Mapping[str, bytes],
        *,
        make_card: bool,
        document: Callable[[ModelVersion, Path], None] | None,
    ) -> ModelVersion:
        """version.number is the number it would like to have, 0 for any."""
        with self.incoming() as incoming:
            for name, registered in version.files.items():
                target = incoming / name
                target.parent.mkdir(parents=True, exist_ok=True)
                copied = (
                    _write(target, added[name]) if name in added else _copy(folder / name, target)
                )
                if copied != registered:
                    raise ModelDamaged(
                        f"{folder / name} changed while it was registered; wait until nothing "
                        "writes to it and register it again"
                    )
            reached("model.copied")
            with self._locked():
                if (stored := self.same(version)) is not None:
                    return stored
                if not version.number or self._was_given_out(version):
                    version = replace(version, number=self.next_number(version.name))
                path = self.root / str(version)
                if document is not None:
                    version = _with_documents(version, incoming, document)
                if make_card:
                    version = _with_card(version, incoming)
                manifest = json.dumps(version.to_json(), indent=2, ensure_ascii=False)
                _write(incoming / MANIFEST, manifest.encode())
                for place in [*sorted(p for p in incoming.rglob("*") if p.is_dir()), incoming]:
                    sync_folder(place)
                incoming.rename(path)
                sync_folder(self.root)
                reached("model.named")
        for note in version.notes:
            log.warning("%s: %s", version, note)
        return replace(version, path=path)

    @contextlib.contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder to write into, gone afterwards unless it was renamed. Whoever writes holds a
        lock on it; folders that nobody holds were left by killed processes and are cleaned."""
        path = self.root / f"{_INCOMING}{secrets.token_hex(8)}"
        with self._locked():
            self._clean()
            path.mkdir()
            handle = os.open(path, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)

    def _clean(self) -> None:
        for path in self.root.glob(f"{_INCOMING}*"):
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                finally:
                    os.close(handle)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process or thread at a time; held for moments only."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _was_given_out(self, version: ModelVersion) -> bool:
        return any((self.root / place / str(version)).exists() for place in (".", ".removed"))

    def _stored(self) -> Sequence[tuple[str, int]]:
        """(name, number) of every version folder, sorted."""
        matches = [_VERSION.fullmatch(folder.name) for folder in self.root.glob("*@*")]
        return sorted((match[1], int(match[2])) for match in matches if match is not None)

    def _known(self) -> str:
        names = sorted({name for name, _ in self._stored()})
        if not names:
            return "the registry is empty. Run `reindexer models register REF`"
        return f"there are {', '.join(names)}. See `reindexer models list`"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelNotFound(
            f"{name!r} cannot be a model's name; use letters, digits, '.', '_' and '-' (--name)"
        )


def _describe_version(
    folder: Path,
    model: ModelDescription,
    kept: Sequence[Path],
    *,
    name: str,
    base: str,
    truncate_dim: int | None,
    query_prompt: str | None,
    document_prompt: str | None,
    max_tokens: int | None,
    trust_remote_code: bool,
) -> ModelVersion:
    """The version that this folder and these settings make, without a number and a place."""
    truncate_dim = model.truncate_dim if truncate_dim is None else truncate_dim
    if truncate_dim is not None and not 0 < truncate_dim <= model.dim:
        raise ModelUnsupported(
            f"{folder} makes rows of {model.dim} dimensions; {truncate_dim} cannot be kept of them"
        )
    max_tokens = model.max_tokens if max_tokens is None else max_tokens
    if not 8 <= max_tokens <= model.longest_tokens:
        raise ModelUnsupported(
            f"{folder} reads up to {model.longest_tokens:,} tokens; max_tokens is {max_tokens}, "
            f"expected 8 to {model.longest_tokens:,}"
        )
    files = {
        path.relative_to(folder).as_posix(): digest(path) for path in kept if path.name != MANIFEST
    }
    for added, content in model.added_files.items():
        files[added] = ModelFile(
            sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content)
        )
    version = ModelVersion(
        name=name,
        number=0,
        path=folder,
        base=base,
        dim=truncate_dim or model.dim,
        max_tokens=max_tokens,
        query_prompt=model.query_prompt if query_prompt is None else query_prompt,
        document_prompt=model.document_prompt if document_prompt is None else document_prompt,
        pooling=model.pooling,
        normalize=model.normalize,
        truncate_dim=truncate_dim,
        similarity=model.similarity,
        fingerprint="",
        files=dict(sorted(files.items())),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        trust_remote_code=trust_remote_code,
        notes=model.notes,
    )
    return replace(version, fingerprint=fingerprint(version))


def _same_verdict(stored: ModelVersion, version: ModelVersion) -> bool:
    """A version that was trained again, and this time measured or measured otherwise, is another
    one although its vectors are the same: what was said about a version does not change."""
    told = ("gate", "gate_reason")
    return not version.lineage or all(
        stored.lineage.get(key) == version.lineage.get(key) for key in told
    )


def _with_documents(
    version: ModelVersion, folder: Path, document: Callable[[ModelVersion, Path], None]
) -> ModelVersion:
    before = set(folder.iterdir())
    document(version, folder)
    files = dict(version.files)
    for path in sorted(set(folder.iterdir()) - before):
        assert not matters_for_vectors(path.name), f"{path.name} is no documentation"
        path.chmod(0o444)
        files[path.name] = digest(path)
    return replace(version, files=dict(sorted(files.items())))


def _with_card(version: ModelVersion, folder: Path) -> ModelVersion:
    """The version with a card in place of the README.md that the trainer left."""
    (folder / CARD).unlink(missing_ok=True)
    card = _write(folder / CARD, render(version).encode())
    return replace(version, files=dict(sorted({**version.files, CARD: card}.items())))


def _copy(source: Path, target: Path) -> ModelFile:
    digest, size_bytes = hashlib.sha256(), 0
    with source.open("rb") as read, target.open("xb") as write:
        while block := read.read(COPY_BYTES):
            digest.update(block)
            size_bytes += len(block)
            write.write(block)
        write.flush()
        _finish(write.fileno())
    return ModelFile(sha256=digest.hexdigest(), size_bytes=size_bytes)


def _write(target: Path, content: bytes) -> ModelFile:
    with target.open("xb") as write:
        write.write(content)
        write.flush()
        _finish(write.fileno())
    return ModelFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _finish(handle: int) -> None:
    os.fchmod(handle, 0o444)  # a version never changes
    os.fsync(handle)
