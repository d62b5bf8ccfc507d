"""An actor: a process that encodes one chunk after another. What it works on, it opens by itself.

With a store that many processes can write to it writes the vectors there; of an embedded one it
returns them, and the build writes. Knows nothing of who tells it what to do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reindexer.chunks import Chunk, ChunkLog
from reindexer.data_directory import DataDirectory
from reindexer.errors import BuildFailed
from reindexer.governor import Governor
from reindexer.journal import BUILD_LEASE
from reindexer.pace import GivenPace
from reindexer.replay import Replay, ReplayProgress
from reindexer.settings import Settings
from reindexer.stages import StageClock, TimedTokenizer
from reindexer.window import window_docs
from search.dense import CollectionSpec, FloatMatrix, Point
from search.splitter import Splitter
from search.term_weights import TermWeights

CHECK_S = 0.5  # between two looks at whether a chunk is still this actor's

OpenData = Callable[[Settings], DataDirectory]


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorOrder:
    """What every actor of a build is told once."""

    settings: Settings
    open_data: OpenData
    generation: str
    fingerprint: str  # of its encoder
    token: int  # of the build lease
    host: str  # where the build runs


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkResult:
    """A chunk that is encoded; written as well, unless it brings its points along."""

    chunk: Chunk
    progress: ReplayProgress  # of this chunk alone
    points: list[Point] | None = None
    vectors: FloatMatrix | None = None  # (len(points), dim)


class ChunkWork:
    """What an actor does, in order: `ready`, then `encode` for each chunk."""

    def __init__(
        self, order: ActorOrder, *, on_neighbours: Callable[[], None] = lambda: None
    ) -> None:
        """on_neighbours: called once somebody serves on this machine."""
        self._order = order
        self._on_neighbours = on_neighbours
        self._data: DataDirectory | None = None
        self._governor: Governor | None = None
        self._clock = StageClock()  # of the chunk in hand

    def ready(self) -> str:
        """Load the model and open what is worked on; returns where that is.

        Raises BuildFailed where the corpus cannot be read from here, ModelDamaged, StoreError.
        """
        order = self._order
        host = socket.gethostname()
        if order.settings.sql_url.startswith("sqlite") and host != order.host:
            raise BuildFailed(
                f"an actor on {host} cannot read the corpus, which is a SQLite file on "
                f"{order.host}; give the installation a PostgreSQL (database.url), or use a Ray "
                "cluster of this machine alone"
            )
        self._data = data = order.open_data(order.settings)
        self._generation = generation = data.catalog.get(order.generation)
        self._log = ChunkLog(data.database)
        self._governor = self._governed(data)
        self._encoder = self._load(data)
        self._governor.workers = self._encoder.workers
        self._spec = generation.recipe.collection_spec(generation.name)
        self._straight = (
            data.store.create(generation.collection, self._spec) if data.store.shared else None
        )
        return host

    def encode(self, chunk: Chunk, *, fresh: bool) -> ChunkResult:
        """fresh: nothing of this chunk can be in the store. A chunk whose actor was lost is not:
        what that one had written is kept as it is."""
        assert self._data is not None, "ready() comes first"
        assert self._governor is not None
        collection: Any = self._straight or _Returned(self._generation.collection, self._spec)
        self._clock = clock = StageClock()
        replay = Replay(
            corpus=self._data.corpus,
            collection=collection,
            encoder=self._encoder,
            splitter=Splitter(
                self._generation.recipe.splitter, TimedTokenizer(self._encoder, clock)
            ),
            window=window_docs(self._order.settings, self._encoder.device),
            checkpoint=lambda _progress: None,  # the chunk as a whole is what gets marked
            weights=TermWeights.of(self._generation.recipe),
            check=self._checking(chunk),
            turn=self._governor.turn,
            clock=clock,
        )
        fresh_until = chunk.until if fresh or self._straight is None else 0
        progress = replay.run(chunk.after, chunk.until, fresh_until=fresh_until)
        result = ChunkResult(chunk=chunk, progress=progress)
        if isinstance(collection, _Returned):
            return replace(result, points=collection.points, vectors=collection.vectors)
        return result

    def close(self) -> None:
        if self._governor is not None:
            self._governor.__exit__()
        if self._data is not None:
            self._data.close()

    def _checking(self, chunk: Chunk) -> Callable[[], None]:
        """Raises LeaseLost when the chunk is not this actor's any more."""
        looked_at = -CHECK_S

        def check() -> None:
            nonlocal looked_at
            if time.monotonic() - looked_at > CHECK_S:
                looked_at = time.monotonic()
                self._log.check(chunk, lease=BUILD_LEASE, token=self._order.token)

        return check

    def _governed(self, data: DataDirectory) -> Governor:
        """Keeps the pace that the build has written down, from now on."""
        generation = self._order.generation
        is_wanted = self._order.settings.governor_enabled
        given = GivenPace(lambda: data.journal.build_of(generation).pace)
        governor = Governor(
            wanted=lambda: None,  # the build ends its actors
            serving=data.catalog.processes.seen,
            pace=given if is_wanted else None,
            on_yield=self._yielded,
            on_neighbours=self._on_neighbours,
        )
        return governor.__enter__()

    def _yielded(self, seconds: float) -> None:
        self._clock.add_yield(seconds)

    def _load(self, data: DataDirectory) -> Any:
        return data.encoder(self._generation)


class _Returned:
    """Stands in for a collection that another process has open: keeps what is written to it."""

    def __init__(self, name: str, spec: CollectionSpec) -> None:
        self.name = name
        self.spec = spec
        self.points: list[Point] = []
        self._parts: list[FloatMatrix] = [np.empty((0, spec.dim), dtype=np.float32)]

    @property
    def vectors(self) -> FloatMatrix:
        return np.concatenate(self._parts)

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        self.points += points
        self._parts.append(vectors)
