"""An embedded collection in a process of its own, beside one that answers queries or encodes.

The engine keeps Python's lock while it opens a collection, while it searches and while it writes,
and ends its process when memory is short. In a process of its own it holds nobody up and takes
nobody along: the next generation is opened, the dense leg asked, and what a build has encoded
written, while this process does something else. Both ends speak over socket pairs;
`search/edge_child.py` is the other one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from search import errors
from search.dense import CollectionSpec, DenseHit, FloatMatrix, FloatVector, Layout, Point
from search.documents import Filter
from search.errors import StoreError, StoreUnavailable
from search.processes import STILL_S, Stillness, run_module

log = logging.getLogger(__name__)

CHILD = "search.edge_child"  # the module that runs there
CHANNELS = 4  # calls that can be under way at a time
# Then the process hangs, and another takes its place; so does one that does nothing for STILL_S.
# The engine may have a log to read first, and nobody knows how long a graph takes.
SEARCH_WAIT_S, CALL_WAIT_S, FINISH_WAIT_S = 60.0, 600.0, math.inf
LOOK_S = 1.0  # between two looks whether it still does something
NO_BLAS = {"OPENBLAS_NUM_THREADS": "1"}  # numpy would start threads for it, and nothing needs them
CLOSE_WAIT_S = 60.0  # the engine's log has what was not flushed by then
RESTART_S = 2.0  # after one that could not be started

Hits = Callable[[], list[DenseHit]]


class EdgeProcessCollection:
    """One open collection; see `search.dense.DenseCollection`.

    A process that is gone costs the calls that were under way a StoreUnavailable, and is started
    again by the next. What it had acknowledged is there then.
    """

    def __init__(
        self, root: Path, name: str, fingerprint: str, wait_s: float, *, bulk: bool = False
    ) -> None:
        """bulk: it is being filled, and nobody searches. Raises what EdgeStore.open raises."""
        self._name = name
        how = "bulk" if bulk else "search"
        self._arguments = [str(root), name, fingerprint, str(wait_s), how, str(os.getpid())]
        self._lock = threading.Lock()
        self._closed = False
        self._failed: tuple[float, StoreError] | None = None  # when it last could not be started
        self._process: _Process | None = _Process(name, self._arguments)
        self._spec = self._process.spec

    @property
    def name(self) -> str:
        return self._name

    @property
    def spec(self) -> CollectionSpec:
        return self._spec

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        process = self._process
        return process.pid if process is not None else None

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        self._call("upsert", list(points), vectors)

    def remove_older(self, seqs: Mapping[str, int]) -> None:
        self._call("remove_older", dict(seqs))

    def stored(self, doc_ids: Sequence[str]) -> tuple[list[Point], FloatMatrix]:
        found: tuple[list[Point], FloatMatrix] = self._call("stored", list(doc_ids))
        return found

    def search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> list[DenseHit]:
        with self.begin_search(vector, k, where, exact=exact) as hits:
            return hits()

    @contextlib.contextmanager
    def begin_search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> Iterator[Hits]:
        """Have it search while the block does something else; see `search.dense.SearchesAside`."""
        with self._channel(self._running()) as channel:
            channel.ask("search", np.ascontiguousarray(vector), k, tuple(where), exact)
            yield lambda: _hits(channel.answer(SEARCH_WAIT_S))

    def scan(self, batch: int = 1_000) -> Iterator[tuple[list[Point], FloatMatrix]]:
        return self._pages("scan", batch)

    def scan_points(self, batch: int = 5_000) -> Iterator[list[Point]]:
        return self._pages("scan_points", batch)

    def count(self) -> int:
        return int(self._call("count"))

    def indexed(self) -> float:
        return float(self._call("indexed"))

    def layout(self) -> Layout:
        layout: Layout = self._call("layout")
        return layout

    def finish(self) -> None:
        """Build the HNSW graph; searches of this collection wait for it."""
        self._call("finish", within_s=FINISH_WAIT_S)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True  # first, so that a search on its way knows what happened to it
            process, self._process = self._process, None
        if process is not None:
            process.end()

    # -- parts ---------------------------------------------------------------------------------

    def _call(self, method: str, *arguments: Any, within_s: float = CALL_WAIT_S) -> Any:
        return self._ask(self._running(), method, *arguments, within_s=within_s)

    def _ask(
        self,
        process: _Process,
        method: str,
        *arguments: Any,
        within_s: float = CALL_WAIT_S,
    ) -> Any:
        with self._channel(process) as channel:
            channel.ask(method, *arguments)
            return channel.answer(within_s)

    def _pages(self, method: str, batch: int) -> Iterator[Any]:
        """All from one process: another knows nothing of the pages that are read already."""
        process = self._running()
        number = self._ask(process, f"begin_{method}", batch)
        try:
            while (page := self._ask(process, "next_page", number)) is not None:
                yield page
        finally:
            with contextlib.suppress(StoreError):
                self._ask(process, "end_pages", number)

    @contextlib.contextmanager
    def _channel(self, process: _Process) -> Iterator[_Channel]:
        channel = process.free.get()
        try:
            try:
                yield channel
            finally:
                channel.drain()
        except _Gone as error:
            raise self._lost(process, str(error)) from error
        finally:
            process.free.put(channel)

    def _running(self) -> _Process:
        with self._lock:
            if self._closed:
                raise _closed(self._name)
            if self._process is None:
                if self._failed is not None and time.monotonic() < self._failed[0] + RESTART_S:
                    raise self._failed[1]
                try:
                    self._process = _Process(self._name, self._arguments)
                except StoreError as error:
                    self._failed = (time.monotonic(), error)
                    raise
                log.info(
                    "collection %s is open again, in process %d", self._name, self._process.pid
                )
            return self._process

    def _lost(self, process: _Process, reason: str) -> StoreError:
        with self._lock:
            if self._closed:
                return _closed(self._name)
            is_news = self._process is process
            if is_news:
                self._process = None
        message = (
            f"the process {process.pid} that had collection {self._name!r} open is gone "
            f"({process.kill()}{reason}); the next request opens it again. Run `reindexer doctor` "
            "if this goes on"
        )
        if is_news:
            log.warning("%s", message)
        return StoreUnavailable(message)


class _Gone(Exception):
    """Nobody is at the other end."""


class _Channel:
    """One question at a time, and its answer."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection = connection
        self._pid = pid  # of who answers
        self._owes = False

    def ask(self, method: str, *arguments: Any) -> None:
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise _Gone from error
        self._owes = True

    def answer(self, within_s: float) -> Any:
        """Raises the error that the question led to, and _Gone when there will be no answer."""
        self._owes = False
        try:
            self._await(within_s)
            kind, *found = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _Gone from error
        if kind == "error":
            raise _error(*found)
        return found[0]

    def _await(self, within_s: float) -> None:
        """Raises _Gone when nothing comes."""
        deadline = time.monotonic() + within_s
        stillness: Stillness | None = None
        while not self._connection.poll(max(0.0, min(LOOK_S, deadline - time.monotonic()))):
            stillness = stillness or Stillness(self._pid)
            if time.monotonic() >= deadline:
                raise _Gone(f", after no answer within {within_s:g} s")
            if stillness.seconds() > STILL_S:
                raise _Gone(f", after it did nothing for {STILL_S:g} s; memory may be short")

    def drain(self) -> None:
        """Nobody wants the answer any more."""
        if self._owes:
            with contextlib.suppress(errors.SearchError):
                self.answer(SEARCH_WAIT_S)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()


