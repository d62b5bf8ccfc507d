"""Serving one generation while the next one is prepared.

`SearcherManager` holds the generation that answers, opens the next one aside, and swaps. It follows
the catalog: the pointer to the live generation, and a requested switch that it must prepare for.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from search.errors import GenerationNotFound, NoLiveGeneration
from search.generations import Catalog, Generation, Pointers
from search.query_times import QueryLoad
from search.recipe import FusionRecipe, Recipe

if TYPE_CHECKING:
    from search.dense import DenseCollection
    from search.documents import Filter
    from search.lexical import LexicalHit
    from search.searcher import Searcher
    from training.version_encoder import VersionEncoder

log = logging.getLogger(__name__)

FOLLOW_S = 0.05  # how often the catalog is asked which generation is live, during a switch
QUIET_FOLLOW_S = 0.2  # and while nothing is going on
HEARTBEAT_S = 1.0
RETRY_S = 2.0  # after a generation could not be opened
ASKED_FOR = 1  # ready generations that are open at a time because somebody asked one of them
ASKED_IDLE_S = 300.0  # then such a one is closed
ASKED_WAIT_S = 30.0  # how long a query waits for one to be opened


class LexicalHalf(Protocol):
    """The lexical half of an open generation: `search.lexical.LexicalIndex`, or
    `search.lexical_qdrant.QdrantLexical`."""

    @property
    def watermark(self) -> int:
        """The highest seq that was applied; 0 for none."""
        ...

    def search(self, query: str, k: int, where: Filter = ()) -> list[LexicalHit]: ...

    def scan(self) -> Iterator[tuple[str, int, str]]:
        """(doc_id, seq, content_hash) of every document."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenGeneration:
    """A generation with everything loaded that answers from it or writes to it."""

    generation: Generation
    encoder: VersionEncoder
    collection: DenseCollection
    lexical: LexicalHalf
    searcher: Searcher

    @property
    def name(self) -> str:
        return self.generation.name

    def with_fusion(self, fusion: FusionRecipe) -> OpenGeneration:
        """The same open parts, fusing in another way."""
        recipe = replace(self.generation.recipe, fusion=fusion)
        return replace(
            self,
            generation=replace(self.generation, recipe=recipe),
            searcher=self.searcher.with_fusion(fusion),
        )

    def close(self) -> None:
        """Give the collection back; the lexical index may be shared and stays open."""
        self.collection.close()


