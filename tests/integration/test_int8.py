"""A transformer in 8-bit integers: near what it says in fp32, and always the same for a text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import Kind, make_tiny_model
from training import extras, int8
from training.encoder import Encoder
from training.encoder_opening import open_encoder
from training.errors import ExtraMissing, ModelUnsupported
from training.model_version import ModelVersion
from training.registry import ModelRegistry

TEXTS = [
    "the quick bird read a book",
    "cold water",
    "medicine " * 300,
    "one",
    "",
    *(f"note number {number} about the {'old ' * (number % 7)}house" for number in range(20)),
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def a_model(folder: Path, kind: Kind) -> ModelVersion:
    made = make_tiny_model(
        folder / kind, kind=kind, query_prompt="find this: ", include_prompt=kind == "last"
    )
    return ModelRegistry(folder / "models").register(made)


@pytest.mark.parametrize("kind", ["mean", "last"])
def test_rows_are_near_those_in_fp32_and_do_not_depend_on_other_texts(
    tmp_path: Path, cache: Path, kind: Kind, caplog: pytest.LogCaptureFixture
) -> None:
    version = a_model(tmp_path, kind)
    exact = Encoder(version, device="cpu", dtype="fp32")
    rounded = open_encoder(version, dtype="int8", cache_dir=cache)
    assert (rounded.dtype, rounded.device) == ("int8", "cpu")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    for name in ("encode_queries", "encode_documents"):
        found = getattr(rounded, name)(TEXTS)
        cosines = np.einsum("nd,nd->n", found, getattr(exact, name)(TEXTS))
        filled = np.linalg.norm(found, axis=1) > 0
        assert cosines[filled].min() > 0.97
        assert cosines[filled].mean() < 0.99999, "nothing was rounded"
        alone = np.concatenate([getattr(rounded, name)([text]) for text in reversed(TEXTS)])
        np.testing.assert_array_equal(found, alone[::-1])


def test_the_integers_are_kept_for_the_next_start(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = a_model(tmp_path, "mean")
    first = Encoder(version, dtype="int8", cache_dir=cache).encode_documents(TEXTS)
    with monkeypatch.context() as patched:
        patched.delattr(int8, "_write")
        again = Encoder(version, dtype="int8", cache_dir=cache).encode_documents(TEXTS)
    np.testing.assert_array_equal(first, again)

    (kept,) = cache.glob(f"int8-{version.fingerprint[:16]}-*")
    kept.write_bytes(kept.read_bytes()[:1_000])
    mended = Encoder(version, dtype="int8", cache_dir=cache).encode_documents(TEXTS)
    np.testing.assert_array_equal(first, mended)
    assert kept.stat().st_size > 1_000


def test_a_model_that_does_not_stand_the_rounding_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MIN_COSINE", 1.1)
    with pytest.raises(ModelUnsupported, match=r"cosine \d.*set encoder\.dtype = auto"):
        Encoder(a_model(tmp_path, "mean"), dtype="int8", cache_dir=cache)


def test_a_table_of_token_vectors_has_nothing_to_round(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="no transformer"):
        open_encoder(a_model(tmp_path, "static"), dtype="int8")


def test_without_the_extra_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'reindexer\[onnx\]'"):
        Encoder(a_model(tmp_path, "mean"), dtype="int8")