class _Process:
    """A process that has the collection open."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        pairs = [socket.socketpair() for _ in range(CHANNELS)]
        theirs = [pair[1].fileno() for pair in pairs]
        command = run_module(CHILD, *arguments, *map(str, theirs))
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=theirs, env={**os.environ, **NO_BLAS}
            )
        except OSError as error:
            for ours, _ in pairs:
                ours.close()
            raise StoreError(f"no process could be started for {name!r}: {error}") from error
        finally:
            for _, their in pairs:
                their.close()
        self._channels = [
            _Channel(Connection(ours.detach()), self._process.pid) for ours, _ in pairs
        ]
        self.free: queue.SimpleQueue[_Channel] = queue.SimpleQueue()
        try:
            self.spec: CollectionSpec = self._channels[0].answer(CALL_WAIT_S)
        except _Gone as error:
            raise StoreError(
                f"the process that was to open collection {name!r} is gone ({self.kill()}); memory "
                "may be short: run `reindexer doctor`, and look at the system's log"
            ) from error
        except BaseException:
            self.kill()
            raise
        for channel in self._channels:
            self.free.put(channel)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self) -> None:
        """Have it close the collection and end, after the calls that are under way."""
        channel = self.free.get()
        with contextlib.suppress(_Gone, errors.SearchError):
            channel.ask("close")
            channel.answer(CLOSE_WAIT_S)
        self.kill()

    def kill(self) -> str:
        """Returns how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)  # it may be about to end by itself
        self._process.kill()
        code = self._process.wait()
        for channel in self._channels:
            channel.close()
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _hits(columns: tuple[tuple[Any, ...], ...]) -> list[DenseHit]:
    return list(map(DenseHit._make, zip(*columns, strict=True)))


def _error(kind: str, message: str) -> errors.SearchError:
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, errors.SearchError):
        return found(message)
    return StoreError(f"{kind}: {message}")


def _closed(name: str) -> StoreError:
    return StoreError(f"collection {name!r} has been closed; open it again")
