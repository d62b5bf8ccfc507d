"""Tables of token vectors without torch, against the encoder that sentence-transformers has."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.tiny_models import make_tiny_model
from training.encoder import Encoder
from training.encoder_opening import open_encoder
from training.errors import EncodingFailed, ModelDamaged, ModelUnsupported
from training.model_version import ModelVersion
from training.registry import ModelRegistry
from training.static_encoder import StaticEncoder, is_table

TEXTS = [
    "",
    "the quick bird read a book",
    "cold water",
    "Unknown-words: zyxw, émigré 東京 are read as well!",
    "",
    "medicine " * 300,
    "one",
    *(f"note number {number} about the {'old ' * (number % 7)}house" for number in range(40)),
    "",
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    return ModelRegistry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def version(registry: ModelRegistry, tmp_path_factory: pytest.TempPathFactory) -> ModelVersion:
    folder = make_tiny_model(
        tmp_path_factory.mktemp("models") / "table",
        kind="static",
        query_prompt="search the query ",
        document_prompt="page: ",
    )
    return registry.register(folder)


@pytest.mark.parametrize("budget", [None, 1, 17])
def test_rows_are_those_of_torch(version: ModelVersion, budget: int | None) -> None:
    ours = StaticEncoder(version, max_batch_tokens=budget)
    theirs = Encoder(version, device="cpu", dtype="fp32")
    for texts in (TEXTS, TEXTS[1:2], [""], []):
        for name in ("encode_queries", "encode_documents"):
            found, expected = getattr(ours, name)(texts), getattr(theirs, name)(texts)
            assert found.dtype == np.float32
            assert found.shape == (len(texts), version.dim)
            np.testing.assert_allclose(found, expected, atol=1e-6)
        tokenized = ours.tokenize_documents(texts)
        np.testing.assert_array_equal(tokenized.ids, theirs.tokenize_documents(texts).ids)
        np.testing.assert_allclose(
            ours.encode_tokenized(tokenized), theirs.encode_tokenized(tokenized), atol=1e-6
        )


def test_rows_are_cut_before_they_are_normalised(registry: ModelRegistry, tmp_path: Path) -> None:
    short = registry.register(make_tiny_model(tmp_path / "short", kind="static", truncate_dim=8))
    found = StaticEncoder(short).encode_documents(TEXTS)
    assert found.shape == (len(TEXTS), 8)
    expected = Encoder(short, device="cpu").encode_documents(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_each_batch_waits_for_its_turn(version: ModelVersion) -> None:
    encoder = StaticEncoder(version, max_batch_tokens=20)
    turns = []

    def turn() -> nullcontext[None]:
        turns.append(None)
        return nullcontext()

    encoder.encode_tokenized(encoder.tokenize_documents(["cold water"] * 30), turn=turn)
    assert 2 < len(turns) < 30


def test_it_can_stand_where_an_encoder_does(version: ModelVersion) -> None:
    public = {name for name in dir(Encoder) if not name.startswith("_")}
    assert public <= set(dir(StaticEncoder))
    assert isinstance(open_encoder(version), StaticEncoder)
    assert isinstance(open_encoder(version, dtype="bf16"), Encoder)


def test_what_is_more_than_a_table_is_left_to_torch(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    assert not is_table(registry.register(make_tiny_model(tmp_path / "model", kind="mean")))


def test_a_prompt_that_leaves_no_room_for_text_is_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "prompt", kind="static", query_prompt="word " * 39)
    with pytest.raises(ModelUnsupported, match="39 of the 64 tokens"):
        StaticEncoder(registry.register(folder, max_tokens=64))


def test_a_table_too_small_for_its_tokens_is_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "short-table", kind="static")
    table = load_file(folder / "model.safetensors")["embedding.weight"]
    save_file({"embedding.weight": table[:100]}, folder / "model.safetensors")
    with pytest.raises(ModelDamaged, match=r"shape \(100, 32\) for \d+ tokens; register"):
        StaticEncoder(registry.register(folder))


def test_a_vector_that_is_not_finite_names_the_text(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "not-finite", kind="static")
    file = folder / "model.safetensors"
    table = load_file(file)["embedding.weight"]
    version = registry.register(folder)
    water = int(StaticEncoder(version).tokenize_documents(["water"]).ids[0])
    table = table.copy()
    table[water] = np.nan
    save_file({"embedding.weight": table}, file)
    with pytest.raises(EncodingFailed, match="text 2 got a vector that is not finite") as raised:
        StaticEncoder(registry.register(folder)).encode_queries(["", "one", "cold water"])
    assert raised.value.index == 2


def test_nothing_of_torch_is_imported(registry: ModelRegistry, version: ModelVersion) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from training.encoder_opening import open_encoder\n"
        "from training.registry import ModelRegistry\n"
        "registry = ModelRegistry(Path(sys.argv[1]))\n"
        "print(open_encoder(registry.resolve(sys.argv[2])).encode_queries(['water']).shape)\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", code, str(registry.root), str(version)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["(1, 32)", "[]"]
