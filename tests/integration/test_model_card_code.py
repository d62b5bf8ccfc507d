"""The code in a model card, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tiny_models import make_tiny_model
from training.encoder import Encoder
from training.model_card import read
from training.registry import ModelRegistry

LONG = "one two " * 20


@pytest.mark.parametrize(
    ("made", "settings"),
    [
        ({"kind": "mean"}, {"query_prompt": "it's asked: ", "truncate_dim": 8}),
        ({"kind": "cls", "normalize": False}, {"document_prompt": "passage: ", "max_tokens": 24}),
        ({"kind": "static"}, {}),
    ],
    ids=["mean", "cls", "static"],
)
def test_the_way_to_load_it_gives_the_vectors_that_we_search_with(
    tmp_path: Path, made: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder = make_tiny_model(tmp_path / "model", **made)
    version = ModelRegistry(tmp_path / "models").register(
        folder, lineage={"base": "a/b"}, **settings
    )
    code = re.search(r"```python\n(.*?)```", read(version), re.DOTALL)
    assert code is not None
    program = code[1].replace('PATH = "."', f"PATH = {str(version.path)!r}")
    program = program.replace("a query", "the old river").replace("a passage", LONG)
    found: dict[str, Any] = {}
    exec(program, found)
    encoder = Encoder(version, device="cpu", dtype="fp32")
    np.testing.assert_allclose(
        found["queries"], encoder.encode_queries(["the old river"]), atol=1e-5
    )
    np.testing.assert_allclose(found["passages"], encoder.encode_documents([LONG]), atol=1e-5)
