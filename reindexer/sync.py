"""Sync: replay the log into every generation that is, or may become, live."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.journal import SYNC_LEASE, Lease
from reindexer.opening import Opener
from reindexer.replay import Replay, ReplayProgress
from search.errors import LeaseLost, LexicalDamaged, SearchError
from search.generations import Generation
from search.lexical_files import read_manifest
from search.serving import OpenGeneration, SearcherManager
from search.splitter import Splitter
from search.term_weights import TermWeights
from training.errors import TrainingError
from training.kill_points import reached

log = logging.getLogger(__name__)

SYNC_WINDOW = 512  # documents; small, so that a change is visible soon


@dataclass(frozen=True, kw_only=True, slots=True)
class SyncReport:
    """What one run of sync did."""

    head_seq: int
    generations: dict[str, ReplayProgress]
    lexical_changes: int
    seconds: float

    @property
    def encoded(self) -> int:
        return sum(progress.encoded for progress in self.generations.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "head_seq": self.head_seq,
            "generations": {
                name: {
                    "watermark": progress.watermark,
                    "documents": progress.documents,
                    "deleted": progress.deletes,
                    "passages": progress.passages,
                    "encoded": progress.encoded,
                    "reused": progress.reused,
                }
                for name, progress in self.generations.items()
            },
            "encoded": self.encoded,
            "lexical_changes": self.lexical_changes,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedSync:
    """What one replay into the open generations did, by their names."""

    done: dict[str, ReplayProgress]
    failed: dict[str, Exception]  # in the order of the replay, so that live comes last

    def raise_failure(self) -> None:
        """Raise the last one; nothing when all went well."""
        failures = list(self.failed.values())
        if failures:
            raise failures[-1]


def sync_once(
    data: DataDirectory,
    lease: Lease,
    *,
    only: str | None = None,
    keep_open: Opener | None = None,
) -> SyncReport:
    """Bring live, standby and a generation about to go live to the head of the corpus; or only one.

    keep_open: of a process that does this again and again; what it has loaded stays loaded.

    A generation that is there already is not opened: a run with nothing to do reads a few rows.
    One that cannot be brought there does not keep the others from it; its error is raised at the
    end.
    """
    began = time.monotonic()
    head = data.corpus.head()
    pointers = data.catalog.pointers()
    target = pointers.request.target if pointers.request is not None else None
    wanted = (only,) if only is not None else (target, pointers.standby, pointers.live)
    names = [name for name in wanted if name is not None]
    done: dict[str, ReplayProgress] = {}
    failure: Exception | None = None
    opener = keep_open or Opener(data, writable=True, warm=False)
    try:
        for name in dict.fromkeys(names):
            generation = data.catalog.get(name)
            if not data.corpus.lag(generation.watermark):
                done[name] = _nothing(generation.watermark)
                if keep_open is None and _is_lexical_behind(data, generation):
                    opener.lexical(generation.recipe.analyzer)
                continue
            try:
                opened = opener.open(name)
                try:
                    done[name] = sync_generation(data, opened, lease, until=head)
                    reached("sync.generation")
                finally:
                    opened.close()
            except LeaseLost:
                raise
            except (SearchError, TrainingError) as error:
                log.warning("%s is not in step with the corpus: %s", name, error)
                failure = failure or error
        if keep_open is None:
            opener.sync_lexicals(head)  # compacts, too
            opener.save_lexicals()
    finally:
        if keep_open is None:
            opener.close()
    repair_alias(data)
    if failure is not None:
        raise failure
    return SyncReport(
        head_seq=head,
        generations=done,
        lexical_changes=opener.lexical_changes,
        seconds=time.monotonic() - began,
    )


def _is_lexical_behind(data: DataDirectory, generation: Generation) -> bool:
    """On disk, as a sync leaves it that was killed after the vectors had been written. One that was
    never saved is made by whoever asks it first. Reads a manifest and one row."""
    if generation.recipe.lexical.kind != "bm25s":
        return False
    try:
        manifest = read_manifest(data.lexical_path(generation.recipe.analyzer))
    except LexicalDamaged:
        return True  # opening it begins anew
    return manifest is not None and data.corpus.lag(manifest.watermark) > 0


def sync_opened(
    data: DataDirectory, manager: SearcherManager, opener: Opener, lease: Lease
) -> OpenedSync:
    """Replay the log into all that a serving process has open; raises LeaseLost before it begins.

    One that cannot be brought to the head does not keep the others from it: a broken standby must
    not stop live.
    """
    lease.check()
    head = data.corpus.head()
    opener.sync_lexicals(head)
    synced = OpenedSync(done={}, failed={})
    for opened in manager.opened():
        with manager.acquire_named(opened.name) as held:
            if held is None:  # closed meanwhile
                continue
            try:
                synced.done[opened.name] = sync_generation(data, opened, lease, until=head)
            except (SearchError, TrainingError) as error:
                synced.failed[opened.name] = error
    return synced


def sync_generation(
    data: DataDirectory, opened: OpenGeneration, lease: Lease, *, until: int
) -> ReplayProgress:
    """Replay into one open generation from its watermark; the lease fences late writers."""
    watermark = data.catalog.watermark(opened.name)
    if watermark >= until:
        return _nothing(watermark)

    def checkpoint(progress: ReplayProgress) -> None:
        data.catalog.advance(opened.name, progress.watermark, lease=SYNC_LEASE, token=lease.token)

    replay = Replay(
        corpus=data.corpus,
        collection=opened.collection,
        encoder=opened.encoder,
        splitter=Splitter(opened.generation.recipe.splitter, opened.encoder),
        window=SYNC_WINDOW,
        checkpoint=checkpoint,
        weights=TermWeights.of(opened.generation.recipe),
        check=lease.check,
    )
    return replay.run(watermark, until)


def repair_alias(data: DataDirectory) -> None:
    """Point the alias at the live collection if it does not."""
    if not data.store.shared:
        return  # nobody else has the collections, so there is no alias
    live = data.catalog.live()
    if live is not None and data.store.alias() != live.collection:
        data.store.set_alias(live.collection)
        log.info("alias repaired: it points at %s now", live.collection)


def _nothing(watermark: int) -> ReplayProgress:
    return ReplayProgress(
        watermark=watermark,
        documents=0,
        deletes=0,
        passages=0,
        encoded=0,
        reused=0,
        tokens=0,
    )
