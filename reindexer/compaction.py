"""Compaction: the live generation built once more, from the vectors that it has.

Passages that are written after a build lie beside its ANN index, and every search compares with all
of them; what was deleted leaves holes. A new generation of the same recipe gets the stored vectors
instead of encoding them again, catches up, is indexed and verified like any other, and goes live.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reindexer.build_process import build_of, run_build
from reindexer.cutover import cut_over
from reindexer.data_directory import DataDirectory
from reindexer.errors import GateRefused
from reindexer.headroom import shortage
from reindexer.journal import BUILD_LEASE, Build
from reindexer.recipes import same_recipe
from reindexer.running_service import RunningService
from reindexer.upgrade import Upgrade
from reindexer.vector_copy import copy_vectors
from search.errors import NoLiveGeneration, StoreError
from search.generations import UNFINISHED, Generation


@dataclass(frozen=True, kw_only=True, slots=True)
class Wear:
    """How worn the live generation is, and what is to be done about it."""

    generation: str
    indexed: float  # share (0..1) of its passages that the ANN index covers
    waits_for: str | None  # why it is not compacted although it is worn
    is_due: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "indexed": round(self.indexed, 4),
            "due": self.is_due,
            "waits_for": self.waits_for,
        }


def wear(data: DataDirectory) -> Wear:
    """Look at the live generation. Raises NoLiveGeneration, StoreError."""
    live = data.catalog.live()
    if live is None:
        raise NoLiveGeneration(
            "nothing is live, so nothing has worn; run `reindexer upgrade MODEL` first"
        )
    indexed = _indexed(data, live)
    standby = data.catalog.standby()
    is_worn = indexed < data.settings.compact_below
    waits_for = None
    if is_worn and standby is not None:
        # A switch would retire the standby, and the way back to the model before with it.
        waits_for = f"{standby.name} to be pruned, since a switch would end the way back to it"
    elif is_worn and (found := shortage(data, live.recipe)) is not None:
        waits_for = f"room on the disk: {found}"
    return Wear(
        generation=live.name,
        indexed=indexed,
        waits_for=waits_for,
        is_due=is_worn and waits_for is None,
    )


def compact(
    data: DataDirectory,
    *,
    on_progress: Callable[[Build], None] = lambda _build: None,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Upgrade:
    """Build the live generation once more and switch to it; one that stopped is gone on with.

    Raises NoLiveGeneration, LeaseHeld, GateRefused (also when the disk is too small),
    CutOverRefused, BuildFailed, StoreError.
    """
    live = data.catalog.live()
    if live is None:
        raise NoLiveGeneration("nothing is live yet; run `reindexer upgrade MODEL` first")
    with data.journal.lease(BUILD_LEASE) as lease:
        generation, build = _begun(data, live)
        if generation.watermark == 0:
            copy_vectors(data, live, generation, build, lease, on_wait)
        build = run_build(data, generation, lease, evaluation=None, on_progress=on_progress)
    cut_over(data, generation.name, on_wait=on_wait)
    return Upgrade(
        build=build,
        generation=data.catalog.get(generation.name),
        live_before=live.name,
        live_after=generation.name,
    )


def _begun(data: DataDirectory, live: Generation) -> tuple[Generation, Build]:
    """A compaction of the live generation that was begun, or not switched to, or a new one. Raises
    GateRefused when the disk is too small, and leaves nothing for a worker to go on with."""
    unfinished = reversed(data.catalog.all(UNFINISHED | {"ready"}))
    begun = next((found for found in unfinished if same_recipe(found.recipe, live.recipe)), None)
    watermark = begun.watermark if begun is not None else 0
    if (short := shortage(data, live.recipe, watermark)) is not None:
        raise GateRefused(
            f"{short}. Nothing was begun, searches go on. Make room (`reindexer prune`) and try "
            "again"
        )
    generation = begun or data.catalog.record(live.recipe)
    return generation, build_of(data, generation)


def _indexed(data: DataDirectory, live: Generation) -> float:
    """As the process that has the collection open sees it."""
    if not data.store.shared:
        with RunningService.found(data) as service:
            if service is not None:
                info = service.info()
                if info.get("generation") == live.name and info.get("indexed") is not None:
                    return float(info["indexed"])
                raise StoreError(
                    f"the service at {service.url} has not opened {live.name} yet; try again"
                )
    collection = data.store.open(live.collection, live.recipe.fingerprint)
    with contextlib.closing(collection):
        return collection.indexed()
