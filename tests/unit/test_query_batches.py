"""Queries of several threads are encoded together, and nobody waits for company."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from search.dense import FloatMatrix
from search.query_batches import MAX_TEXTS, WORTH_MS, QueryBatches
from tests.word_encoder import WordEncoder
from training.errors import EncodingFailed

WAIT_S = 20.0


class SlowEncoder(WordEncoder):
    """Takes as long as a transformer, or as the test says, and remembers its batches."""

    def __init__(self, *, took_s: float = WORTH_MS / 1e3 * 2) -> None:
        super().__init__(1)
        self.took_s = took_s
        self.batches: list[list[str]] = []
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        self.batches.append(list(texts))
        assert self.may_go_on.wait(WAIT_S)
        time.sleep(self.took_s)
        return super().encode_queries(texts)


class Asking:
    """Several threads that ask one encoder, and the moment when all of them have."""

    def __init__(self) -> None:
        self.encoder = SlowEncoder()
        self.batches = QueryBatches(self.encoder)
        self._threads = ThreadPoolExecutor(50)

    def ask(self, *texts: str) -> Future[FloatMatrix]:
        return self._threads.submit(self.batches.encode_queries, texts)

    def hold_with(self, text: str) -> Future[FloatMatrix]:
        """This query is being encoded, and goes on to be."""
        self.encoder.may_go_on.clear()
        held = self.ask(text)
        until(lambda: self.encoder.batches[-1:] == [[text]])
        return held

    def ask_meanwhile(self, texts: Sequence[str]) -> list[Future[FloatMatrix]]:
        asked = []
        for n, text in enumerate(texts, 1):
            asked.append(self.ask(text))
            until(lambda n=n: len(self.batches._waiting) == n)  # type: ignore[misc]
        return asked

    def go_on(self) -> None:
        self.encoder.may_go_on.set()


@pytest.fixture
def asking() -> Asking:
    return Asking()


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.001)


def vector(text: str) -> list[float]:
    (row,) = WordEncoder(1).encode_queries([text]).tolist()
    return list(row)


def test_a_query_that_comes_alone_is_encoded_at_once(asking: Asking) -> None:
    assert asking.ask("one").result(WAIT_S).tolist() == [vector("one")]
    assert asking.ask("two").result(WAIT_S).tolist() == [vector("two")]

    assert asking.encoder.batches == [["one"], ["two"]]


def test_those_who_come_meanwhile_are_encoded_together(asking: Asking) -> None:
    first = asking.hold_with("first")
    others = asking.ask_meanwhile(["a", "b", "c"])
    asking.go_on()

    assert first.result(WAIT_S).tolist() == [vector("first")]
    assert [future.result(WAIT_S).tolist() for future in others] == [
        [vector("a")],
        [vector("b")],
        [vector("c")],
    ]
    assert asking.encoder.batches == [["first"], ["a", "b", "c"]]


def test_a_batch_has_a_size(asking: Asking) -> None:
    asking.hold_with("first")
    texts = [f"t{number}" for number in range(MAX_TEXTS + 3)]
    others = asking.ask_meanwhile(texts)
    asking.go_on()

    for text, future in zip(texts, others, strict=True):
        assert future.result(WAIT_S).tolist() == [vector(text)]
    assert [len(batch) for batch in asking.encoder.batches] == [1, MAX_TEXTS, 3]


def test_one_that_cannot_be_encoded_is_nothing_to_the_others(asking: Asking) -> None:
    asking.encoder.fails_on = "poison"
    asking.hold_with("first")
    good, bad, also_good = asking.ask_meanwhile(["good", "poison", "fine"])
    asking.go_on()

    assert good.result(WAIT_S).tolist() == [vector("good")]
    assert also_good.result(WAIT_S).tolist() == [vector("fine")]
    with pytest.raises(EncodingFailed):
        bad.result(WAIT_S)
    assert asking.ask("later").result(WAIT_S).tolist() == [vector("later")]


def test_queries_of_two_generations_never_share_a_batch(asking: Asking) -> None:
    other = QueryBatches(asking.encoder)
    asking.hold_with("first")
    with ThreadPoolExecutor(2) as threads:
        mine = asking.ask_meanwhile(["mine"])[0]
        theirs = threads.submit(other.encode_queries, ["theirs"])
        until(lambda: len(asking.encoder.batches) == 2)  # its own, at once
        asking.go_on()
        assert theirs.result(WAIT_S).tolist() == [vector("theirs")]
    assert mine.result(WAIT_S).tolist() == [vector("mine")]

    assert asking.encoder.batches == [["first"], ["theirs"], ["mine"]]


def test_a_quick_encoder_is_asked_directly(asking: Asking) -> None:
    asking.encoder.took_s = 0.0
    until(lambda: asking.ask("x").result(WAIT_S) is not None and asking.batches.is_quick)
    asking.hold_with("first")

    second = asking.ask("second")
    until(lambda: asking.encoder.batches[-1] == ["second"])  # though the first is under way
    asking.go_on()

    assert second.result(WAIT_S).tolist() == [vector("second")]


def test_every_thread_gets_its_own_vectors() -> None:
    encoder = SlowEncoder()
    batches = QueryBatches(encoder)

    def ask(thread: int) -> None:
        for number in range(15):
            texts = [f"t{thread} n{number} w{word}" for word in range(1 + number % 3)]
            expected = WordEncoder(1).encode_queries(texts)
            np.testing.assert_array_equal(batches.encode_queries(texts), expected)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))

    assert max(len(batch) for batch in encoder.batches) > 3  # some were together
