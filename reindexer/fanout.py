"""A build whose chunks are encoded side by side, by child processes or by actors on a Ray cluster.

An actor that is lost costs the chunks it had in hand and nothing else; they go to another one. The
build itself may die: chunks that are done are marked, and the next run goes on with the others.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from reindexer.chunk_work import ChunkResult
from reindexer.chunks import Chunk
from reindexer.errors import BuildFailed
from reindexer.replay import UPSERT_POINTS, ReplayProgress
from reindexer.stages import StageClock
from search.dense import DenseCollection

log = logging.getLogger(__name__)

POLL_S = 0.5  # between two looks at how many actors are wanted, and whether to stop
AHEAD = 2  # chunks an actor has in hand, so that it never waits for the next one
MAX_LOSSES = 5  # of one chunk; then it is the chunk that kills its actors
MAX_FAILED_STARTS = 5  # in a row


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorReady:
    """The actor has loaded its model."""

    where: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorLost:
    """The actor's process or node is gone."""

    reason: str


Answer = ActorReady | ActorLost | ChunkResult


class Actor(Protocol):
    """One actor, as the build sees it. Asking a dead one does nothing: `wait` tells."""

    def encode(self, chunk: Chunk, *, fresh: bool) -> None: ...

    def stop(self) -> None:
        """At once."""
        ...


class ActorPool(Protocol):
    """Where actors come from. `processes` and `ray` are the two."""

    def room(self) -> int:
        """How many actors there can be now."""
        ...

    def start(self) -> Any:
        """An actor that is still to become ready; it may have to wait for a machine."""
        ...

    def wait(self, actors: Sequence[Any], timeout_s: float) -> list[tuple[Any, Answer]]:
        """What the actors have to say, at once or as soon as one has. Raises what went wrong in
        an actor and would go wrong in any other."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Hand:
    """What the build knows of an actor."""

    actor: Actor
    ready: bool = False
    leaving: bool = False  # gets no more chunks
    chunks: deque[Chunk] = field(default_factory=deque)  # in hand, in the order they are done


class FanOut:
    """Hands chunks to actors until all are done."""

    def __init__(
        self,
        pool: ActorPool,
        collection: DenseCollection,
        *,
        clock: StageClock,
        wanted: Callable[[], int | None],
        checkpoint: Callable[[ReplayProgress, Chunk], None],
        lost: Callable[[], None],
        check: Callable[[], None],
    ) -> None:
        """clock: is told how long the stages took in all actors together. wanted: how many actors
        somebody asked for; None for as many as there is room for.
        checkpoint: keeps the totals and that the chunk is done. lost: counts a chunk that has to be
        done again. check: called all the time, to raise when this process must stop."""
        self._pool = pool
        self._collection = collection
        self._clock = clock
        self._wanted = wanted
        self._checkpoint = checkpoint
        self._count_loss = lost
        self._check = check
        self._hands: list[_Hand] = []
        self._todo: deque[tuple[Chunk, bool]] = deque()
        self._losses: dict[Chunk, int] = {}
        self._failed_starts = 0
        self._totals: ReplayProgress | None = None

    def run(self, chunks: Sequence[Chunk], *, fresh: bool) -> None:
        """Until every chunk is done and written. fresh: nothing of them is in the store yet.

        Raises BuildFailed, EncodingFailed, StoreError, LeaseLost, or what `check` raises; chunks
        that are done stay done.
        """
        self._todo.extend((chunk, fresh) for chunk in chunks)
        try:
            while self._todo or any(hand.chunks for hand in self._hands):
                self._check()
                self._resize()
                self._hand_out()
                answers = self._pool.wait([hand.actor for hand in self._hands], POLL_S)
                for actor, answer in answers:
                    hand = next(hand for hand in self._hands if hand.actor is actor)
                    self._take(hand, answer)
        finally:
            for hand in self._hands:
                hand.actor.stop()
            self._pool.close()

    def _resize(self) -> None:
        asked = self._wanted()
        room = self._pool.room() if asked is None else asked
        n_chunks = len(self._todo) + sum(len(hand.chunks) for hand in self._hands)
        wanted = max(1, min(room, n_chunks))
        staying = [hand for hand in self._hands if not hand.leaving]
        for hand in reversed(staying[wanted:]):
            hand.leaving = True
        for _ in range(wanted - len(staying)):
            self._hands.append(_Hand(self._pool.start()))
        for hand in [hand for hand in self._hands if hand.leaving and not hand.chunks]:
            hand.actor.stop()
            self._hands.remove(hand)

    def _hand_out(self) -> None:
        ready = [hand for hand in self._hands if hand.ready and not hand.leaving]
        for in_hand in range(AHEAD):
            if in_hand and len(self._todo) < len(ready):
                return  # near the end nobody keeps a chunk that another could begin
            for hand in ready:
                if self._todo and len(hand.chunks) <= in_hand:
                    chunk, fresh = self._todo.popleft()
                    hand.chunks.append(chunk)
                    hand.actor.encode(chunk, fresh=fresh)

    def _take(self, hand: _Hand, answer: Answer) -> None:
        match answer:
            case ActorReady(where=where):
                log.info("an actor on %s is ready", where)
                hand.ready = True
                self._failed_starts = 0
            case ActorLost(reason=reason):
                self._lose(hand, reason)
            case ChunkResult():
                assert hand.chunks[0] == answer.chunk
                self._keep(answer)
                hand.chunks.popleft()

    def _lose(self, hand: _Hand, reason: str) -> None:
        self._hands.remove(hand)
        hand.actor.stop()
        log.warning("an actor was lost: %s", reason)
        if not hand.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise BuildFailed(
                    f"{self._failed_starts} actors in a row were lost before they had loaded the "
                    f"model; the last: {reason}"
                )
        for place, chunk in enumerate(hand.chunks):
            if place == 0:  # the others had not begun
                self._losses[chunk] = self._losses.get(chunk, 0) + 1
                self._count_loss()
            if self._losses.get(chunk, 0) >= MAX_LOSSES:
                raise BuildFailed(
                    f"seq {chunk.after:,} to {chunk.until:,} was begun by {MAX_LOSSES} actors, and "
                    f"all of them were lost; the last: {reason}"
                )
        self._todo.extendleft((chunk, False) for chunk in reversed(hand.chunks))

    def _keep(self, result: ChunkResult) -> None:
        progress = result.progress
        if result.points is not None and result.vectors is not None:
            self._check()
            with self._clock.timed("write"):
                for start in range(0, len(result.points), UPSERT_POINTS):
                    end = start + UPSERT_POINTS
                    self._collection.upsert(result.points[start:end], result.vectors[start:end])
        for stage, seconds in progress.stages.items():
            self._clock.add(stage, seconds)
        self._totals = progress if self._totals is None else added(self._totals, progress)
        self._checkpoint(self._totals, result.chunk)


def added(totals: ReplayProgress, progress: ReplayProgress) -> ReplayProgress:
    """Both together, the watermark aside, which means nothing of chunks in any order."""
    return ReplayProgress(
        **{
            item.name: _added(getattr(totals, item.name), getattr(progress, item.name))
            for item in fields(ReplayProgress)
        }
    )


def _added(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):
        return {key: one.get(key, 0.0) + other.get(key, 0.0) for key in {**one, **other}}
    return one + other
