"""A model version as an encoder, wherever its weights are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.model_version import ModelVersion
from training.remote_ref import RemoteAccess
from training.version_encoder import VersionEncoder


def open_encoder(
    version: ModelVersion,
    *,
    device: str = "auto",
    dtype: Any = "auto",
    max_batch_tokens: int | None = None,
    cache_dir: Path | None = None,
    remote: RemoteAccess | None = None,
) -> VersionEncoder:
    """Loaded here, or asked elsewhere as `remote` says. Torch is imported where there is something
    to compute with it: not for a table of token vectors, unless another device or number format is
    asked for.

    Raises what the constructors of Encoder, StaticEncoder and RemoteEncoder raise.
    """
    if version.is_remote:
        from training.remote_encoder import RemoteEncoder

        return RemoteEncoder(version, access=remote, max_batch_tokens=max_batch_tokens)
    if device in ("auto", "cpu") and dtype in ("auto", "fp32"):
        from training.static_encoder import StaticEncoder, is_table

        if is_table(version):
            return StaticEncoder(version, max_batch_tokens=max_batch_tokens)
    from training.encoder import Encoder

    return Encoder(
        version, device=device, dtype=dtype, max_batch_tokens=max_batch_tokens, cache_dir=cache_dir
    )
