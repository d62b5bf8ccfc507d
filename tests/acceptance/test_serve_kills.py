"""SIGKILL to service, worker and build under load: nothing that was acknowledged is lost."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.acceptance.conftest import text_of
from tests.acceptance.supervised import Readers, Supervised, Writers, losses, wait_for
from tests.tiny_models import make_tiny_model

N_DOCUMENTS = 150
PAUSE_S = 0.04  # between a client's requests; processes that start need the machine more
KILLS = ["build", "worker", "serve", "worker", "worker", "serve"]
SEED = 11


def test_kills_lose_no_acknowledged_write_and_the_service_comes_back(tmp_path: Path) -> None:
    models = [make_tiny_model(tmp_path / f"m{n}", kind="static", seed=n) for n in range(3)]
    documents = {f"d{number}": text_of(number) for number in range(N_DOCUMENTS)}
    installation, rng = Supervised(tmp_path), random.Random(SEED)
    (third,) = installation.prepare(documents, models)
    with installation:
        wait_for(installation.is_ready)
        installation.ask_for_a_build(third)
        with (
            Writers(installation.url, documents, count=2, seed=SEED, pause_s=PAUSE_S) as writers,
            Readers(installation.url, count=1, pause_s=PAUSE_S) as readers,
        ):
            for victim in KILLS:
                if victim == "build":
                    after_docs = rng.randrange(N_DOCUMENTS // 3)
                    wait_for(lambda: installation.kill_build(after_docs=after_docs))  # noqa: B023
                else:
                    time.sleep(rng.uniform(0.0, 0.5))
                    installation.kill(victim)
                wait_for(installation.is_ready)
        started_again = {victim: KILLS.count(victim) for victim in ("serve", "worker")}
        wait_for(lambda: installation.restarts == started_again)
        wait_for(lambda: not installation.is_building())
        wait_for(installation.is_in_step)
        ready = installation.generations("ready")
    sys.stdout.write(
        f"\n{len(KILLS)} kills, {installation.restarts} started again; {writers.acknowledged} "
        f"writes acknowledged, {readers.answers} answers, longest gap {readers.longest_gap_s:.1f} "
        "s\n"
    )
    assert writers.refused == []
    assert readers.wrong == []
    assert writers.acknowledged > 50
    assert readers.answers > 50
    assert ready == ["docs@3"], "the killed build did not go on"
    assert list(losses(installation.settings, writers.truth)) == []
