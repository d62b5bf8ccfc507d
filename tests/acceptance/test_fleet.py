"""Three serving processes on one PostgreSQL and one store: they switch together."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from reindexer.cutover import cut_over
from search.errors import CutOverRefused
from tests.acceptance.clients import Answered, Clients
from tests.acceptance.conftest import text_of
from tests.acceptance.fleet import Fleet, Oracle, Writer, wait_for
from tests.postgresql_server import postgresql_server
from tests.qdrant_server import QdrantServer
from tests.tiny_models import make_tiny_model

N_DOCUMENTS = 200
N_CLIENTS = 2
N_SWITCHES = 20
STEADY_S = 1.0
FOLLOW_S, STALL_MS = 5.0, 1_000.0  # generous: benchmarks/fleet.py measures, on a quiet machine
QUERIES = [text_of(number) for number in range(40)]
DOCUMENTS = {f"d{number}": text_of(number) for number in range(N_DOCUMENTS)}


@pytest.fixture(scope="module")
def server() -> Iterator[QdrantServer]:
    with QdrantServer() as started:
        yield started


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three vector spaces of one dimension."""
    folder = tmp_path_factory.mktemp("fleet-models")
    return [
        make_tiny_model(folder / name, kind="static", seed=seed)
        for seed, name in enumerate(("alpha", "beta", "gamma"))
    ]


@pytest.fixture(scope="module")
def fleet(
    server: QdrantServer, models: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """Three members; docs@2 is live and docs@1 standby."""
    with postgresql_server() as database_url:
        started = Fleet(
            tmp_path_factory.mktemp("fleet"),
            database_url=database_url,
            store_url=os.environ.get("QDRANT_URL", server.url),
        )
        try:
            started.put(DOCUMENTS.items())
            for model in models[:2]:
                cut_over(started.data, started.build(model))
            started.start(3)
            yield started
        finally:
            started.close()


def test_twenty_switches_under_full_load_fail_and_mix_nothing(
    fleet: Fleet, server: QdrantServer
) -> None:
    oracle = Oracle(fleet, QUERIES)
    urls = [member.url for member in fleet.members]
    with (
        Clients(urls, QUERIES, count=N_CLIENTS) as clients,
        Writer(urls, oracle.versions) as writer,
    ):
        began = time.monotonic()
        time.sleep(STEADY_S)
        server.slowest_ms()
        switching = time.monotonic()
        switches = [fleet.switch() for _ in range(N_SWITCHES)]
        ended = time.monotonic()
        slowest_ms = server.slowest_ms()

    assert clients.failures == []
    assert writer.failures == []
    assert writer.writes > 20
    assert not [answer for answer in clients.answers if answer.degraded]
    assert {answer.generation for answer in clients.answers} == {"docs@1", "docs@2"}
    assert {answer.url for answer in clients.answers} == set(urls)
    assert oracle.mixed(clients.answers) == []
    assert [switch.late for switch in switches] == [()] * N_SWITCHES
    assert {len(switch.serving) for switch in switches} == {3}
    steady = clients.between(began, switching)
    during = clients.between(switching, ended)
    sys.stdout.write(
        f"\nsteady: {len(steady)} answers, p99 {_p99_ms(steady):.0f} ms, worst "
        f"{_worst_ms(steady):.0f} ms; {N_SWITCHES} switches in {ended - switching:.1f} s: "
        f"{len(during)} answers, p99 {_p99_ms(during):.0f} ms, worst {_worst_ms(during):.0f} ms; "
        f"slowest in the store {slowest_ms:.0f} ms; all answered from the next one after "
        f"{max(switch.switch_s for switch in switches):.2f} s at most\n"
    )
    assert _worst_ms(during) <= slowest_ms + max(STALL_MS, 3 * _worst_ms(steady))


def test_a_write_through_any_member_is_visible_in_it_when_it_says_so(fleet: Fleet) -> None:
    for number, member in enumerate(fleet.members):
        text = text_of(500 + number, version=number)
        document = {"doc_id": f"new-{number}", "text": text}
        with httpx.Client(base_url=member.url, timeout=60) as http:
            put = http.put("/documents?wait=visible", json={"documents": [document]})
            assert put.raise_for_status().json()["visible"] is True
            body = {"query": text, "mode": "dense", "k": 3}
            hits = http.post("/search", json=body).raise_for_status().json()["hits"]
        assert document["doc_id"] in [hit["doc_id"] for hit in hits]


def test_one_that_cannot_prepare_blocks_the_switch_and_is_named(
    fleet: Fleet, models: list[Path]
) -> None:
    target = fleet.build(models[2])
    healthy, broken = fleet.members[0], fleet.members[2]
    model = fleet.data.catalog.get(target).recipe.model
    away = broken.break_model(model)
    live = fleet.data.catalog.live()
    with pytest.raises(CutOverRefused, match=r"nothing was switched") as refused:
        cut_over(fleet.data, target)
    assert broken.url in str(refused.value)
    assert healthy.url not in str(refused.value)
    assert fleet.data.catalog.live() == live
    away.rename(away.with_suffix(".safetensors"))
    cut_over(fleet.data, target)
    assert {member.info()["generation"] for member in fleet.members} == {target}
    fleet.switch()


def test_one_that_is_frozen_or_killed_is_left_behind_and_one_that_starts_catches_up(
    fleet: Fleet,
) -> None:
    healthy, frozen, killed = fleet.members[:3]
    killed.kill()
    frozen.send_signal(signal.SIGSTOP)
    starting = fleet.start_one()
    try:
        live = fleet.switch().live_after  # waits for a lease, and maybe for the one that starts
        wait_for(lambda: healthy.info()["generation"] == live, FOLLOW_S)
    finally:
        frozen.send_signal(signal.SIGCONT)
    wait_for(lambda: frozen.info()["generation"] == live, FOLLOW_S)
    fleet.wait_until_ready(starting)
    assert starting.info()["generation"] == live
    fleet.restart(killed)
    with Clients([m.url for m in fleet.members], QUERIES, count=1) as clients:
        time.sleep(0.5)
    assert clients.failures == []
    assert {answer.generation for answer in clients.answers} == {live}
    assert Oracle(fleet, QUERIES).mixed(clients.answers) == []


def _p99_ms(answers: list[Answered]) -> float:
    ordered = sorted(answer.took_s for answer in answers)
    return 1e3 * ordered[int(0.99 * (len(ordered) - 1))]


def _worst_ms(answers: list[Answered]) -> float:
    return 1e3 * max(answer.took_s for answer in answers)
