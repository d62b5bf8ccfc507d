"""The doctor's look at files: room on the disk, lexical indexes."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reindexer.data_directory import DataDirectory
from reindexer.findings import Finding, Fix
from reindexer.journal import SYNC_LEASE
from reindexer.opening import sync_lexical
from reindexer.settings import Settings
from reindexer.terminal import count, size
from search.disk_room import RESERVE_BYTES
from search.errors import LexicalDamaged
from search.lexical import LexicalIndex
from search.recipe import AnalyzerRecipe

SCARCE_BYTES = 2_000_000_000  # less than this is worth a warning
PROBE_BYTES = 65_536


def look_at_disk(settings: Settings) -> Finding:
    """Free space, and whether a file can really be written: a quota shows only then."""
    place = settings.data_dir.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{size(free)} free at {place}"
    if not os.access(place, os.W_OK):
        return Finding(
            name="disk",
            state="problem",
            found=found,
            advice=f"it cannot be written to; who may, says `ls -ld {shlex.quote(str(place))}`",
        )
    problem = _write_probe(place) if settings.data_dir.exists() else ""
    if free < RESERVE_BYTES or problem:
        return Finding(
            name="disk",
            state="problem",
            found=f"{found}{problem}",
            advice="it is full: writes wait or fail until there is room, and nothing that was "
            "acknowledged is lost. `reindexer prune` frees what is no longer wanted",
        )
    if free < SCARCE_BYTES:
        return Finding(
            name="disk",
            state="warning",
            found=found,
            advice="a build needs room for a second copy; `reindexer plan MODEL`",
        )
    return Finding(name="disk", state="ok", found=found)


def _write_probe(place: Path) -> str:
    """Why a small file could not be written; it is gone again."""
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return f", and a file could not be written: {error.strerror}"
    return ""


def look_at_lexical(data: DataDirectory) -> Iterator[Finding]:
    """Every index that a generation still needs, file by file against its checksums."""
    wanted = {
        generation.recipe.analyzer.id: generation.recipe.analyzer
        for generation in data.catalog.all()
        if generation.state not in ("retired", "failed")
        and generation.recipe.lexical.kind == "bm25s"
    }
    for name, analyzer in wanted.items():
        try:
            index = LexicalIndex.open(data.lexical_path(analyzer), analyzer, writable=False)
        except LexicalDamaged as error:
            yield Finding(
                name=f"lexical index {name}",
                state="problem",
                found=str(error),
                advice="`reindexer doctor --fix`, or `reindexer sync`, makes it again from the "
                "corpus; a running service does so when it starts",
                fix=_rebuild(analyzer),
            )
            continue
        yield Finding(
            name=f"lexical index {name}",
            state="ok",
            found=f"{count(index.documents, 'document')}, "
            f"{count(data.corpus.lag(index.watermark), 'change')} behind on disk",
        )
        index.close()


def _rebuild(analyzer: AnalyzerRecipe) -> Fix:
    def fix(data: DataDirectory) -> str:
        """Raises LeaseHeld while a service runs: that keeps the index in memory, and saves it."""
        with data.journal.lease(SYNC_LEASE):
            LexicalIndex.discard(data.lexical_path(analyzer))
            index = LexicalIndex.open(data.lexical_path(analyzer), analyzer, writable=True)
            sync_lexical(data.corpus, index)
            index.save()
            found = f"made again from {index.documents:,} documents"
            index.close()
        return found

    return fix
