"""What the doctor says of a damaged live generation helps: the same model, encoded anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reindexer.data_directory import DataDirectory
from reindexer.doctor import diagnose
from reindexer.findings import Finding
from reindexer.plan import plan_upgrade
from reindexer.selftest.static_model import DIM, write_static_model
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from reindexer.vector_copy import copy_source
from search.documents import Document


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[DataDirectory]:
    """One vector of docs@1, which is live, is another model's."""
    write_static_model(tmp_path / "static", seed=0)
    settings = Settings(data_dir=tmp_path / "data", device="cpu", language="none")
    with DataDirectory(settings) as data:
        data.corpus.put([Document.of(doc_id=f"d{n}", text=f"w{n} w{n + 1}") for n in range(30)])
        live = upgrade(data, str(tmp_path / "static")).generation
        collection = data.store.open(live.collection, live.recipe.fingerprint)
        points, _ = collection.stored(["d7"])
        foreign = np.random.default_rng(1).standard_normal((1, DIM)).astype(np.float32)
        collection.upsert(points, foreign / np.linalg.norm(foreign))
        collection.close()
        yield data


def look(data: DataDirectory) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(data.settings)}


def test_a_damaged_live_generation_is_encoded_anew(damaged: DataDirectory) -> None:
    found = look(damaged)["generation docs@1"]
    assert found.state == "problem"
    assert "`reindexer upgrade static@1 --anew`" in found.advice
    assert plan_upgrade(damaged, "static@1").strategy == "none"
    assert plan_upgrade(damaged, "static@1", anew=True).strategy == "encode"

    live = damaged.catalog.live()
    assert live is not None
    assert copy_source(damaged, live.recipe) is None  # so neither does it copy when it is resumed

    done = upgrade(damaged, "static@1", anew=True)

    assert (done.generation.name, done.live_after) == ("docs@2", "docs@2")
    assert (done.build.encoded, done.build.reused) == (30, 0)
    assert look(damaged)["generation docs@2"].state == "ok"
