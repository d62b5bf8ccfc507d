"""A transformer in 8-bit integers: near what it says in fp32, and always the same for a text."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from reindexer.data_directory import DataDirectory
from reindexer.listings import generation_json
from reindexer.recipes import recipe_for, same_recipe
from reindexer.settings import Settings
from search.documents import Document
from tests.integration.test_encoder import TEXTS
from tests.tiny_models import Kind, make_tiny_model
from training import extras, int8
from training.encoder import Encoder
from training.encoder_opening import open_encoder
from training.errors import ExtraMissing, ModelUnsupported
from training.model_version import ModelVersion
from training.registry import ModelRegistry


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
        patched.delattr(int8, "_made")
        again = Encoder(version, dtype="int8", cache_dir=cache).encode_documents(TEXTS)
    np.testing.assert_array_equal(first, again)

    (kept,) = cache.glob(f"int8-2-{version.fingerprint[:16]}-*")
    whole = kept.read_bytes()
    one_off = bytes([*whole[:-100], whole[-100] ^ 1, *whole[-99:]])
    for damaged in (whole[:1_000], one_off):
        kept.write_bytes(damaged)
        mended = Encoder(version, dtype="int8", cache_dir=cache).encode_documents(TEXTS)
        np.testing.assert_array_equal(first, mended)
        assert kept.read_bytes() not in (damaged, b"")
    assert kept.stat().st_size > 1_000


def test_a_full_disk_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(int8, "write_whole", full)
    encoder = Encoder(a_model(tmp_path, "mean"), dtype="int8", cache_dir=tmp_path / "cache")
    assert np.linalg.norm(encoder.encode_queries(["cold water"])) == pytest.approx(1)


def test_a_model_that_does_not_stand_the_rounding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "MIN_COSINE", 1.1)
    cache = tmp_path / "cache"
    with pytest.raises(ModelUnsupported, match=r"cosine \d.*set encoder\.dtype = auto"):
        Encoder(a_model(tmp_path, "mean"), dtype="int8", cache_dir=cache)
    assert list(cache.glob("*")) == []


def test_integers_are_a_space_of_their_own_and_a_generation_keeps_its_numbers(
    tmp_path: Path, cache: Path
) -> None:
    floats, integers = (
        DataDirectory(Settings(data_dir=tmp_path / "data", dtype=dtype))
        for dtype in ("auto", "int8")
    )
    (tmp_path / "data" / "cache").symlink_to(cache)
    with floats as in_floats, integers as in_integers:
        in_floats.corpus.put([Document.of(doc_id="d", text="cold water")])
        version = in_floats.registry.register(make_tiny_model(tmp_path / "model"))
        exact, rounded = (recipe_for(data, version) for data in (in_floats, in_integers))
        assert not same_recipe(exact, rounded)
        generations = [in_floats.catalog.record(recipe) for recipe in (exact, rounded)]
        for data in (in_floats, in_integers):
            for generation, numbers in zip(generations, ("fp32", "int8"), strict=True):
                encoder = data.encoder(generation)
                assert encoder.dtype == numbers
                assert encoder.fingerprint == generation.recipe.fingerprint
        found = [generation_json(in_floats, generation.name)["dtype"] for generation in generations]
    assert found == ["float", "int8"]


def test_a_table_of_token_vectors_has_nothing_to_round(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported, match="no transformer"):
        open_encoder(a_model(tmp_path, "static"), dtype="int8")


def test_without_the_extra_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'reindexer\[onnx\]'"):
        Encoder(a_model(tmp_path, "mean"), dtype="int8")
