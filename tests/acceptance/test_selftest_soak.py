"""A soak finds what it is made for: what leaks, what is lost, what is not answered."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from reindexer.selftest import soak as soaks
from reindexer.selftest.resources import Sample, flat
from tests.selftest_promises import broken, promise

EVERY_S = 0.1
FAILS_ONE_IN = 20
LOSES_ONE_IN = 10


def leak(something: Callable[[], object]) -> None:
    """Again and again, and nothing of it is ever given back."""
    kept: list[object] = []

    def go_on() -> None:
        while True:
            kept.append(something())
            time.sleep(EVERY_S)

    threading.Thread(target=go_on, daemon=True).start()


# Each of these runs inside the service.


def leaking_memory() -> None:
    leak(lambda: bytearray(b"x" * 5_000_000))


def leaking_handles() -> None:
    leak(lambda: os.open(os.devnull, os.O_RDONLY))


def leaking_threads() -> None:
    leak(lambda: threading.Thread(target=threading.Event().wait, daemon=True).start())


def leaking_disk() -> None:
    from reindexer.data_directory import DataDirectory

    init = DataDirectory.__init__

    def leaky(directory: Any, settings: Any) -> None:
        init(directory, settings)

        def write() -> None:
            with (directory.path / "grows").open("ab") as file:
                file.write(bytes(1_000_000))

        leak(write)

    DataDirectory.__init__ = leaky  # type: ignore[method-assign]


def losing_writes() -> None:
    from search.edge_process import EdgeProcessCollection

    upsert, numbers = EdgeProcessCollection.upsert, itertools.count(1)

    def forgetful(collection: Any, points: Any, vectors: Any) -> None:
        if next(numbers) % LOSES_ONE_IN:
            upsert(collection, points, vectors)

    EdgeProcessCollection.upsert = forgetful  # type: ignore[method-assign]


def failing_queries() -> None:
    from search.searcher import Searcher

    search, numbers = Searcher.search, itertools.count(1)

    def fragile(searcher: Any, *arguments: Any, **more: Any) -> Any:
        if next(numbers) % FAILS_ONE_IN == 0:
            raise RuntimeError("the engine is on fire")
        return search(searcher, *arguments, **more)

    Searcher.search = fragile  # type: ignore[method-assign]


FAULTS: dict[Callable[[], None], str] = {
    leaking_memory: "flat: memory",
    leaking_handles: "flat: handles",
    leaking_threads: "flat: threads",
    leaking_disk: "flat: disk",
    losing_writes: "no write lost, stale or resurrected",
    failing_queries: "no query failed while the service ran",
}


def all_of_them() -> None:
    for plant in FAULTS:
        plant()


def test_every_fault_in_a_service_breaks_its_own_promise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soaks, "HAPPENINGS", ())
    monkeypatch.setattr(soaks, "KILLS_UNTIL", 0.1)
    monkeypatch.setattr(soaks, "QUIET_FROM", 0.3)

    proof = soaks.prove_soak(minutes=0.15, sabotage=all_of_them)

    assert broken(proof) == set(FAULTS.values())
    assert proof.figures["kills"] == 2
    assert all(promise(proof, name).found for name in FAULTS.values())


@pytest.mark.parametrize("what", ["memory", "handles", "threads", "disk"])
def test_what_grows_is_told_from_what_is_noisy(what: str) -> None:
    level = {
        "memory": 3e8,
        "handles": 40.0,
        "threads": 12.0,
        "disk": 5e7,
        "vectors": 1e7,
        "log": 1e6,
    }

    def sample(at: int, growth: float) -> Sample:
        noise = 1 + 0.01 * (at % 3 - 1)
        values = {name: value * noise for name, value in level.items()}
        values[what] += growth * at * level[what]
        return Sample(at=float(at), **values)

    noisy = flat([sample(at, 0.0) for at in range(60)])
    growing = flat([sample(at, 0.01) for at in range(60)])

    assert all(promise.kept for promise in noisy)
    assert [promise.name for promise in growing if not promise.kept] == [f"flat: {what}"]
    assert not any(promise.kept for promise in flat([]))
