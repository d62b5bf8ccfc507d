"""`collection.json`: what an embedded collection is, beside the engine's own files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from search.dense import CollectionSpec
from search.errors import CollectionDamaged, CollectionMissing, StoreError
from training.whole_file import new_file, sync_folder

FORMAT = 1
REBUILD = (
    "build the generation again with `reindexer upgrade MODEL --anew`, or bring the folder back"
)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")


def is_name(text: str) -> bool:
    """Whether a collection can be called that."""
    return _NAME.fullmatch(text) is not None


def valid_name(name: str) -> str:
    if not is_name(name):
        raise StoreError(
            f"{name!r} cannot name a collection; expected 1 to 128 letters, digits and . _ @ -, "
            "beginning with a letter or digit"
        )
    return name


def is_empty(folder: Path) -> bool:
    """Nothing there, or a bare folder that nobody ever wrote to."""
    return not folder.is_dir() or not any(folder.iterdir())


def missing(folder: Path) -> CollectionMissing:
    return CollectionMissing(
        f"collection {folder.name!r} is not in {folder.parent}; run `reindexer doctor` to see "
        "what is there, or build the generation again with `reindexer upgrade MODEL --anew`"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionFile:
    """What collection.json holds."""

    spec: CollectionSpec
    hnsw_ef: int | None  # the width that searching the graph takes; None until it was built once

    def write(self, folder: Path) -> None:
        """Atomic and durable."""
        value = {"format": FORMAT, "hnsw_ef": self.hnsw_ef, "spec": self.spec.to_json()}
        new = folder / "collection.json.new"
        new.unlink(missing_ok=True)  # of a process that was killed
        with new_file(new) as file:
            file.write(json.dumps(value, indent=1, ensure_ascii=False).encode("utf-8"))
        new.replace(folder / "collection.json")
        sync_folder(folder)


def read_collection_file(folder: Path) -> CollectionFile:
    """Raises CollectionMissing or CollectionDamaged."""
    path = folder / "collection.json"
    if is_empty(folder):
        raise missing(folder)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        found = value["format"]
        if found != FORMAT:
            raise CollectionDamaged(
                f"{path} has format {found!r}, this release reads {FORMAT}; update reindexer"
            )
        return CollectionFile(
            spec=CollectionSpec.from_json(value["spec"]), hnsw_ef=value.get("hnsw_ef")
        )
    except FileNotFoundError:
        raise CollectionDamaged(
            f"collection {folder.name!r} has no {path}, which says what its vectors are; {REBUILD}"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise CollectionDamaged(f"{path} cannot be read ({error}); {REBUILD}") from error
