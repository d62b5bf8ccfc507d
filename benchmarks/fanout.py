"""Four actors on a Ray cluster against one, with an encoder that sleeps.

    python benchmarks/fanout.py [--documents 1600] [--actors 4] [--where ray|processes]

Sleeping takes no core, so four actors on two cores show what the fan-out itself costs: handing out
chunks, reading them, sending vectors back, writing them, keeping the journal. The clock starts when
every actor has loaded its model and stops when the last chunk is done.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import numpy as np

from benchmarks.report import Report, read_arguments
from reindexer.chunk_work import ActorOrder
from reindexer.chunks import Chunk, ChunkLog
from reindexer.data_directory import DataDirectory
from reindexer.fanout import ActorPool, ActorReady, Answer, FanOut
from reindexer.journal import BUILD_LEASE
from reindexer.replay import ReplayProgress
from reindexer.settings import Settings
from reindexer.stages import StageClock
from search.dense import FloatMatrix
from search.documents import Document
from search.generations import Generation
from search.recipe import Recipe, SplitterRecipe
from training.tokenizer import TokenizedTexts

PASSAGE_S = 0.02  # what a MiniLM takes for 100 tokens on one core
DIM = 384
CHUNK_DOCS = 50
AT_LEAST = 3.6  # of four actors


class SleepingEncoder:
    """Takes its time and no core."""

    dim, max_tokens, fingerprint, workers, device = DIM, 128, "0" * 64, 1, "cpu"

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return TokenizedTexts.of([[1, *range(len(text.split()))] for text in texts])

    def encode_tokenized(
        self,
        tokenized: TokenizedTexts,
        *,
        turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> FloatMatrix:
        with turn():
            time.sleep(PASSAGE_S * len(tokenized))
        return np.full((len(tokenized), DIM), DIM**-0.5, dtype=np.float32)


class SleepingDirectory(DataDirectory):
    def encoder(self, generation: Generation) -> Any:
        del generation
        return SleepingEncoder()


class Together:
    """A pool whose actors become ready all at once; knows when that was."""

    def __init__(self, pool: ActorPool, n_actors: int) -> None:
        self._pool, self._n = pool, n_actors
        self._ready: list[tuple[Any, Answer]] = []
        self.began = 0.0

    def room(self) -> int:
        return self._n

    def start(self) -> Any:
        return self._pool.start()

    def wait(self, actors: Sequence[Any], timeout_s: float) -> list[tuple[Any, Answer]]:
        answers = self._pool.wait(actors, timeout_s)
        if self.began:
            return answers
        assert all(isinstance(answer, ActorReady) for _, answer in answers)
        self._ready += answers
        if len(self._ready) < self._n:
            return []
        self.began = time.perf_counter()
        return self._ready

    def close(self) -> None:
        self._pool.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=1_600)
    parser.add_argument("--actors", type=int, default=4)
    parser.add_argument("--where", choices=("ray", "processes"), default="ray")
    arguments = read_arguments(parser)

    report = Report(
        f"fan-out: {arguments.documents:,} documents, {arguments.where}", path=arguments.report
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), chunk_docs=CHUNK_DOCS)
        with SleepingDirectory(settings) as data:
            data.corpus.put(
                [
                    Document.of(doc_id=f"d{number}", text=f"the text of number {number}")
                    for number in range(arguments.documents)
                ]
            )
            taken = {n: _build(data, n, arguments.where) for n in (1, arguments.actors)}
    for n_actors, seconds in taken.items():
        rate = arguments.documents / seconds
        report.figure(f"actors: {n_actors}", rate, "passages/s", note=f"{seconds:.1f} s")
    report.figure(
        f"{arguments.actors} actors / 1",
        taken[1] / taken[arguments.actors],
        at_least=AT_LEAST if arguments.actors == 4 else None,
    )
    return report.exit_code()


def _build(data: DataDirectory, n_actors: int, where: str) -> float:
    """Seconds from the first chunk to the last."""
    generation = data.catalog.record(
        Recipe(
            model="sleeping@1",
            fingerprint=SleepingEncoder.fingerprint,
            dim=DIM,
            splitter=SplitterRecipe(max_tokens=128, overlap_tokens=16),
        )
    )
    head = data.corpus.head()
    build = data.journal.record_build(generation.name, start_head=head, docs_total=head)
    chunks = ChunkLog(data.database)
    chunks.cut(build.build_id, 0, head, CHUNK_DOCS)
    ended = 0.0
    with data.journal.lease(BUILD_LEASE) as lease:

        def checkpoint(progress: ReplayProgress, chunk: Chunk) -> None:
            nonlocal ended
            chunks.finish(
                chunk,
                generation.name,
                lease=BUILD_LEASE,
                token=lease.token,
                docs_done=progress.documents,
            )
            ended = time.perf_counter()

        order = ActorOrder(
            settings=replace(data.settings, data_dir=data.path.absolute()),
            open_data=SleepingDirectory,
            generation=generation.name,
            fingerprint=generation.recipe.fingerprint,
            token=lease.token,
            host=socket.gethostname(),
        )
        pool = Together(_pool(order, n_actors, where), n_actors)
        collection = data.store.create(
            generation.collection, generation.recipe.collection_spec(generation.name)
        )
        FanOut(
            pool,
            collection,
            clock=StageClock(),
            wanted=lambda: n_actors,
            checkpoint=checkpoint,
            lost=lambda: None,
            check=lease.check,
        ).run(chunks.left(build.build_id, 0, head), fresh=True)
        assert collection.count() == head
        collection.close()
    return ended - pool.began


def _pool(order: ActorOrder, n_actors: int, where: str) -> ActorPool:
    if where == "processes":
        from reindexer.fanout_processes import ProcessPool

        return ProcessPool(order, processes=n_actors, gpus=[], cores=n_actors)
    from reindexer.fanout_ray import RayPool

    return RayPool(order, None, address=None, actors=n_actors, cpus=0.25, gpus=0.0)


if __name__ == "__main__":
    # What actors unpickle must not be of this script's own __main__.
    from benchmarks import fanout

    sys.exit(fanout.main())
