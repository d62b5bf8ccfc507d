"""Two minutes of a healthy soak; in a file of its own, since it sleeps most of the time."""

from __future__ import annotations

import pytest

from reindexer.selftest import soak_load
from reindexer.selftest.soak import prove_soak
from tests.selftest_promises import broken


def test_a_service_that_is_killed_in_the_middle_of_everything_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soak_load, "ASK_EVERY_S", 0.1)  # other tests need the cores as well
    proof = prove_soak(minutes=2.0, seed=3)

    assert broken(proof) == set()
    killed = proof.figures["killed"]
    assert sum(killed.values()) == proof.figures["kills"]
    assert killed.keys() & {"build", "service during build"}
    assert killed.keys() & {"go live", "service during go live"}
    assert proof.figures["happened"].count("upgrade") == 3
    assert proof.figures["happened"].count("rollback") == 2
    assert proof.figures["happened"].count("prune") == 1
