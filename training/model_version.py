"""A registered model version: an immutable folder of files, and the manifest that describes it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Literal

from training.errors import ModelDamaged
from training.model_files import matters_for_vectors

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
REMOTE = "remote"  # pooling of a model that is loaded elsewhere
STATIC = "static"  # pooling of a table of token vectors

EncoderDtype = Literal["fp32", "bf16", "fp16", "int8"]  # numbers that rows are computed in

_TYPES: Mapping[str, type | UnionType] = {  # of the fields that are not text
    "number": int,
    "path": Path,
    "dim": int,
    "max_tokens": int,
    "normalize": bool,
    "truncate_dim": int | None,
    "files": dict,
    "trust_remote_code": bool,
    "notes": tuple,
    "metrics": dict,
    "lineage": dict,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFile:
    """One file of a version, as it was registered."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelVersion:
    """One registered model: its files, and every setting that decides what its vectors are."""

    name: str
    number: int
    path: Path  # the folder; SentenceTransformer(path) loads it
    base: str  # the version it was trained from, or the reference it was registered from
    dim: int  # of one row, after truncation
    max_tokens: int  # of one text, prompt and special tokens included
    query_prompt: str
    document_prompt: str
    pooling: str  # mean, cls, lasttoken, ..., static, remote; mean+max where two are joined
    normalize: bool  # the model itself normalises; rows are normalised in any case
    truncate_dim: int | None  # Matryoshka: keep the first so many dimensions
    similarity: str  # what the model was made for: cosine, dot, ...
    fingerprint: str  # sha256 over files and settings; equal fingerprints share a vector space
    files: Mapping[str, ModelFile]  # by path inside the folder, with /
    created_at: str  # ISO 8601, UTC
    trust_remote_code: bool = False
    notes: tuple[str, ...] = ()  # what a user should know about how it was registered
    metrics: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)  # training data hash, loss, seed, ...

    def __str__(self) -> str:
        return f"{self.name}@{self.number}"

    @property
    def is_remote(self) -> bool:
        """No weights here: `training.remote_encoder` asks where they are."""
        return self.pooling == REMOTE

    @property
    def is_static(self) -> bool:
        """A table of token vectors; a text's row is their mean."""
        return self.pooling == STATIC

    def fingerprint_in(self, dtype: str) -> str:
        """Of the rows that are computed in these numbers, `auto` among them: floats of any length
        share a space, integers have one of their own. Who loads a remote model chooses."""
        whole = dtype != "int8" or self.is_remote
        return self.fingerprint if whole else int8_fingerprint(self.fingerprint)

    def is_int8(self, fingerprint: str) -> bool:
        """Whether rows of this fingerprint are this version's in integers."""
        return fingerprint == int8_fingerprint(self.fingerprint)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files.values())

    def to_json(self) -> dict[str, Any]:
        """As the manifest holds it: everything but where the folder is."""
        value = asdict(self)
        del value["path"]
        return {"format": MANIFEST_FORMAT, **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], path: Path) -> ModelVersion:
        fields = {key: item for key, item in value.items() if key != "format"}
        fields["files"] = {name: ModelFile(**file) for name, file in fields["files"].items()}
        fields["notes"] = tuple(fields["notes"])
        return cls(path=path, **fields)

    def verify(self) -> None:
        """Read every file and compare it with the manifest; about 0.1 s for 100 MB.

        Raises ModelDamaged naming the first file that is missing, changed or not expected.
        """
        for name, registered in self.files.items():
            file = self.path / name
            try:
                found = digest(file)
            except OSError as error:
                raise _damaged(self, f"{name} cannot be read ({error.strerror})") from error
            if found.size_bytes != registered.size_bytes:
                raise _damaged(
                    self,
                    f"{name} has {found.size_bytes:,} bytes, expected {registered.size_bytes:,}",
                )
            if found.sha256 != registered.sha256:
                raise _damaged(self, f"{name} is not the file that was registered")
        for file in sorted(self.path.rglob("*")):
            name = file.relative_to(self.path).as_posix()
            if file.is_file() and name != MANIFEST and name not in self.files:
                raise _damaged(self, f"{name} was not registered")


