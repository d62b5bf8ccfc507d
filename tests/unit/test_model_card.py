"""The model card: what a version tells about itself, to people and to the hub."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tests.unit.test_registry import write_model
from training.model_card import read, render, without_head
from training.registry import ModelRegistry, ModelVersion

LINEAGE = {
    "base": "organisation/base-model",
    "base_fingerprint": "ab" * 32,
    "pairs": 919,
    "pairs_sha256": "cd" * 32,
    "code_version": "0.1.0",
    "seed": 7,
    "settings": {"loss": "mnrl", "matryoshka": [4, 2], "learning_rate": 5e-5},
    "command": "reindexer train pairs.jsonl --base support --seed 7",
    "gate": "refused",
    "gate_reason": "ndcg@10 +0.010, expected +0.020",
}
METRICS = {
    "base": {"ndcg@10": 0.646, "recall@10": 0.8},
    "tuned": {"ndcg@10": 0.656, "recall@10": 0.79},
    "difference": {"ndcg@10": {"mean": 0.01, "low": -0.002, "high": 0.022}},
}


@pytest.fixture
def trained(tmp_path: Path) -> ModelVersion:
    return ModelRegistry(tmp_path / "models").register(
        write_model(tmp_path / "model"), name="support", lineage=LINEAGE, metrics=METRICS
    )


def test_a_trained_version_carries_its_card_as_a_file_of_its_own(trained: ModelVersion) -> None:
    card = (trained.path / "README.md").read_text()
    assert "# support@1" in card
    assert card == read(trained)
    trained.verify()


def test_the_card_does_not_change_what_the_vectors_are(
    trained: ModelVersion, tmp_path: Path
) -> None:
    plain = ModelRegistry(tmp_path / "plain").register(tmp_path / "model", name="support")
    assert plain.fingerprint == trained.fingerprint
    assert read(plain) == "A model."  # an imported version keeps the card it came with


def test_the_card_says_how_to_repeat_it_and_what_it_is_worth(trained: ModelVersion) -> None:
    card = render(trained)
    for told in (
        LINEAGE["command"], LINEAGE["base_fingerprint"], LINEAGE["pairs_sha256"], "pairs: 919",
        "seed: 7", "loss: mnrl", "matryoshka: [4, 2]", "code version: 0.1.0", trained.fingerprint,
        "| ndcg@10 | 0.646 | 0.656 | +0.010 [-0.002, +0.022] |",
        "| recall@10 | 0.800 | 0.790 | - |",
        "**refused** (ndcg@10 +0.010, expected +0.020)",
    ):  # fmt: skip
        assert str(told) in card
    assert "None" not in card


def test_the_head_is_what_the_hub_reads(trained: ModelVersion) -> None:
    head = re.match(r"---\n(.*?)\n---\n", render(trained), re.DOTALL)
    assert head is not None
    value = yaml.safe_load(head[1])
    assert value["base_model"] == "organisation/base-model"
    assert (value["library_name"], value["pipeline_tag"]) == (
        "sentence-transformers",
        "sentence-similarity",
    )
    assert value["metrics"] == ["cosine_ndcg@10", "cosine_recall@10"]
    assert "sentence-transformers" in value["tags"]
    assert without_head(render(trained)).startswith("# support@1")


@pytest.mark.parametrize("base", ["support@3", "package:shipped", "./folder", "/abs/folder"])
def test_a_base_that_is_not_on_the_hub_is_not_named_there(trained: ModelVersion, base: str) -> None:
    elsewhere = replace(trained, base=base, lineage={**LINEAGE, "base": base})
    assert "base_model:" not in render(elsewhere)
    assert f"`{base}`" in render(elsewhere)
    known = {**LINEAGE, "base": base, "base_from": "organisation/first"}
    assert 'base_model: "organisation/first"' in render(replace(elsewhere, lineage=known))


def test_a_version_that_tells_little_gets_a_card_without_gaps(trained: ModelVersion) -> None:
    card = render(replace(trained, lineage={}, metrics={}))
    assert "registered from" in card
    for missing in ("## Training data", "## Evaluation", "## How it was made", "None"):
        assert missing not in card
