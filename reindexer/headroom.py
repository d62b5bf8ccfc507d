"""Whether the disk has room for a new generation, asked before hours of encoding."""

from __future__ import annotations

import random

from reindexer.data_directory import DataDirectory
from reindexer.errors import GateRefused
from reindexer.terminal import size
from search.generations import Generation
from search.recipe import Recipe

POINT_BYTES = 600  # payload and id of one passage on disk; measured
HEADROOM = 2.0  # times what a collection takes in the end: the engine writes segments anew
CHARACTERS_A_TOKEN = 4  # of English text; only for an estimate without a model
SAMPLE_PLACES, SAMPLE_DOCUMENTS = 16, 32


def disk_bytes(passages: int, recipe: Recipe) -> int:
    """What a collection of so many passages takes on disk when it is finished."""
    links = 2 * recipe.hnsw_m * 4
    return passages * (recipe.dim * 4 + links + POINT_BYTES)


def shortage(data: DataDirectory, recipe: Recipe, watermark: int = 0) -> str | None:
    """What is wrong when less than twice the disk is free that a generation of this recipe takes
    for the documents after a watermark; None when nothing is. A Qdrant server does not tell how
    much it has, so there nothing is."""
    if data.store.shared:
        return None
    left = data.corpus.lag(watermark)
    needed = int(HEADROOM * disk_bytes(_passages(data, recipe, left), recipe))
    free = data.free_disk_bytes()
    if needed <= free:
        return None
    return (
        f"a generation of {recipe.model} takes about {size(needed / HEADROOM)}, "
        f"{HEADROOM:g} times that while it is built, and {size(free)} are free"
    )


def check_headroom(data: DataDirectory, generation: Generation, override: str | None) -> None:
    """Raises GateRefused when there is a shortage for the rest of a generation, unless override
    says why to go ahead; that is recorded."""
    found = shortage(data, generation.recipe, generation.watermark)
    if found is None:
        return
    if override is None:
        raise GateRefused(
            f"{found}. Nothing was begun. Make room (`reindexer prune`), choose "
            "store.quantization, or go ahead with --override REASON"
        )
    data.catalog.events.record(
        "headroom_overruled", generation.name, {"reason": override, "found": found}
    )


def _passages(data: DataDirectory, recipe: Recipe, documents: int) -> int:
    """By the length of some documents from all over the log."""
    rng = random.Random(0)
    head = max(1, data.corpus.head())
    lengths = [
        len(change.document.title) + len(change.document.text)
        for place in {rng.randrange(head) for _ in range(SAMPLE_PLACES)} | {0}
        for change in data.corpus.changes(place, SAMPLE_DOCUMENTS)
        if change.document is not None
    ]
    step = recipe.splitter.max_tokens - recipe.splitter.overlap_tokens
    of_one = [max(1.0, length / CHARACTERS_A_TOKEN / max(1, step)) for length in lengths]
    return round(documents * sum(of_one) / max(1, len(of_one)))
