"""Answers for a verb: from the running service over HTTP, or from a generation opened here.

An embedded collection has one owner process. When a service owns it, a verb asks the service; when
none runs, the verb opens the generation itself and gives it back. Callers need not know which.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld
from reindexer.journal import SYNC_LEASE
from reindexer.running_service import (
    LEGS_PER_CALL,
    QUERIES_PER_CALL,
    RunningService,
    asked_in_parts,
)
from search.dense import FloatMatrix, Point
from search.errors import (
    NoLiveGeneration,
    StoreLocked,
    WrongState,
)
from search.generations import Generation
from search.stored_points import from_frames

if TYPE_CHECKING:
    from search.answer import RunMode
    from search.searcher import SearchRequest
    from search.serving import OpenGeneration

log = logging.getLogger(__name__)

OPEN_WAIT_S = 5.0  # for an embedded collection that another process has open


class Answers(Protocol):
    """A generation that can be asked."""

    def search(self, request: SearchRequest) -> dict[str, Any]:
        """The answer as `search --json` prints it."""
        ...

    def runs(
        self,
        queries: Sequence[str],
        *,
        mode: RunMode,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        """{"generation", "model", "runs": [[doc_id, …], …]}, all from one generation."""
        ...

    def legs(
        self,
        queries: Sequence[str],
        *,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        """{"generation", "model", "lexical": [[[doc_id, score], …], …], "dense": …}, likewise."""
        ...


@contextlib.contextmanager
def open_live(
    data: DataDirectory,
    generation: str | None = None,
    *,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Iterator[Answers]:
    """The live generation, or the one named, ready to be asked.

    Without a service, up to `search.max_lag_docs` changes are brought in first; on_wait hears what
    takes time. Raises NoLiveGeneration, GenerationNotFound, StoreLocked, ServiceUnreachable, and
    what opening a generation raises.
    """
    if generation is not None and data.catalog.get(generation).state == "pruned":
        raise WrongState(f"{generation} was pruned; see `reindexer generations` for what there is")
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(RunningService.found(data))
        if service is not None and (generation is None or service.has_open(generation)):
            on_wait(f"asking the service at {service.url}")
            yield service.pinned_to(generation)
            return
        name = generation or _live_name(data)
        if service is None:
            _bring_in_changes(data, name, on_wait)
        on_wait(f"opening {name}")
        try:
            answers: Answers = stack.enter_context(_opened_here(data, name))
        except StoreLocked:
            # It may have started in this moment.
            service = stack.enter_context(RunningService.found(data))
            if service is None or not (generation is None or service.has_open(name)):
                raise
            answers = service.pinned_to(generation)
        yield answers


def _live_name(data: DataDirectory) -> str:
    live = data.catalog.live()
    if live is None:
        raise NoLiveGeneration(
            "nothing to search yet: no generation is live. Run `reindexer ingest SOURCE` and "
            "`reindexer upgrade MODEL`"
        )
    return live.name


# -- a generation opened in this process ----------------------------------------------------------


class _Opened:
    """Answers of a generation that this process has open."""

    def __init__(self, opened: OpenGeneration) -> None:
        self._searcher = opened.searcher

    def search(self, request: SearchRequest) -> dict[str, Any]:
        return self._searcher.search(request).to_json()

    def runs(
        self,
        queries: Sequence[str],
        *,
        mode: RunMode,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        def ask(batch: list[str]) -> dict[str, Any]:
            return self._searcher.runs(batch, mode=mode, depth=depth)

        return asked_in_parts(
            queries, ask, size=QUERIES_PER_CALL, lists=("runs",), on_progress=on_progress
        )

    def legs(
        self,
        queries: Sequence[str],
        *,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        def ask(batch: list[str]) -> dict[str, Any]:
            return self._searcher.legs(batch, depth=depth)

        return asked_in_parts(
            queries, ask, size=LEGS_PER_CALL, lists=("lexical", "dense"), on_progress=on_progress
        )


@contextlib.contextmanager
def opened_here(data: DataDirectory, name: str) -> Iterator[OpenGeneration]:
    """A generation with everything that belongs to it, opened in this process and given back."""
    from reindexer.opening import Opener  # brings torch in

    opener = Opener(data, writable=False, wait_s=OPEN_WAIT_S)
    try:
        opened = opener.open(name)
        try:
            yield opened
        finally:
            opened.close()
    finally:
        opener.close()


@contextlib.contextmanager
def _opened_here(data: DataDirectory, name: str) -> Iterator[_Opened]:
    with opened_here(data, name) as opened:
        yield _Opened(opened)


def _bring_in_changes(data: DataDirectory, name: str, on_wait: Callable[[str], None]) -> None:
    """What a service does all the time: replay the few changes that the generation has not seen."""
    generation = data.catalog.get(name)
    lag_docs = data.corpus.lag(generation.watermark)
    if not lag_docs:
        return
    behind = f"{name} is {lag_docs:,} change{'' if lag_docs == 1 else 's'} behind the corpus"
    if generation.state not in ("live", "standby"):
        log.warning("%s; %s generations are not kept in step", behind, generation.state)
        return
    if lag_docs > data.settings.max_lag_docs:
        log.warning("%s; run `reindexer sync` to bring them in", behind)
        return
    from reindexer.sync import sync_once  # brings torch in

    on_wait(f"{behind}; bringing that in")
    try:
        with data.journal.lease(SYNC_LEASE) as lease:
            sync_once(data, lease)
    except LeaseHeld as error:
        log.warning("%s, and %s", behind, error)


@contextlib.contextmanager
def points_of(
    data: DataDirectory, generation: Generation
) -> Iterator[Iterator[tuple[list[Point], FloatMatrix]]]:
    """Every point of a generation with its vector: from the service, if it has the collection open.
    Raises StoreLocked when a process that cannot be asked has it."""
    if not data.store.shared:
        with RunningService.found(data) as service:
            if service is not None and service.has_open(generation.name):
                with service.points(generation.name) as chunks:
                    yield from_frames(chunks)
                return
    collection = data.store.open(generation.collection, generation.recipe.fingerprint)
    with contextlib.closing(collection):
        yield collection.scan()
