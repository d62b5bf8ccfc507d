"""A build gives way to queries, comes back when they are gone, and stops when it is told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from reindexer import governor as governing
from reindexer.governor import BuildStopped, Governor, Pace
from reindexer.journal import BUILD_LEASE
from reindexer.replay import Replay, ReplayProgress
from reindexer.stages import StageClock
from search.generations import ServingProcess
from search.processes import process_name
from search.query_times import QueryLoad, QueryTimes
from search.recipe import SplitterRecipe
from search.splitter import Splitter
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder
from training.tokenizer import TokenizedTexts

TARGET_MS = 50.0
LOWEST = 0.1


def serving(p99_ms: float | None, name: str = "box:7:1") -> ServingProcess:
    load = None
    if p99_ms is not None:
        load = QueryLoad(queries_per_s=20, p50_ms=p99_ms / 2, p99_ms=p99_ms)
    return ServingProcess(
        name=name,
        address="",
        generation="docs@1",
        prepared=None,
        problem=None,
        seen_at=0.0,
        load=load,
    )


def pace() -> Pace:
    return Pace(target_ms=TARGET_MS, lowest=LOWEST)


# -- the law ---------------------------------------------------------------------------------------


def test_slow_queries_halve_the_pace_and_the_reason_says_where() -> None:
    law = pace()

    law.follow([serving(20), serving(62, "other/42:9:77")], now=0)

    assert law.share == 0.5
    assert law.reason == "p99 62 ms > 50 ms on other:9"


def test_the_pace_waits_for_new_figures_before_it_falls_again() -> None:
    law = pace()
    for second in range(3):
        law.follow([serving(62)], now=second)
    assert law.share == 0.5

    law.follow([serving(62)], now=governing.PATIENCE_S)

    assert law.share == 0.25


def test_the_pace_never_falls_below_the_lowest() -> None:
    law = pace()
    for second in range(100):
        law.follow([serving(500)], now=second)

    assert law.share == LOWEST


def test_without_queries_the_build_runs_at_full_speed_again() -> None:
    law = pace()
    law.follow([serving(500)], now=0)
    for second in range(1, 8):
        law.follow([serving(None)], now=second)

    assert law.share == 1.0
    assert law.reason is None


def test_just_below_the_target_the_pace_stays_as_it_is() -> None:
    law = pace()
    law.follow([serving(62)], now=0)
    for second in range(1, 20):
        law.follow([serving(45)], now=second)

    assert law.share == 0.5


def simulated(latency_ms: float, cost_ms: float, seconds: int) -> list[tuple[float, float]]:
    """(pace, p99) by the second; queries take longer the more the build works, and what is measured
    lags behind by the window and a heartbeat."""
    law = pace()
    history: list[tuple[float, float]] = []
    shares: list[float] = []
    for second in range(seconds):
        shares.append(law.share)
        p99 = latency_ms + cost_ms * max(shares[-4:])
        history.append((law.share, p99))
        law.follow([serving(p99)], now=second)
    return history


def test_a_build_that_is_in_the_way_settles_where_queries_keep_their_target() -> None:
    settled = simulated(latency_ms=20, cost_ms=100, seconds=240)[60:]

    too_slow = sum(p99 > TARGET_MS for _, p99 in settled) / len(settled)
    mean_pace = sum(share for share, _ in settled) / len(settled)
    assert too_slow < 0.35  # it probes for more, and takes it back
    assert 0.15 < mean_pace < 0.35  # 0.3 is what just fits
    assert max(p99 for _, p99 in settled) < 1.6 * TARGET_MS


def test_a_build_that_is_in_nobodys_way_is_not_slowed() -> None:
    assert all(share == 1.0 for share, _ in simulated(latency_ms=10, cost_ms=20, seconds=60))


# -- what a process measures -----------------------------------------------------------------------


def test_load_is_that_of_the_last_seconds() -> None:
    now = [0.0]
    times = QueryTimes(window_s=3, clock=lambda: now[0])
    for _ in range(50):
        times.record(500)
    now[0] = 10.0
    for ms in range(1, 101):
        times.record(ms)

    load = times.load()

    assert load is not None
    assert load.queries_per_s == pytest.approx(100 / 3)
    assert (load.p50_ms, load.p99_ms) == (50, 99)


def test_without_queries_there_is_no_load() -> None:
    now = [0.0]
    times = QueryTimes(window_s=3, clock=lambda: now[0])
    times.record(5)
    now[0] = 4.0

    assert times.load() is None


# -- turns -----------------------------------------------------------------------------------------


class Asked:
    """What somebody wants of the build, and what serving processes measure."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        self.serving: list[ServingProcess] = []


