"""A model version as one archive, for a machine that cannot see the registry."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from training.errors import ModelDamaged
from training.model_version import ModelVersion


def pack(version: ModelVersion) -> bytes:
    """The version's folder, to be unpacked into another registry's folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(version.path, arcname=str(version))
    return buffer.getvalue()


def unpack(content: bytes, folder: Path) -> None:
    """Into a folder that nobody reads yet: what is written may be part of an archive that is then
    refused. Raises ModelDamaged when it names a place outside, a link that leads there, or what is
    no file."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            archive.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise ModelDamaged(
            f"the archive of a model cannot be unpacked ({error}); it was not made by this build: "
            "look at who may write to the cluster"
        ) from error
