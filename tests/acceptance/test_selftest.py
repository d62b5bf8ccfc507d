"""Every tool of the selftest keeps quiet where all is well, and finds the fault it is made for."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from reindexer import cli_selftest, verify
from reindexer.cli import cli
from reindexer.selftest import gate as gates
from reindexer.selftest import switch as switches
from reindexer.selftest import writes as writing
from reindexer.selftest.proof import Promise, Proof
from reindexer.selftest.word_encoder import WordEncoder
from search.edge_process import EdgeProcessCollection
from search.searcher import Searcher
from tests.selftest_promises import broken, promise

# -- writes ----------------------------------------------------------------------------------------


def test_writes_during_everything_else_are_all_there() -> None:
    told: list[tuple[int, int]] = []
    proof = writing.prove_writes(
        operations=1_000, seeds=2, seed=1, on_progress=lambda *at: told.append(at[:2])
    )

    assert sorted(told) == [(done, 2_000) for done in range(100, 2_001, 100)]
    assert broken(proof) == set()
    assert promise(proof, "no write lost, stale or resurrected").found.startswith(
        "1,000 operations"
    )
    by_kind = proof.figures["by_kind"]
    assert sum(by_kind.values()) == 2_000
    for kind, share in writing.SHARES.items():
        assert abs(by_kind[kind] / 2_000 - share) < 0.045, kind  # four times what chance does


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
        cli.main(["--data-dir", str(tmp_path / "data"), "selftest", "kill", "--kills", "20",
                  "--json"])  # fmt: skip

    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["figures"]["kills"] == 20
    assert not (tmp_path / "data").exists()
    assert [p.name for p in (tmp_path / "temporary").glob(".selftest-*")] == []