@contextmanager
def governed(asked: Asked, *, workers: int = 1, law: Pace | None = None) -> Iterator[Governor]:
    with Governor(
        wanted=lambda: asked.wanted,
        serving=lambda: asked.serving,
        pace=law,
        workers=workers,
    ) as governor:
        yield governor


def test_at_half_the_pace_a_build_rests_as_long_as_it_works() -> None:
    law = pace()
    law.follow([serving(62)], now=0)
    given: list[float] = []
    governor = Governor(
        wanted=lambda: None, serving=list, pace=law, workers=1, on_yield=given.append
    )

    began = time.perf_counter()
    for _ in range(3):
        with governor.turn():
            time.sleep(0.05)
    took_s = time.perf_counter() - began

    assert took_s >= 0.29
    assert sum(given) == pytest.approx(took_s - 0.15, abs=0.05)


def test_while_queries_are_under_way_here_one_core_is_left_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(governing, "lower_priority", lambda: calls.append(None))
    monkeypatch.setattr(governing, "LOOK_S", 0.02)
    asked = Asked()
    asked.serving = [serving(5, process_name())]
    running = most = 0
    lock = threading.Lock()

    def work(governor: Governor) -> None:
        nonlocal running, most
        with governor.turn():
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1

    with governed(asked, workers=3, law=pace()) as governor, ThreadPoolExecutor(3) as pool:
        deadline = time.monotonic() + 5
        while not calls and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        list(pool.map(work, [governor] * 9))

    assert most == 2
    assert len(calls) == 1  # once is enough


def test_a_resting_build_hears_that_it_is_to_stop() -> None:
    law = Pace(target_ms=TARGET_MS, lowest=0.01)
    for second in range(0, 100, 5):
        law.follow([serving(500)], now=second)
    asked = Asked()
    asked.serving = [serving(500)]
    with governed(asked, law=law) as governor:
        threading.Timer(0.1, lambda: setattr(asked, "wanted", "cancel")).start()
        began = time.monotonic()
        with pytest.raises(BuildStopped) as caught, governor.turn():
            time.sleep(0.1)  # at this pace it rests for 10 s

    assert caught.value.wanted == "cancel"
    assert time.monotonic() - began < 2


# -- a whole replay --------------------------------------------------------------------------------


class SlowEncoder(WordEncoder):
    """A batch is one text and takes a while."""

    def encode_tokenized(self, tokenized: TokenizedTexts, *, turn=None):  # type: ignore[no-untyped-def]
        for _ in range(len(tokenized)):
            with turn():
                time.sleep(0.05)
        return self._encode(tokenized)


def test_a_pause_takes_effect_within_2_s_in_a_window_that_takes_minutes(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data") as directory:
        directory.put_many(f"d{number}" for number in range(2_000))
        generation = directory.record("word@1")
        encoder = SlowEncoder(1)
        collection = directory.store.create(
            generation.collection, generation.recipe.collection_spec(generation.name)
        )
        asked = Asked()
        checkpoints: list[ReplayProgress] = []
        clock = StageClock()
        with directory.journal.lease(BUILD_LEASE), governed(asked) as governor:
            replay = Replay(
                corpus=directory.corpus,
                collection=collection,
                encoder=encoder,  # type: ignore[arg-type]
                splitter=Splitter(SplitterRecipe(max_tokens=32, overlap_tokens=4), encoder),
                window=2_000,
                checkpoint=checkpoints.append,
                check=governor.check,
                while_waiting=governor.check,
                turn=governor.turn,
                clock=clock,
            )
            asked_at: list[float] = []

            def ask() -> None:
                asked.wanted = "pause"
                asked_at.append(time.monotonic())

            threading.Timer(0.3, ask).start()
            with pytest.raises(BuildStopped, match="pause"):
                replay.run(0, directory.corpus.head(), fresh_until=directory.corpus.head())
            stopped_s = time.monotonic() - asked_at[0]
        collection.close()

    assert stopped_s < 2
    assert checkpoints == []  # what was not acknowledged is done again
    assert set(clock.seconds()) >= {"read", "split", "encode"}