def int8_fingerprint(fingerprint: str) -> str:
    """Of a version's rows in 8-bit integers, by that of its rows in floats."""
    return hashlib.sha256(f"int8 {fingerprint}".encode()).hexdigest()


def fingerprint(version: ModelVersion) -> str:
    """sha256 over all that decides a vector: files by content, and settings; never a name, a path,
    a time or documentation."""
    deciding = {
        "files": {
            name: file.sha256 for name, file in version.files.items() if matters_for_vectors(name)
        },
        "dim": version.dim,
        "max_tokens": version.max_tokens,
        "query_prompt": version.query_prompt,
        "document_prompt": version.document_prompt,
        "pooling": version.pooling,
        "normalize": version.normalize,
    }
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path, name: str, number: int) -> ModelVersion:
    """The version in a folder of the registry. Raises ModelDamaged."""
    again = f"Run `reindexer models remove {path.name}` and register the model again"
    try:
        content = (path / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise ModelDamaged(
            f"{path.name} is half written: {MANIFEST} is missing in {path}. {again}"
        ) from None
    except OSError as error:
        raise ModelDamaged(f"{path / MANIFEST} cannot be read ({error}). {again}") from error
    try:
        version = parse_manifest(content, path.resolve())
    except ModelDamaged as error:
        raise ModelDamaged(f"{path / MANIFEST} {error}. {again}") from error
    if (version.name, version.number) != (name, number):
        raise ModelDamaged(f"{path} holds {version}; rename the folder back to {version}")
    return version


def parse_manifest(content: bytes, path: Path) -> ModelVersion:
    """The version that a manifest describes, in a folder. Whoever wrote it is not trusted: types,
    file names and fingerprint are checked. Raises ModelDamaged with what is wrong with it."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"is not JSON ({error})") from error
    made_as = value.get("format", 0) if isinstance(value, dict) else 0
    if not isinstance(made_as, int):
        raise ModelDamaged(f"is not a model manifest (format is {made_as!r})")
    if made_as > MANIFEST_FORMAT:
        raise ModelDamaged(
            f"has format {value['format']}, this release reads up to {MANIFEST_FORMAT}; upgrade "
            "reindexer"
        )
    try:
        version = ModelVersion.from_json(value, path)
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelDamaged(f"is not a model manifest ({error})") from error
    for item in fields(version):
        if not isinstance(getattr(version, item.name), _TYPES.get(item.name, str)):
            raise ModelDamaged(f"is not a model manifest ({item.name} is of a wrong type)")
    if version.number < 0:
        raise ModelDamaged(f"is not a model manifest (number is {version.number})")
    for name, file in version.files.items():
        if not _is_inside(name):
            raise ModelDamaged(f"names a file that is not inside the model: {name!r}")
        if type(file.size_bytes) is not int or not re.fullmatch("[0-9a-f]{64}", str(file.sha256)):
            raise ModelDamaged(f"is not a model manifest (size or SHA-256 of {name!r})")
    if version.fingerprint != fingerprint(version):
        raise ModelDamaged("was changed after it was written")
    return version


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    odd = path.is_absolute() or ".." in path.parts or str(path) != name
    return not odd and not re.search(r"[\\:\x00-\x1f]", name) and name != MANIFEST


def _damaged(version: ModelVersion, what: str) -> ModelDamaged:
    return ModelDamaged(
        f"model {version} in {version.path}: {what}. `reindexer models verify {version}` checks it "
        f"again; to replace it run `reindexer models remove {version}` and "
        f"`reindexer models register {version.base}`"
    )


def digest(path: Path) -> ModelFile:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return ModelFile(sha256=sha256, size_bytes=stream.tell())
