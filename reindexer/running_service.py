"""The service that owns the data directory, asked over HTTP by the verbs of other processes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from reindexer.data_directory import DataDirectory
from reindexer.errors import LeaseHeld, ReindexerError
from reindexer.journal import SYNC_LEASE
from reindexer.service_address import ServiceAddress
from search.documents import Filter
from search.errors import (
    GenerationNotFound,
    InvalidQuery,
    NoLiveGeneration,
    SearchError,
    WrongState,
)
from search.processes import describe_process, is_on_this_machine, process_name

if TYPE_CHECKING:
    import httpx

    from search.answer import RunMode
    from search.searcher import SearchRequest

CONNECT_S = 5.0
ANSWER_S = 60.0  # one query, a service that is still loading its model included
RUNS_S = 600.0  # a batch of queries, or a verification
QUERIES_PER_CALL = 256  # as many as the service takes
LEGS_PER_CALL = 32  # about a megabyte of ids and scores
START_S = 60.0  # a service may take so long to load its model, or to end
START_POLL_S = 0.1

_ERROR_OF_STATUS: Mapping[int, type[SearchError]] = {
    404: GenerationNotFound,
    409: WrongState,
    422: InvalidQuery,
    503: NoLiveGeneration,
}


class ServiceUnreachable(ReindexerError):
    """The service that owns the data directory gives no usable answer."""


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
        """None when none runs on this machine. One that is loading its model now is waited for.

        Raises LeaseHeld when a service on another machine owns the embedded collections."""
        address = ServiceAddress.read(data.path)
        deadline = time.monotonic() + START_S
        while address is None and (owner := _silent_owner(data)) is not None:
            if not is_on_this_machine(owner):
                raise LeaseHeld(
                    f"the collections in {data.path} are owned by a service on another machine, "
                    f"{describe_process(owner)}; run the verb there (in that container), or stop "
                    "that service first"
                )
            if time.monotonic() > deadline:
                break
            time.sleep(START_POLL_S)
            address = ServiceAddress.read(data.path)
        return cls(address) if address is not None else None

    @classmethod
    @contextlib.contextmanager
    def found(cls, data: DataDirectory) -> Iterator[RunningService | None]:
        """What `find` gives, for as long as the block lasts."""
        service = cls.find(data)
        with service or contextlib.nullcontext():
            yield service

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
        def ask(batch: list[str]) -> dict[str, Any]:
            return self._ask_pinned("/runs", {"queries": batch, "mode": mode, "depth": depth})

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
            return self._ask_pinned("/legs", {"queries": batch, "depth": depth})

        return asked_in_parts(
            queries, ask, size=LEGS_PER_CALL, lists=("lexical", "dense"), on_progress=on_progress
        )

    def _ask_pinned(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = self._ask("POST", path, {**body, "generation": self._generation}, timeout_s=RUNS_S)
        self._generation = answer["generation"]  # the rest comes from there too
        return answer

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


def _silent_owner(data: DataDirectory) -> str | None:
    """The service that owns this embedded data directory and does not answer here, yet, any more
    or ever."""
    if data.store.shared:
        return None  # whoever cannot ask a service opens the generation too
    owner = data.journal.holder(SYNC_LEASE)
    if owner is None or owner == process_name():
        return None
    seen = {process.name for process in data.catalog.processes.seen()}
    return owner if owner in seen else None


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


def asked_in_parts(
    queries: Sequence[str],
    ask: Callable[[list[str]], dict[str, Any]],
    *,
    size: int,
    lists: Sequence[str],
    on_progress: Callable[[int], None],
) -> dict[str, Any]:
    """One answer to many queries, of which `ask` takes `size` at a time.

    lists: what an answer has one of for each query. The rest of it is that of the last part.
    """
    answer: dict[str, Any] = {}
    whole: dict[str, list[Any]] = {name: [] for name in lists}
    for start in range(0, len(queries), size):
        answer = ask(list(queries[start : start + size]))
        for name, found in whole.items():
            found += answer[name]
        on_progress(min(start + size, len(queries)))
    return {**answer, **whole}