class SearcherManager:
    """Hands out the searcher of the live generation and swaps it when the catalog says so."""

    def __init__(
        self,
        catalog: Catalog,
        open_generation: Callable[[str], OpenGeneration],
        *,
        name: str,
        address: str,
        load: Callable[[], QueryLoad | None] = lambda: None,
    ) -> None:
        """open_generation loads a generation by name; it runs in a thread of its own and may take
        as long as a model takes to load. load: of the last seconds, for the heartbeat."""
        self._catalog = catalog
        self._open = open_generation
        self._name = name
        self._address = address
        self._load = load
        self._lock = threading.Lock()
        self._opened: dict[str, OpenGeneration] = {}
        self._users: dict[str, int] = {}
        self._current: OpenGeneration | None = None
        self._opening: dict[str, Future[OpenGeneration]] = {}
        self._retry_at: dict[str, float] = {}
        self._problems: dict[str, str] = {}
        self._recipes_seen: dict[str, str] = {}  # as stored, of what is open
        self._asked: dict[str, float] = {}  # ready generations: when somebody last asked them
        self._request_token: int | None = None
        self._last_heartbeat = 0.0
        self._last_shown: tuple[str | None, str | None, str | None, int | None] | None = None
        self._loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="open-generation")

    # -- for queries ---------------------------------------------------------------------------

    @contextlib.contextmanager
    def acquire(self, name: str | None = None) -> Iterator[Searcher]:
        """The searcher of the live generation, or of the one named, to be used to the end of one
        query. One that is ready is opened for it. Raises NoLiveGeneration, GenerationNotFound."""
        if name is not None:
            self._ask_for(name)
            with self.acquire_named(name) as named:
                if named is None:
                    why = f" ({self._problems[name]})" if name in self._problems else ""
                    raise GenerationNotFound(
                        f"{name!r} is not open in this process{why}; it has "
                        f"{', '.join(sorted(self._opened)) or 'nothing'} open"
                    )
                yield named
            return
        with self._lock:
            current = self._current
            if current is None:
                raise NoLiveGeneration(
                    "nothing to search yet: no generation is live. Run `reindexer ingest SOURCE` "
                    "and `reindexer upgrade MODEL`"
                )
            self._users[current.name] = self._users.get(current.name, 0) + 1
        try:
            yield current.searcher
        finally:
            with self._lock:
                self._users[current.name] -= 1

    @contextlib.contextmanager
    def acquire_named(self, name: str) -> Iterator[Searcher | None]:
        """The searcher of a certain generation if this process has it open, else None."""
        with self._lock:
            opened = self._opened.get(name)
            if opened is not None:
                self._users[name] = self._users.get(name, 0) + 1
        try:
            yield opened.searcher if opened is not None else None
        finally:
            if opened is not None:
                with self._lock:
                    self._users[name] -= 1

    def ready(self) -> dict[str, Generation]:
        """By name, the generations that are opened when somebody asks them, newest first."""
        return {item.name: item for item in reversed(self._catalog.all({"ready"}))}

    def _ask_for(self, name: str) -> None:
        """Have a ready generation opened, if it is one, and wait for that."""
        now = time.monotonic()
        with self._lock:
            if name in self._opened:
                if name in self._asked:
                    self._asked[name] = now
                return
        if name not in self.ready():
            return
        with self._lock:
            self._asked.pop(name, None)
            while len(self._asked) >= ASKED_FOR:  # `follow` closes it
                del self._asked[min(self._asked, key=lambda other: self._asked[other])]
            self._asked[name] = now
        self._forget_problem(name)
        while time.monotonic() < now + ASKED_WAIT_S:
            with self._lock:
                if name not in self._asked:  # another was asked, or it is not ready any more
                    return
                self._asked[name] = time.monotonic()  # it is waited for, and so not idle
                if name in self._opened or name in self._problems:
                    return
            time.sleep(FOLLOW_S)

    @property
    def current(self) -> OpenGeneration | None:
        return self._current

    def opened(self) -> list[OpenGeneration]:
        """What is open, the live generation last: replaying in this order means that a generation
        that may become live is never behind the one that is."""
        with self._lock:
            current = self._current
            others = [item for item in self._opened.values() if item is not current]
        return others + ([current] if current is not None else [])

    # -- following the catalog -----------------------------------------------------------------

    def follow(self) -> float:
        """One step: take what was loaded, fuse as the recipe says now, swap if the pointer moved,
        start loading what is asked for, close what nobody wants, and send a heartbeat when one is
        due. Returns the seconds until the next."""
        pointers = self._catalog.pointers()
        target = pointers.request.target if pointers.request is not None else None
        self._collect()
        self._notice_request(pointers)
        self._follow_fusion(pointers)
        self._swap(pointers)
        wanted = [name for name in (pointers.live, target, pointers.standby) if name is not None]
        wanted += self._still_asked()
        for name in wanted:
            self._start_opening(name)
        self._close_unwanted(wanted)
        self._heartbeat(pointers)
        is_quiet = target is None and not self._opening and not self._asked
        return QUIET_FOLLOW_S if is_quiet else FOLLOW_S

    def _still_asked(self) -> list[str]:
        """What was asked for lately and still is ready: a build, a cut-over or a prune that takes
        it moves it to another state first, and then it is let go of."""
        if not self._asked:
            return []
        ready = self.ready()
        with self._lock:
            for name, at in list(self._asked.items()):
                if name not in ready or time.monotonic() - at > ASKED_IDLE_S:
                    del self._asked[name]
            return list(self._asked)

    def wait_until_open(self, name: str, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.follow()
            if name in self._opened:
                return True
            time.sleep(FOLLOW_S)
        return False

    def wait_until_live(self, timeout_s: float) -> bool:
        """Until this process answers from what is live now, which may change while it is loaded.
        True at once when nothing is live."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.follow()
            live = self._catalog.pointers().live
            if live is None or (self._current is not None and self._current.name == live):
                return True
            time.sleep(FOLLOW_S)
        return False

    def close(self) -> None:
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._collect()
        with contextlib.suppress(Exception):
            self._catalog.processes.leave(self._name)
        with self._lock:
            opened, self._opened, self._current = list(self._opened.values()), {}, None
        for item in opened:
            item.close()

    def _collect(self) -> None:
        for name, future in list(self._opening.items()):
            if not future.done():
                continue
            del self._opening[name]
            if future.cancelled():  # by close()
                continue
            error = future.exception()
            if error is not None:
                if self._problems.get(name) != str(error):
                    log.warning("generation %s could not be opened: %s", name, error)
                self._problems[name] = str(error)
                self._retry_at[name] = time.monotonic() + RETRY_S
                continue
            self._forget_problem(name)
            with self._lock:
                self._opened[name] = future.result()

    def _notice_request(self, pointers: Pointers) -> None:
        """A new request gets a new attempt, whatever went wrong before."""
        if pointers.request is not None and pointers.request.token != self._request_token:
            self._request_token = pointers.request.token
            self._forget_problem(pointers.request.target)

    def _forget_problem(self, name: str) -> None:
        self._problems.pop(name, None)
        self._retry_at.pop(name, None)

    def _follow_fusion(self, pointers: Pointers) -> None:
        """Queries that are under way keep the searcher, and so the fusion, that they took."""
        for name, stored in pointers.recipes.items():
            with self._lock:
                opened = self._opened.get(name)
            if opened is None or self._recipes_seen.get(name) == stored:
                continue
            fusion = Recipe.from_json(stored).fusion
            self._recipes_seen[name] = stored
            if fusion == opened.searcher.recipe.fusion:
                continue
            with self._lock:
                self._opened[name] = changed = opened.with_fusion(fusion)
                if self._current is opened:
                    self._current = changed
            log.info("%s fuses by %s now", name, fusion.method)

    def _swap(self, pointers: Pointers) -> None:
        with self._lock:
            if pointers.live is None or (
                self._current is not None and self._current.name == pointers.live
            ):
                return
            if (opened := self._opened.get(pointers.live)) is not None:
                if self._current is None:
                    # What was imported and loaded by now stays. To look through all of it for
                    # garbage holds up every query, for 50 to 120 ms.
                    gc.freeze()
                before = self._current.name if self._current is not None else "nothing"
                self._current = opened
                log.info("answering from %s now, from %s before", opened.name, before)

    def _start_opening(self, name: str) -> None:
        if name in self._opened or name in self._opening:
            return
        if time.monotonic() < self._retry_at.get(name, 0.0):
            return
        self._opening[name] = self._loader.submit(self._open, name)

    def _close_unwanted(self, wanted: list[str]) -> None:
        closing: list[OpenGeneration] = []
        with self._lock:
            for name in list(self._opened):
                in_use = self._users.get(name, 0) > 0 or self._opened[name] is self._current
                if name not in wanted and not in_use:
                    closing.append(self._opened.pop(name))
                    self._users.pop(name, None)
                    self._recipes_seen.pop(name, None)
        for item in closing:
            item.close()
            log.info("closed %s", item.name)

    def _heartbeat(self, pointers: Pointers) -> None:
        current = self._current.name if self._current is not None else None
        request = pointers.request.token if pointers.request is not None else None
        target = pointers.request.target if pointers.request is not None else None
        prepared = target if target is not None and target in self._opened else None
        problem = self._problems.get(target or pointers.live or "")
        shown = (current, prepared, problem, request)
        now = time.monotonic()
        if shown == self._last_shown and now - self._last_heartbeat < HEARTBEAT_S:
            return
        self._catalog.processes.heartbeat(
            self._name,
            address=self._address,
            generation=current,
            prepared=prepared,
            problem=problem,
            request=request,
            load=self._load(),
        )
        self._last_heartbeat, self._last_shown = now, shown
