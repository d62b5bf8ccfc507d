"""Every tool of the selftest keeps quiet where all is well, and finds the fault it is made for."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import pytest

from reindexer import cli_selftest, verify
from reindexer.cli import cli
from reindexer.selftest import gate as gates
from reindexer.selftest import kill as kills
from reindexer.selftest import soak as soaks
from reindexer.selftest import switch as switches
from reindexer.selftest import writes as writing
from reindexer.selftest.proof import Promise, Proof
from reindexer.selftest.resources import Sample, flat
from reindexer.selftest.word_encoder import WordEncoder
from search.edge_process import EdgeProcessCollection
from search.searcher import Searcher
from training.kill_points import KillPoint

log = logging.getLogger(__name__)

ROOT = Path(__file__).parents[2]


def promise(proof: Proof, name: str) -> Promise:
    (found,) = (promise for promise in proof.promises if promise.name == name)
    return found


def broken(proof: Proof) -> set[str]:
    """Promises that were not kept, and pytest shows why. Those of speed left out: the machine may
    be busy."""
    found = [promise for promise in proof.promises if not (promise.kept or promise.of_speed)]
    for promise in found:
        log.warning("%s: %s: %s", promise.name, promise.found, "; ".join(promise.detail))
    return {promise.name for promise in found}


# -- kill ------------------------------------------------------------------------------------------


def test_kills_between_any_two_writes_change_nothing() -> None:
    proof = kills.prove_kills(kills=12, seed=5)

    assert broken(proof) == set()
    assert proof.figures["kills"] == 12
    assert len(proof.figures["by_point"]) >= 8
    assert proof.repeat == "reindexer selftest kill --kills 12 --seed 5"


def checkpoint_before_the_write() -> None:
    """What the checkpoint promises is not there yet."""
    from reindexer import replay

    write = replay._Writer._write

    def unsafe(writer: Any, unit: Any, vectors: Any) -> None:
        checkpoint = writer._checkpoint
        checkpoint(writer.progress(unit.watermark))
        writer._checkpoint = lambda _progress: None
        try:
            write(writer, unit, vectors)
        finally:
            writer._checkpoint = checkpoint

    replay._Writer._write = unsafe  # type: ignore[method-assign]


def a_window_without_an_end() -> None:
    """Nothing is acknowledged before everything is encoded."""
    from reindexer import replay

    init = replay.Replay.__init__

    def wide(self: Any, **arguments: Any) -> None:
        init(self, **arguments | {"window": 100_000})

    replay.Replay.__init__ = wide  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("sabotage", "name"),
    [
        (checkpoint_before_the_write, "nothing lost, nothing twice"),
        (a_window_without_an_end, "no more than a window encoded again"),
    ],
)
def test_a_write_that_no_kill_may_hit_is_found(
    monkeypatch: pytest.MonkeyPatch, sabotage: Callable[[], None], name: str
) -> None:
    monkeypatch.setattr(kills._Matrix, "_moments", _right_before_the_writes)

    proof = kills.prove_kills(kills=1, seed=1, sabotage=sabotage)

    assert name in broken(proof)
    assert promise(proof, name).detail


def _right_before_the_writes(_matrix: Any, calm: Any, _seconds: float) -> Any:
    if calm.reached["upsert.begin"] > 1:
        yield kills.KillAt(point="upsert.begin", nth=1)


def test_every_kill_point_has_its_place_in_the_code() -> None:
    places = re.findall(
        r'reached\("([a-z.]+)"\)',
        "".join(
            path.read_text()
            for package in ("training", "search", "reindexer")
            for path in (ROOT / package).rglob("*.py")
        ),
    )

    assert set(places) == set(get_args(KillPoint))


# -- writes ----------------------------------------------------------------------------------------


def test_writes_during_everything_else_are_all_there() -> None:
    told: list[tuple[int, int]] = []
    proof = writing.prove_writes(
        operations=2_000, seeds=2, seed=1, on_progress=lambda *at: told.append(at[:2])
    )

    assert sorted(told) == [(done, 4_000) for done in range(100, 4_001, 100)]
    assert broken(proof) == set()
    assert promise(proof, "no write lost, stale or resurrected").found.startswith(
        "2,000 operations"
    )
    by_kind = proof.figures["by_kind"]
    assert sum(by_kind.values()) == 4_000
    for kind, share in writing.SHARES.items():
        assert abs(by_kind[kind] / 4_000 - share) < 0.03, kind  # five times what chance does


def test_a_deletion_that_does_not_reach_the_vectors_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(EdgeProcessCollection, "remove_older", lambda _collection, _seqs: None)

    proof = writing.prove_writes(operations=300, seed=1)

    detail = promise(proof, "no write lost, stale or resurrected").detail
    assert any("should not be there; its history:" in line for line in detail)
    assert re.search(r"delete in operation \d+ \(\w", "".join(detail))


# -- switch ----------------------------------------------------------------------------------------


def test_queries_go_on_over_cut_overs_and_rollbacks() -> None:
    proof = switches.prove_switch(queries=400, switches=6)

    assert broken(proof) == set()
    assert proof.figures["queries"] >= 400
    assert proof.figures["switches"] == 6


class _Disguised:
    """Another model of the same dimension under the fingerprint of the right one."""

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._encoder = WordEncoder(77)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


def with_another_model(searcher: Searcher) -> Searcher:
    if searcher.recipe.dim != 16 or time.monotonic_ns() % 5:
        return searcher
    return dataclasses.replace(
        searcher, encoder=cast(Any, _Disguised(searcher.encoder.fingerprint))
    )


def failing(searcher: Searcher) -> Searcher:
    if time.monotonic_ns() % 5:
        return searcher
    raise RuntimeError("the engine is on fire")


@pytest.mark.parametrize(
    ("tamper", "name", "figure"),
    [
        (with_another_model, "no answer mixed two generations", "mixed"),
        (failing, "no query failed", "failed"),
    ],
)
def test_an_answer_that_should_not_have_been_given_is_found(
    tamper: Callable[[Searcher], Searcher], name: str, figure: str
) -> None:
    proof = switches.prove_switch(queries=150, switches=1, tamper=tamper)

    assert broken(proof) == {name}
    assert proof.figures[figure] > 10


# -- gate ------------------------------------------------------------------------------------------


def test_the_gate_refuses_every_fault_for_its_reason_and_nothing_healthy() -> None:
    proof = gates.prove_gate(documents=1_000, queries=300, healthy=1)

    assert broken(proof) == set()
    assert len(proof.figures["faults"]) == 15


def test_a_gate_that_lets_a_fault_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_check_marks", _blind)
    fault = next(fault for fault in gates.FAULTS if fault.name == "swapped ids")

    proof = gates.prove_gate(documents=1_000, queries=300, healthy=0, faults=[fault])

    assert broken(proof) == {"every fault is refused for its reason"}
    (detail,) = promise(proof, "every fault is refused for its reason").detail
    assert detail.startswith("swapped ids: ")


def _blind(_stored: Any) -> verify.Check:
    return verify.Check(name="marks", passed=True, found="all", expected="all")


def test_a_gate_that_refuses_what_is_healthy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "MIN_COSINE", 1.1)

    proof = gates.prove_gate(documents=1_000, queries=300, healthy=1, faults=[])

    assert broken(proof) == {"what is healthy passes"}


# -- soak ------------------------------------------------------------------------------------------


def leaking_handles() -> None:
    """Runs inside the service."""

    def leak() -> None:
        while True:
            os.open(os.devnull, os.O_RDONLY)
            time.sleep(0.05)

    threading.Thread(target=leak, daemon=True).start()


def test_a_service_over_time_loses_nothing_and_its_leak_is_found() -> None:
    proof = soaks.prove_soak(minutes=0.25, leak=leaking_handles)

    assert broken(proof) == {"flat: handles"}
    assert proof.figures["kills"] == 2
    assert proof.figures["happened"].count("upgrade") == 3
    assert proof.figures["happened"].count("rollback") == 2


@pytest.mark.parametrize("what", ["memory", "handles", "threads", "disk"])
def test_what_grows_is_told_from_what_is_noisy(what: str) -> None:
    level = {"memory": 3e8, "handles": 40.0, "threads": 12.0, "disk": 5e7, "vectors": 1e7}

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


# -- the verb --------------------------------------------------------------------------------------


def test_a_broken_promise_is_said_with_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proof = Proof(
        tool="kill",
        repeat="reindexer selftest kill --kills 3 --seed 9",
        seed=9,
        promises=(
            Promise(name="nothing lost", kept=False, found="a loss", expected="none",
                    detail=("d7 is missing",)),
        ),
    )  # fmt: skip
    monkeypatch.setattr(cli_selftest, "_run", lambda *_args, **_sizes: proof)

    with pytest.raises(SystemExit) as ended:
        cli.main(["selftest", "kill"])
    said = capsys.readouterr().out

    assert ended.value.code == 1
    assert "BROKEN  nothing lost: a loss" in said
    assert "d7 is missing" in said
    assert "reindexer selftest kill --kills 3 --seed 9" in said
    with pytest.raises(SystemExit):
        cli.main(["selftest", "kill", "--json"])
    assert json.loads(capsys.readouterr().out)["kept"] is False


def test_the_verb_leaves_the_data_directory_and_the_disk_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()

    with pytest.raises(SystemExit) as ended:
        cli.main(["--data-dir", str(tmp_path / "data"), "selftest", "kill", "--kills", "1",
                  "--json"])  # fmt: skip

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["figures"]["kills"] == 1
    assert not (tmp_path / "data").exists()
    assert [p.name for p in (tmp_path / "temporary").glob(".selftest-*")] == []
