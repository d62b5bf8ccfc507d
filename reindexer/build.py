"""A build, from the first document to a verified generation, in a process of its own.

The parent (`reindexer/build_process.py`, a service or a worker) holds the lease and renews it,
because finishing the HNSW graph stops this whole process for its length. The parent sends the job
as one JSON object on standard input; everything this process has to say goes into the journal.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reindexer import logs
from reindexer.actor_pools import actor_pool
from reindexer.build_job import EXIT_PAUSED, BuildJob, record_stop
from reindexer.chunk_work import OpenData
from reindexer.chunks import Chunk, ChunkLog
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.errors import BuildFailed, LeaseHeld, in_words
from reindexer.fanout import ActorPool, FanOut
from reindexer.governor import BuildStopped, Governor, lower_priority
from reindexer.journal import BUILD_LEASE, SYNC_LEASE, Build
from reindexer.opening import Opener
from reindexer.pace import Pace
from reindexer.replay import Replay, ReplayProgress
from reindexer.stages import StageClock, TimedTokenizer
from reindexer.verify import Verification, verify_structure
from reindexer.window import window_docs
from search import traces
from search.dense import DenseCollection
from search.errors import LeaseLost, SearchError
from search.generations import Generation
from search.processes import die_with_parent
from search.searcher import Searcher
from search.serving import OpenGeneration
from search.splitter import Splitter
from search.term_weights import TermWeights
from training.kill_points import reached

if TYPE_CHECKING:
    from training.version_encoder import VersionEncoder

log = logging.getLogger(__name__)

CATCH_UP_ROUNDS = 20
APART_FROM = 10_000  # changes; fewer are written before a process would have started


class BuildRun:
    """One run of a build: from its checkpoint as far as it gets."""

    def __init__(
        self,
        data: DataDirectory,
        job: BuildJob,
        *,
        open_data: OpenData = open_data_directory,
        on_neighbours: Callable[[], None] = lambda: None,
        apart_from: int = APART_FROM,
    ) -> None:
        """open_data: how the actors of a build that is fanned out open the same directory.
        on_neighbours: called once somebody serves on this machine. apart_from: changes from which
        on an embedded collection is filled by a process of its own."""
        self._data = data
        self._job = job
        self._open_data = open_data
        self._on_neighbours = on_neighbours
        self._apart_from = apart_from
        self._build = data.journal.build_of(job.generation)
        self._base = self._build  # counters when this run began
        self._began = time.monotonic()
        self._asked_to_stop = False
        self._clock = StageClock(self._build.stages)
        self._governing: Governor | None = None
        self._told: str | None = None  # why the store is waited for

    def ask_to_stop(self, *_signal: object) -> None:
        """Stop before the next batch; the build is paused and can be resumed."""
        self._asked_to_stop = True

    def run(self) -> Verification:
        """Build, catch up, index, verify; leaves the generation `ready`, or `failed` when the gate
        refused it. Raises BuildStopped between two batches when asked to stop."""
        data, name = self._data, self._job.generation
        generation = data.catalog.get(name)
        if generation.state == "ready":
            data.catalog.move(name, "catching_up")
            generation = data.catalog.get(name)
        with contextlib.ExitStack() as stack:
            self._keep(pace=None, pace_reason=None)  # a run that was killed may have left one
            stack.callback(self._keep, pace=None, pace_reason=None)
            with self._governor() as governor:  # loading a model is in the way of queries too
                encoder = data.encoder(generation)
                governor.workers = encoder.workers
                self._fill(generation, encoder, governor)
                collection = stack.enter_context(closing(self._open_collection(generation)))
                replay = self._replay(generation, encoder, governor, collection)
                self._catch_up(replay)
                governor.encodes = False
                reached("index.begin")
                with self._clock.timed("finish"):
                    collection.finish()
                reached("index.finished")
                self._catch_up(replay)
            self._keep(pace=None, pace_reason=None)
            if data.catalog.get(name).state == "catching_up":
                data.catalog.move(name, "verifying")
            if generation.recipe.lexical.kind == "bm25s":
                self._save_lexical(generation)
            opener = stack.enter_context(closing(Opener(data, writable=False)))
            lexical = opener.half(generation, collection)
            opened = OpenGeneration(
                generation=generation,
                encoder=encoder,
                collection=collection,
                lexical=lexical,
                searcher=Searcher(
                    generation=name,
                    recipe=generation.recipe,
                    encoder=encoder,
                    collection=collection,
                    lexical=lexical,
                    corpus=data.corpus,
                ),
            )
            with self._clock.timed("verify"):
                return self._verify(opened)

    # -- the parts, in order -------------------------------------------------------------------

    def _open_collection(self, generation: Generation, *, apart: bool = False) -> DenseCollection:
        """The collection as this build left it, or a new one. apart: in a process of its own,
        where it is embedded."""
        data = self._data
        there = generation.collection in data.store.names()
        if not there and generation.watermark > 0:
            raise BuildFailed(
                f"the collection {generation.collection!r} of {generation.name} is gone, though "
                f"it had been built up to seq {generation.watermark}; run `reindexer cancel "
                f"{generation.name}` and `reindexer upgrade {generation.recipe.model}`"
            )
        create = data.store.create_apart if apart else data.store.create
        return create(generation.collection, generation.recipe.collection_spec(generation.name))

    def _replay(
        self,
        generation: Generation,
        encoder: VersionEncoder,
        governor: Governor,
        collection: DenseCollection,
    ) -> Replay:
        recipe = generation.recipe
        return Replay(
            corpus=self._data.corpus,
            collection=collection,
            encoder=encoder,
            splitter=Splitter(recipe.splitter, TimedTokenizer(encoder, self._clock)),
            window=window_docs(self._data.settings, encoder.device),
            checkpoint=self._checkpoint,
            weights=TermWeights.of(recipe),
            check=governor.check,
            while_waiting=governor.check,
            turn=governor.turn,
            clock=self._clock,
        )

    def _fill(self, generation: Generation, encoder: VersionEncoder, governor: Governor) -> None:
        """Everything up to where the corpus stood when the build was recorded. While it is much,
        the engine writes in a process of its own; the graph is made in this one, which is what
        ends with its parent."""
        left = self._build.start_head - generation.watermark
        if left > 0:
            with closing(
                self._open_collection(generation, apart=left >= self._apart_from)
            ) as collection:
                replay = self._replay(generation, encoder, governor, collection)
                self._fill_chunks(generation, replay, collection, governor.check)
            self._flush_progress()
        if self._data.catalog.get(generation.name).state == "building":
            self._data.catalog.move(generation.name, "catching_up")

    def _fill_chunks(
        self,
        generation: Generation,
        replay: Replay,
        collection: DenseCollection,
        check: Callable[[], None],
    ) -> None:
        """Chunks that an earlier run has done are left out, whoever does the others now."""
        data, token = self._data, self._job.token
        build_id, head = self._build.build_id, self._build.start_head
        chunks = ChunkLog(data.database)
        pool = self._actor_pool(generation)
        if pool is None:
            for chunk in chunks.left(build_id, generation.watermark, head):
                replay.run(chunk.after, chunk.until, fresh_until=head)
                self._flush_progress()
        else:
            is_new = chunks.cut(build_id, generation.watermark, head, data.settings.chunk_docs)
            FanOut(
                pool,
                collection,
                clock=self._clock,
                wanted=lambda: data.journal.build_of(generation.name).actors,
                checkpoint=self._checkpoint,
                lost=lambda: data.journal.count_retry(build_id),
                check=check,
            ).run(chunks.left(build_id, generation.watermark, head), fresh=is_new)
        data.catalog.advance(generation.name, head, lease=BUILD_LEASE, token=token)
        chunks.forget(build_id)

    def _actor_pool(self, generation: Generation) -> ActorPool | None:
        return actor_pool(self._data, generation, self._job.token, open_data=self._open_data)

    def _catch_up(self, replay: Replay) -> None:
        """Replay what was written meanwhile; each round is shorter than the one before."""
        for _ in range(CATCH_UP_ROUNDS):
            watermark = self._data.catalog.watermark(self._job.generation)
            head = self._data.corpus.head()
            if head <= watermark:
                return
            self._base = self._data.journal.build_of(self._job.generation)
            self._began = time.monotonic()
            replay.run(watermark, head)
            self._flush_progress()

    def _save_lexical(self, generation: Generation) -> None:
        """Bring the lexical index on disk to the head, unless a service keeps it."""
        try:
            with self._data.journal.lease(SYNC_LEASE):
                opener = Opener(self._data, writable=True)
                opener.lexical(generation.recipe.analyzer)
                opener.sync_lexicals()  # compacts, too, so that a service need not while it answers
                opener.save_lexicals()
                opener.close()
        except LeaseHeld:
            log.info("the lexical index is kept in step by the process that holds the sync lease")

    def _verify(self, opened: OpenGeneration) -> Verification:
        data, job = self._data, self._job
        watermark = data.catalog.watermark(job.generation)
        checks = verify_structure(data.corpus, opened, watermark=watermark)
        metrics = None
        if job.eval_dir is not None:
            from reindexer.quality import check_quality  # brings torch in

            quality, metrics = check_quality(data, opened, Path(job.eval_dir), job.eval_split)
            checks.append(quality)
        report = Verification(generation=job.generation, checks=tuple(checks), metrics=metrics)
        data.catalog.keep_verification(job.generation, report.to_json())
        return report

    # -- progress ------------------------------------------------------------------------------

    def _governor(self) -> Governor:
        data, settings = self._data, self._data.settings
        pace = Pace(target_ms=settings.p99_target_ms, lowest=settings.governor_min_pace)
        governor = Governor(
            wanted=self._wanted,
            serving=data.catalog.processes.seen,
            pace=pace if settings.governor_enabled else None,
            on_change=lambda share, reason: self._keep(pace=share, pace_reason=reason),
            on_yield=self._clock.add_yield,
            on_neighbours=self._on_neighbours,
        )
        self._governing = governor
        return governor

    def _keep(self, **values: Any) -> None:
        """What people look at beside the progress; a build does not fail for it."""
        with contextlib.suppress(SearchError):
            stages = json.dumps(self._clock.seconds())
            self._data.journal.update_build(self._build.build_id, stages=stages, **values)

    def _checkpoint(self, progress: ReplayProgress, chunk: Chunk | None = None) -> None:
        """chunk: the one that is done, of a build that is fanned out."""
        elapsed = time.monotonic() - self._began
        governor = self._governing
        base = self._base
        docs_done = base.docs_done + progress.documents
        counters: dict[str, Any] = {
            "docs_done": docs_done,
            "docs_total": max(self._build.docs_total, docs_done),
            "passages": base.passages + progress.passages,
            "encoded": base.encoded + progress.encoded,
            "reused": base.reused + progress.reused,
            "docs_per_s": progress.documents / elapsed if elapsed > 0 else 0.0,
            "busy_s": base.busy_s + elapsed,
            "tokens": base.tokens + progress.tokens,
            "batches": self._build.batches + (governor.batches if governor is not None else 0),
            "stages": json.dumps(self._clock.seconds()),
            "reason": None,
        }
        build = self._build
        held: dict[str, Any] = {"lease": BUILD_LEASE, "token": self._job.token}
        if chunk is None:
            self._data.journal.checkpoint(build, progress.watermark, **held, **counters)
        else:
            ChunkLog(self._data.database).finish(chunk, build.generation, **held, **counters)
            if governor is not None:
                governor.encodes = True  # in the actors
        self._told = None
        self._stop_if_wanted()

    def store_is_away(self, reason: str) -> None:
        """Goes on waiting for the store, unless somebody wants this build to stop."""
        if self._told is None:
            log.warning("the build waits for the store: %s", reason)
            self._told = f"waiting for the store: {reason}"
            self._data.journal.update_build(self._build.build_id, reason=self._told)
        self._stop_if_wanted()

    def _stop_if_wanted(self) -> None:
        wanted = self._wanted()
        if wanted is not None:
            raise BuildStopped(wanted)

    def _wanted(self) -> str | None:
        if self._asked_to_stop:
            return "pause"
        build = self._data.journal.build_of(self._job.generation)
        if build.wanted == "resume":
            self._data.journal.go_on(build)
        return build.stop

    def _flush_progress(self) -> None:
        self._base = self._data.journal.build_of(self._job.generation)
        self._began = time.monotonic()


def run_job(job: BuildJob) -> int:
    """The whole life of the child process; returns its exit code."""
    with open_data_directory(job.read_settings()) as data:
        run = BuildRun(data, job, on_neighbours=lower_priority)
        data.wait_for_store(run.store_is_away)
        signal.signal(signal.SIGTERM, run.ask_to_stop)
        signal.signal(signal.SIGINT, run.ask_to_stop)
        return run_to_its_end(data, run, job.generation)


def run_to_its_end(data: DataDirectory, run: BuildRun, generation: str) -> int:
    """Run, and leave in catalog and journal what became of it; returns the exit code."""
    build = data.journal.build_of(generation)
    try:
        return _keep_outcome(data, build, run.run())
    except BuildStopped as stopped:
        record_stop(data, build, stopped.wanted)
        return EXIT_PAUSED
    except LeaseLost as error:
        log.error("%s", error)
        return 1
    except Exception as error:
        reason = in_words(error)
        log.info("build %s failed", build.build_id, exc_info=True)  # shown with -v
        try:
            data.journal.update_build(build.build_id, state="failed", reason=reason)
        except SearchError:  # a full disk, a database that is away: nothing can be kept either
            log.error("build %s of %s stopped: %s", build.build_id, generation, reason)
        return 1


def _keep_outcome(data: DataDirectory, build: Build, report: Verification) -> int:
    if report.passed:
        data.catalog.move(build.generation, "ready")
        data.journal.update_build(build.build_id, state="done", wanted=None, reason=None)
        return 0
    reason = "; ".join(report.reasons)
    data.catalog.move(build.generation, "failed", reason=reason)
    data.journal.update_build(build.build_id, state="failed", reason=f"gate refused: {reason}")
    return 3


def main() -> int:
    """Entry point of the child process."""
    die_with_parent(int(sys.argv[1]))
    job = BuildJob.from_json(sys.stdin.read())
    logs.configure(job.log_format, job.log_level)
    settings = job.read_settings()
    if traces.are_wanted(settings.traces, os.environ):
        traces.start("reindexer-build")
    try:
        with logs.known(generation=job.generation), traces.span("build", generation=job.generation):
            return run_job(job)
    finally:
        traces.stop()


if __name__ == "__main__":
    sys.exit(main())
