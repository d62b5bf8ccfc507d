"""Actors that are child processes of the build: one for each GPU, or as many as are asked for.

Each has a pipe of its own, so that one that dies in the middle of a message holds up no other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from reindexer.chunk_work import ActorOrder, ChunkResult, ChunkWork
from reindexer.chunks import Chunk
from reindexer.errors import BuildFailed
from reindexer.fanout import ActorLost, ActorReady, Answer
from reindexer.governor import lower_priority
from search.processes import die_with_parent

STOP_S = 5.0  # an actor that was killed gets so long to be gone
_LOST = (EOFError, ConnectionError, OSError)


class ProcessActor:
    """One child process; see `reindexer.fanout.Actor`."""

    def __init__(self, order: ActorOrder, gpu: str | None, threads: int) -> None:
        """gpu: as CUDA_VISIBLE_DEVICES names it; None for a process that sees what the build sees.
        threads: cores it may use."""
        self.gpu = gpu
        context = multiprocessing.get_context("spawn")  # a fork would share CUDA and its locks
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work,
            args=(theirs, order, gpu, threads, os.getpid()),
            name="encode-chunks",
            daemon=True,
        )
        self.process.start()
        theirs.close()  # only the child holds that end: when it dies, ours is told

    def encode(self, chunk: Chunk, *, fresh: bool) -> None:
        with contextlib.suppress(*_LOST):
            self.connection.send((chunk, fresh))

    def answer(self) -> Answer:
        """Raises what went wrong in the child."""
        try:
            answer = self.connection.recv()
        except _LOST:
            self.process.join(STOP_S)
            return ActorLost(
                reason=f"process {self.process.pid} ended with {self.process.exitcode}"
            )
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, ActorReady | ChunkResult)
        return answer

    def stop(self) -> None:
        if self.process.is_alive():
            self.process.kill()
        self.process.join(STOP_S)
        self.connection.close()


class ProcessPool:
    """Child processes; see `reindexer.fanout.ActorPool`."""

    def __init__(
        self, order: ActorOrder, *, processes: int, gpus: Sequence[str], cores: int
    ) -> None:
        """processes: 0 is one for each GPU. gpus: those this process sees, by the names that
        CUDA_VISIBLE_DEVICES takes. cores: shared among the processes."""
        self._order = order
        self._n = processes or len(gpus) or 1
        self._gpus = list(gpus)
        self._threads = max(1, cores // self._n)
        self._actors: list[ProcessActor] = []

    def room(self) -> int:
        return self._n

    def start(self) -> ProcessActor:
        self._actors = [actor for actor in self._actors if actor.process.is_alive()]
        taken = [actor.gpu for actor in self._actors]
        gpu = min(self._gpus, key=taken.count) if self._gpus else None
        actor = ProcessActor(self._order, gpu, self._threads)
        self._actors.append(actor)
        return actor

    def wait(
        self, actors: Sequence[ProcessActor], timeout_s: float
    ) -> list[tuple[ProcessActor, Answer]]:
        speaking: Sequence[Any] = wait([actor.connection for actor in actors], timeout_s)
        return [(actor, actor.answer()) for actor in actors if actor.connection in speaking]

    def close(self) -> None:
        """Nothing is left when its actors have been stopped."""


def visible_gpus(count: int) -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them for a child."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in named.split(",")] if named else []
    return names[:count] if len(names) >= count else [str(number) for number in range(count)]


def _work(
    connection: Connection, order: ActorOrder, gpu: str | None, threads: int, parent: int
) -> None:
    """The life of a child process."""
    die_with_parent(parent)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    work = ChunkWork(order, on_neighbours=lower_priority)
    try:
        connection.send(ActorReady(where=f"{work.ready()}, process {os.getpid()}"))
        while True:
            chunk, fresh = connection.recv()
            connection.send(work.encode(chunk, fresh=fresh))
    except _LOST:
        return  # the build is gone
    except BaseException as error:
        _tell(connection, error)
    finally:
        work.close()


def _tell(connection: Connection, error: BaseException) -> None:
    try:
        connection.send(error)
    except _LOST:
        return
    except Exception:  # it cannot be pickled
        connection.send(BuildFailed(f"{type(error).__name__}: {error}"))
