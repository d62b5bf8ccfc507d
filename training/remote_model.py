"""A remote model as a version: where it is asked, and the probe vectors that pin it.

Weights that cannot be read cannot be hashed. So the version keeps what the model made of some fixed
texts, in `remote.json`, and a model that makes something else of them is another model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from training.endpoint import Endpoint
from training.errors import (
    EndpointRefused,
    ModelChanged,
    ModelDamaged,
    ModelNotFound,
    ModelUnsupported,
)
from training.model_version import REMOTE, ModelFile, ModelVersion, fingerprint
from training.remote_ref import RemoteAccess, RemoteRef, parse_ref

FloatMatrix = NDArray[np.float32]

REMOTE_FILE = "remote.json"
MIN_COSINE = 0.9999  # of a probe to the one that was kept; number formats differ by less
DEFAULT_MAX_TOKENS = 512  # where a server does not say what it reads; passages are no longer
TEXTS_PER_REQUEST = 64  # where a server does not say what it takes
MAX_DIM = 16_384
NUMBER_BYTES = 32  # of one number in JSON, at most
ANSWER_BYTES = 65_536  # of an answer besides its numbers
PROBES = (
    "How do vaccines protect against a virus?",
    "The warehouse ships every order within one working day.",
    "def area(width: float, height: float) -> float: return width * height",
    "Die Rechnung ist innerhalb von dreißig Tagen ohne Abzug zu bezahlen.",
    "El volcán entró en erupción poco después de la medianoche.",
    "机器学习模型需要大量的训练数据。",
    "1 2 3 5 8 13 21 34",
    "water",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteModel:
    """What `remote.json` holds."""

    ref: RemoteRef  # the same as the version's base
    texts_per_request: int
    probes: tuple[str, ...]
    rows: FloatMatrix  # (len(probes), dim before truncation) of length 1

    def to_bytes(self) -> bytes:
        value = {
            "protocol": self.ref.protocol,
            "url": self.ref.url,
            "model": self.ref.model,
            "texts_per_request": self.texts_per_request,
            "probes": list(self.probes),
            "rows": [[round(float(number), 7) for number in row] for row in self.rows],
        }
        return orjson.dumps(value, option=orjson.OPT_INDENT_2)

    @classmethod
    def of(cls, version: ModelVersion) -> RemoteModel:
        """Raises ModelDamaged, also when it asks elsewhere than the version says."""
        found = cls.read(version.path)
        if str(found.ref) != version.base:
            raise ModelDamaged(
                f"{version} is said to be {version.base}, but asks {found.ref}; register it again"
            )
        return found

    @classmethod
    def read(cls, folder: Path) -> RemoteModel:
        """Raises ModelDamaged."""
        path = folder / REMOTE_FILE
        try:
            value = orjson.loads(path.read_bytes())
            told = RemoteRef(protocol=value["protocol"], url=value["url"], model=value["model"])
            ref = parse_ref(str(told))  # the version may have come from elsewhere
            rows = np.asarray(value["rows"], np.float32)
            probes = tuple(map(str, value["probes"]))
            if rows.ndim != 2 or len(rows) != len(probes) or not len(probes):
                raise ValueError(f"{rows.shape} numbers for {len(probes)} probes")
            texts = int(value["texts_per_request"])
        except (OSError, ValueError, KeyError, TypeError, ModelNotFound) as error:
            raise ModelDamaged(
                f"{path} cannot be read ({error}); register the model again"
            ) from error
        return cls(ref=ref, texts_per_request=max(1, texts), probes=probes, rows=rows)


def embed(
    endpoint: Endpoint,
    ref: RemoteRef,
    texts: Sequence[str],
    *,
    truncate: bool = False,
    max_dim: int = MAX_DIM,
    tries: int | None = None,
) -> FloatMatrix:
    """(len(texts), dim) as the server gives them, not normalised. truncate: let it cut what is too
    long, where it can. Raises RequestFailed, EndpointRefused, EndpointUnavailable."""
    max_bytes = len(texts) * max_dim * NUMBER_BYTES + ANSWER_BYTES
    body: dict[str, Any]
    if ref.protocol == "openai":
        # https://platform.openai.com/docs/api-reference/embeddings/create
        body = {"model": ref.model, "input": list(texts), "encoding_format": "float"}
        answer = endpoint.ask("/embeddings", body, max_bytes=max_bytes, tries=tries)
        rows = _openai_rows(answer, len(texts))
    else:
        # https://huggingface.github.io/text-embeddings-inference/
        body = {"inputs": list(texts), "normalize": True, "truncate": truncate}
        rows = endpoint.ask("/embed", body, max_bytes=max_bytes, tries=tries)
    try:
        found = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError):
        found = np.empty(0, np.float32)
    if found.ndim != 2 or found.shape[0] != len(texts) or not 0 < found.shape[1] <= MAX_DIM:
        raise EndpointRefused(
            f"{ref} answers with vectors of shape {found.shape} for {len(texts)} texts; expected "
            "one row of numbers for each"
        )
    if not np.isfinite(found).all() or not np.linalg.norm(found, axis=1).all():
        raise EndpointRefused(f"{ref} answers with vectors that are zero or not finite")
    return found


def describe_remote(
    ref: RemoteRef,
    access: RemoteAccess,
    *,
    name: str | None,
    truncate_dim: int | None,
    query_prompt: str | None,
    document_prompt: str | None,
    max_tokens: int | None,
) -> tuple[ModelVersion, bytes]:
    """The version that a remote model and these settings make, without a number and a place, and
    its `remote.json`.

    Raises ModelUnsupported, RequestFailed, EndpointRefused, EndpointUnavailable.
    """
    endpoint = Endpoint(ref.url, access)
    try:
        told = _info(endpoint) if ref.protocol == "tei" else {}
        served = str(told.get("model_id") or "")
        if ref.model and served and served != ref.model:
            raise ModelUnsupported(f"{ref.url} serves {served!r}, not {ref.model!r}")
        ref = RemoteRef(protocol=ref.protocol, url=ref.url, model=ref.model or served)
        raw = embed(endpoint, ref, PROBES)
    finally:
        endpoint.close()
    dim = raw.shape[1]
    if truncate_dim is not None and not 0 < truncate_dim <= dim:
        raise ModelUnsupported(
            f"{ref} makes rows of {dim} dimensions; {truncate_dim} cannot be kept of them"
        )
    longest = told.get("max_input_length")
    reads = longest if isinstance(longest, int) and longest >= 8 else DEFAULT_MAX_TOKENS
    takes = told.get("max_client_batch_size")
    remote = RemoteModel(
        ref=ref,
        texts_per_request=takes if isinstance(takes, int) and takes > 0 else TEXTS_PER_REQUEST,
        probes=PROBES,
        rows=of_length_1(raw),
    )
    content = remote.to_bytes()
    file = ModelFile(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    version = ModelVersion(
        name=ref.name if name is None else name,
        number=0,
        path=Path(),
        base=str(ref),
        dim=truncate_dim or dim,
        max_tokens=reads if max_tokens is None else max_tokens,
        query_prompt=query_prompt or "",
        document_prompt=document_prompt or "",
        pooling=REMOTE,
        normalize=has_length_1(raw),
        truncate_dim=truncate_dim,
        similarity="cosine",
        fingerprint="",
        files={REMOTE_FILE: file},
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return replace(version, fingerprint=fingerprint(version)), content


def is_same_remote(stored: ModelVersion, version: ModelVersion, content: bytes) -> bool:
    """Whether a version is the model that was found now, asked in the same way: servers do not give
    the same bits twice."""
    settings = ("name", "base", "dim", "max_tokens", "query_prompt", "document_prompt", "normalize")
    if not stored.is_remote or any(
        getattr(stored, name) != getattr(version, name) for name in settings
    ):
        return False
    found, kept = orjson.loads(content), RemoteModel.of(stored)
    rows = np.asarray(found["rows"], np.float32)
    return (
        tuple(found["probes"]) == kept.probes
        and found["texts_per_request"] == kept.texts_per_request
        and rows.shape == kept.rows.shape
        and bool(((rows * kept.rows).sum(axis=1) >= MIN_COSINE).all())
    )


def check_probes(version: ModelVersion, remote: RemoteModel, raw: FloatMatrix, url: str) -> None:
    """raw: what the server makes of the probes now. Raises ModelChanged."""
    dim = remote.rows.shape[1]
    if raw.shape[1] != dim:
        problem = f"rows of {raw.shape[1]} dimensions, expected {dim}"
    elif has_length_1(raw) != version.normalize:
        expected = "of length 1" if version.normalize else "of any length"
        problem = f"rows that are normalised otherwise, expected rows {expected}"
    else:
        cosine = float((of_length_1(raw) * remote.rows).sum(axis=1).min())
        if cosine >= MIN_COSINE:
            return
        problem = f"other vectors (cosine {cosine:.4f} to those kept, expected {MIN_COSINE})"
    raise ModelChanged(
        f"{url} answers for {version} with {problem}: it is not the model that was registered, and "
        f"its vectors do not belong into the same collection. Serve that model again, or run "
        f"`reindexer models register {remote.ref}` and `reindexer upgrade` to the new version"
    )


def of_length_1(raw: FloatMatrix) -> FloatMatrix:
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def has_length_1(raw: FloatMatrix) -> bool:
    return bool((np.abs(np.linalg.norm(raw, axis=1) - 1.0) < 0.01).all())


def _info(endpoint: Endpoint) -> Mapping[str, Any]:
    told = endpoint.ask("/info", None, max_bytes=ANSWER_BYTES)
    if not isinstance(told, Mapping):
        raise EndpointRefused(f"{endpoint.url}/info answers {str(told)[:40]!r}, expected an object")
    return told


def _openai_rows(answer: object, n_texts: int) -> list[Any]:
    """In the order of the texts, whatever the order of the answer."""
    items = answer.get("data") if isinstance(answer, Mapping) else None
    rows: list[Any] = [None] * n_texts
    for at, item in enumerate(items if isinstance(items, list) else ()):
        index = item.get("index", at) if isinstance(item, Mapping) else -1
        if isinstance(index, int) and 0 <= index < n_texts:
            rows[index] = item.get("embedding")
    return rows if all(isinstance(row, list) for row in rows) else []
