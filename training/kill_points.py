"""Named moments between two writes at which a process may be killed, to prove that it may be.

The code calls `reached` wherever something has just become durable, or is just about to. That does
nothing, unless somebody listens: `reindexer selftest kill` in processes of its own, or whoever
starts a process with REINDEXER_KILL_POINT=corpus.commit in its environment; corpus.commit:3 is the
third time that it is reached.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Literal, NoReturn

KillPoint = Literal[
    "corpus.write",  # rows written, transaction open
    "corpus.commit",
    "lease.taken",
    "generation.recorded",
    "generation.moved",
    "build.recorded",
    "collection.made",  # complete, but under another name
    "collection.named",
    "upsert.begin",
    "upsert.acknowledged",
    "stale.removed",  # older points of the same documents
    "checkpoint.write",  # transaction open
    "checkpoint.commit",
    "watermark.commit",
    "index.begin",
    "index.built",  # the graph is there, its width is not
    "index.finished",
    "lexical.arrays",
    "lexical.manifest",  # written, not yet in its place
    "lexical.saved",
    "verification.kept",
    "cutover.requested",
    "cutover.prepared",
    "cutover.swap",  # transaction open
    "cutover.swapped",
    "alias.moved",
    "sync.generation",  # one of several is in step
    "prune.fenced",  # in the catalog only
    "prune.trashed",  # out of its place, files still there
    "prune.dropped",
    "model.copied",
    "model.named",
    "training.checkpoint",
]
Listener = Callable[[KillPoint], None]

ENVIRONMENT_VARIABLE = "REINDEXER_KILL_POINT"

_listener: Listener | None = None


def reached(point: KillPoint) -> None:
    """Say that this moment has come."""
    if _listener is not None:
        _listener(point)


def listen(listener: Listener | None) -> None:
    """Be told of every point that this process reaches from now on; None: no longer."""
    global _listener
    _listener = listener


def kill_here() -> NoReturn:
    """As a power cut or the kernel's memory killer would end this process: nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL returned")


def killer(point: str, nth: int = 1) -> Listener:
    """Kills the process when it reaches the point for the nth time."""
    left = nth

    def listener(reached_point: KillPoint) -> None:
        nonlocal left
        if reached_point == point:
            left -= 1
            if left == 0:
                kill_here()

    return listener


def _from_environment() -> Listener | None:
    point, _, nth = os.environ.get(ENVIRONMENT_VARIABLE, "").partition(":")
    return killer(point, int(nth or 1)) if point else None


listen(_from_environment())
