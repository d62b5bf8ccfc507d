"""Promises of speed: each is seen broken where something is far too slow, and none is kept where
nothing was measured."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from reindexer.selftest import gate as gates
from reindexer.selftest import gate_world
from reindexer.selftest import switch as switches
from reindexer.selftest import writes as writing
from reindexer.selftest.proof import Promise, Proof, at_most
from reindexer.selftest.switch import SETTLING_S, Asked, steady_and_switching
from reindexer.selftest.truth import Truth
from reindexer.verify import verify_structure
from search.searcher import Searcher

STALL_S = 0.3  # six times what is allowed


def promise(proof: Proof, name: str) -> Promise:
    (found,) = (promise for promise in proof.promises if promise.name == name)
    return found


class StallOnce:
    """Every switch holds one query up, at its beginning or just after its end."""

    def __init__(self, when: str) -> None:
        self._when = when
        self._due = threading.Event()
        self._cut_over = switches.cut_over

    def cut_over(self, *arguments: Any) -> Any:
        if self._when == "before":
            self._due.set()
            time.sleep(STALL_S / 3)  # so that somebody is held up when the switch begins
        done = self._cut_over(*arguments)
        if self._when == "after":
            self._due.set()
        return done

    def tamper(self, searcher: Searcher) -> Searcher:
        if self._due.is_set():
            self._due.clear()
            time.sleep(STALL_S)
        return searcher


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_query_that_a_switch_holds_up_is_found(
    monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    stall = StallOnce(when)
    monkeypatch.setattr(switches, "cut_over", stall.cut_over)

    proof = switches.prove_switch(queries=300, switches=2, tamper=stall.tamper)

    found = promise(proof, "worst stall")
    assert not found.kept
    assert found.of_speed
    assert proof.figures["worst_stall_ms"] >= 1_000 * STALL_S


@pytest.mark.parametrize(
    ("began", "ended", "is_switching"),
    [
        (8.0, 9.9, False),
        (9.0, 10.5, True),  # began before, and was still under way
        (9.0, 99.0, True),
        (10.2, 10.3, True),
        (11.0 + SETTLING_S / 2, 12.0, True),  # what is closed after the switch
        (11.1 + SETTLING_S, 12.0, False),
    ],
)
def test_a_query_counts_for_every_switch_that_it_meets(
    began: float, ended: float, is_switching: bool
) -> None:
    steady, switching = steady_and_switching([Asked("steady", began, ended)], [(10.0, 11.0)])

    expected = [pytest.approx(1_000 * (ended - began))]
    assert (steady, switching) == (([], expected) if is_switching else (expected, []))


def test_only_what_was_asked_before_anything_happened_is_steady() -> None:
    asked = [Asked(phase, 1.0, 2.0) for phase in ("steady", "building", "between", "after")]

    assert steady_and_switching(asked, [(10.0, 11.0)]) == ([1_000.0], [])
    assert steady_and_switching([], [(10.0, 11.0)]) == ([], [])


def test_writes_that_are_slow_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    put = Truth.put

    def slow(truth: Truth, corpus: Any, document: Any, what: str) -> None:
        if "in operation" in what:
            time.sleep(0.2)
        put(truth, corpus, document, what)

    monkeypatch.setattr(Truth, "put", slow)

    found = promise(writing.prove_writes(operations=40), "writes go on meanwhile")

    assert not found.kept
    assert found.of_speed


def test_a_gate_that_is_slow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return verify_structure(*arguments, **options)

    monkeypatch.setattr(gate_world, "verify_structure", slow)
    monkeypatch.setattr(gates, "MAX_SECONDS", 0.1)

    proof = gates.prove_gate(documents=1_000, queries=300, healthy=1, faults=[])

    assert [promise.name for promise in proof.promises] == [
        "what is healthy passes", "one verification",
    ]  # fmt: skip
    assert not promise(proof, "one verification").kept


def test_a_promise_about_which_nothing_was_measured_is_broken() -> None:
    found = at_most("worst stall", None, 50.0, "ms")

    assert not found.kept
    assert not found.of_speed  # a slow machine is no reason for it
    assert found.found == "nothing was measured"


@pytest.mark.parametrize("lacks", ["steady", "switching"])
def test_a_switch_without_queries_to_compare_keeps_no_promise_of_speed(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    measured: Callable[..., Any] = steady_and_switching

    def blind(*arguments: Any) -> Any:
        steady, switching = measured(*arguments)
        return ([], switching) if lacks == "steady" else (steady, [])

    monkeypatch.setattr(switches, "steady_and_switching", blind)

    proof = switches.prove_switch(queries=100, switches=1)

    assert not promise(proof, "p99 while switching, against steady").kept
    if lacks == "switching":
        assert not promise(proof, "worst stall").kept
    assert not proof.is_kept()
