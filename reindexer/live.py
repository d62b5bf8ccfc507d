"""Answers for a verb: from the running service over HTTP, or from a generation opened here.

An embedded collection has one owner process. When a service owns it, a verb asks the service; when
none runs, the verb opens the generation itself and gives it back. Callers need not know which.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld, ReindexerError
from reindexer.journal import SYNC_LEASE
from reindexer.service_address import ServiceAddress
from search.dense import FloatMatrix, Point
from search.documents import Filter
from search.errors import (
    GenerationNotFound,
    InvalidQuery,
    NoLiveGeneration,
    SearchError,
    StoreLocked,
    WrongState,
)
from search.generations import Generation
from search.stored_points import from_frames

if TYPE_CHECKING:
    import httpx

    from search.answer import RunMode
    from search.searcher import SearchRequest
    from search.serving import OpenGeneration

log = logging.getLogger(__name__)

CONNECT_S = 5.0
ANSWER_S = 60.0  # one query, a service that is still loading its model included
RUNS_S = 600.0  # a batch of queries, or a verification
QUERIES_PER_CALL = 256  # as many as the service takes
LEGS_PER_CALL = 32  # about a megabyte of ids and scores
OPEN_WAIT_S = 5.0  # for an embedded collection that another process has open

_ERROR_OF_STATUS: Mapping[int, type[SearchError]] = {
    404: GenerationNotFound,
    409: WrongState,
    422: InvalidQuery,
    503: NoLiveGeneration,
}


class ServiceUnreachable(ReindexerError):
    """The service that owns the data directory gives no usable answer."""


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
    service = RunningService.find(data)
    if service is not None and (generation is None or service.has_open(generation)):
        on_wait(f"asking the service at {service.url}")
        with service:
            yield service.pinned_to(generation)
        return
    name = generation or _live_name(data)
    if service is None:
        _bring_in_changes(data, name, on_wait)
    on_wait(f"opening {name}")
    with contextlib.ExitStack() as stack:
        try:
            answers: Answers = stack.enter_context(_opened_here(data, name))
        except StoreLocked:
            service = RunningService.find(data)  # it may have started in this moment
            if service is None or not (generation is None or service.has_open(name)):
                raise
            answers = stack.enter_context(service).pinned_to(generation)
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
        rankings: list[list[str]] = []
        answer: dict[str, Any] = {}
        for start in range(0, len(queries), QUERIES_PER_CALL):
            batch = queries[start : start + QUERIES_PER_CALL]
            answer = self._searcher.runs(batch, mode=mode, depth=depth)
            rankings += answer["runs"]
            on_progress(len(rankings))
        return {**answer, "runs": rankings}

    def legs(
        self,
        queries: Sequence[str],
        *,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        def ask(batch: list[str]) -> dict[str, Any]:
            return self._searcher.legs(batch, depth=depth)

        return _legs_of_all(queries, ask, on_progress)


def _legs_of_all(
    queries: Sequence[str],
    ask: Callable[[list[str]], dict[str, Any]],
    on_progress: Callable[[int], None],
) -> dict[str, Any]:
    """Asked in parts, answered as one."""
    lexical: list[Any] = []
    dense: list[Any] = []
    answer: dict[str, Any] = {}
    for start in range(0, len(queries), LEGS_PER_CALL):
        answer = ask(list(queries[start : start + LEGS_PER_CALL]))
        lexical += answer["lexical"]
        dense += answer["dense"]
        on_progress(len(lexical))
    return {**answer, "lexical": lexical, "dense": dense}


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
    service = None if data.store.shared else RunningService.find(data)
    if service is not None and service.has_open(generation.name):
        with service, service.points(generation.name) as chunks:
            yield from_frames(chunks)
        return
    collection = data.store.open(generation.collection, generation.recipe.fingerprint)
    with contextlib.closing(collection):
        yield collection.scan()


# -- the service ----------------------------------------------------------------------------------


class RunningService:
    """The service that owns the data directory, over HTTP."""

    def __init__(self, address: ServiceAddress, *, generation: str | None = None) -> None:
        import httpx

        self.url = address.url
        self._generation = generation
        self._address = address
        self._http = httpx.Client(
            base_url=address.url,
            headers={"X-Reindexer-Token": address.token},
            timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
            trust_env=False,  # a proxy has no business on the loopback
        )

    @classmethod
    def find(cls, data: DataDirectory) -> RunningService | None:
        address = ServiceAddress.read(data.path)
        return cls(address) if address is not None else None

    def pinned_to(self, generation: str | None) -> RunningService:
        self._generation = generation
        return self

    def __enter__(self) -> RunningService:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def info(self) -> dict[str, Any]:
        """What `/info` says: generation, model, watermarks, head_seq, problem."""
        return self._ask("GET", "/info")

    def has_open(self, generation: str) -> bool:
        return generation in self.info().get("open", ())

    def search(self, request: SearchRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "query": request.query,
            "k": request.k,
            "mode": request.mode,
            "filter": filter_to_json(request.where),
            "depth": request.depth,
            "explain": request.explain,
            "generation": self._generation,
        }
        return self._ask("POST", "/search", body)

    def runs(
        self,
        queries: Sequence[str],
        *,
        mode: RunMode,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        rankings: list[list[str]] = []
        answer: dict[str, Any] = {}
        generation = self._generation
        for start in range(0, len(queries), QUERIES_PER_CALL):
            batch = list(queries[start : start + QUERIES_PER_CALL])
            body = {"queries": batch, "mode": mode, "depth": depth, "generation": generation}
            answer = self._ask("POST", "/runs", body, timeout_s=RUNS_S)
            self._generation = generation = answer["generation"]  # the rest comes from there too
            rankings += answer["runs"]
            on_progress(len(rankings))
        return {**answer, "runs": rankings}

    def legs(
        self,
        queries: Sequence[str],
        *,
        depth: int,
        on_progress: Callable[[int], None] = lambda _done: None,
    ) -> dict[str, Any]:
        def ask(batch: list[str]) -> dict[str, Any]:
            body = {"queries": batch, "depth": depth, "generation": self._generation}
            answer = self._ask("POST", "/legs", body, timeout_s=RUNS_S)
            self._generation = answer["generation"]  # the rest comes from there too
            return answer

        return _legs_of_all(queries, ask, on_progress)

    @contextlib.contextmanager
    def points(self, generation: str) -> Iterator[Iterator[bytes]]:
        """Everything in the collection, as frames of `search.stored_points`."""
        import httpx

        path = f"/generations/{generation}/points"
        try:
            with self._http.stream("GET", path, timeout=ANSWER_S) as response:
                if not response.is_success:
                    response.read()
                    self._read(response)
                yield response.iter_bytes()
        except httpx.HTTPError as error:
            raise ServiceUnreachable(
                f"the {self._name} broke off while it sent the vectors of {generation} ({error}); "
                "run the same command again"
            ) from error

    def verify(self, generation: str) -> dict[str, Any]:
        """The structural checks, made by the process that has the collection open."""
        return self._ask("POST", "/verify", {"generation": generation}, timeout_s=RUNS_S)

    def _ask(
        self, method: str, path: str, body: object = None, *, timeout_s: float = ANSWER_S
    ) -> dict[str, Any]:
        import httpx

        try:
            response = self._http.request(
                method, path, json=body, timeout=httpx.Timeout(timeout_s, connect=CONNECT_S)
            )
        except httpx.TimeoutException as error:
            raise ServiceUnreachable(
                f"the {self._name} took the request and did not answer within {timeout_s:.0f} s; "
                "look at its log, or stop it and try again"
            ) from error
        except httpx.HTTPError as error:
            raise ServiceUnreachable(
                f"the {self._name} does not answer ({error}); if it has just stopped, try again: "
                "without a service the verb opens the generation itself"
            ) from error
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            value = response.json()
        except ValueError:
            value = None
        if response.is_success and isinstance(value, dict):
            return value
        kind = response.headers.get("content-type", "")
        if isinstance(value, dict) and kind.startswith("application/problem+json"):
            detail = str(value.get("detail") or value.get("title"))
            raise _ERROR_OF_STATUS.get(response.status_code, ServiceUnreachable)(detail)
        raise ServiceUnreachable(
            f"the {self._name} answered HTTP {response.status_code} in a way that this release "
            "does not understand; it is of another version: stop it and start `reindexer serve` "
            "again"
        )

    @property
    def _name(self) -> str:
        return f"service at {self.url}"


def filter_to_json(where: Filter) -> list[dict[str, Any]] | None:
    """The filter as the service reads it: one object a condition, all of them must hold."""
    if not where:
        return None
    result = []
    for condition in where:
        value = asdict(condition)
        field, any_of = value.pop("field"), value.pop("any_of")
        bounds = {name: bound for name, bound in value.items() if bound is not None}
        result.append({field: list(any_of) or bounds})
    return result
