"""What lies in a sentence-transformers folder, read from its JSON alone; nothing is run."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from training.errors import ModelDamaged, ModelNotFound, ModelUnsafe, ModelUnsupported

# A static model reads any length at the same price a token; the splitter cuts much earlier.
STATIC_MAX_TOKENS = 32_768
DEFAULT_MAX_TOKENS = 512  # for a model that states no length at all

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_KEPT = (".json", ".txt", ".model", ".vocab", ".spm", ".tiktoken", ".bpe", ".jinja", ".md")
_KEPT_NAMES = ("license", "notice")
_DOCUMENTATION_NAMES = ("readme", "license", "notice", "data_config.json")
_MODULES = {
    "Transformer",
    "StaticEmbedding",
    "Pooling",
    "Dense",
    "Normalize",
    "LayerNorm",
    "Dropout",
    "WeightedLayerPooling",
}
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_POOLING_FLAGS = {  # the way releases before 5.2 wrote it
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelDescription:
    """What a folder's own configuration says about its vectors."""

    dim: int  # before any Matryoshka truncation
    max_tokens: int  # special tokens and prompt included
    longest_tokens: int  # the most that the architecture can read
    pooling: str
    normalize: bool  # rows leave the model normalised
    query_prompt: str
    document_prompt: str
    truncate_dim: int | None
    similarity: str
    added_files: Mapping[str, bytes]  # to be written beside the folder's own files
    notes: tuple[str, ...]  # what a user should know


def describe(folder: Path, *, trust_remote_code: bool) -> ModelDescription:
    """Read and check a model folder.

    Raises ModelNotFound (no model in it), ModelDamaged (files missing or unreadable), ModelUnsafe
    (pickles, code of its own), ModelUnsupported.
    """
    modules, added, notes = _modules(folder)
    _refuse_code(folder, modules, trust_remote_code)
    dim, pooling, normalize = 0, "none", False
    max_tokens = longest_tokens = 0
    for position, (kind, path) in enumerate(modules):
        config = _read_json(path / "config.json", missing_ok=True)
        if (position == 0) != (kind in ("Transformer", "StaticEmbedding")):
            raise ModelUnsupported(
                f"{folder}: module {position} is {kind}; expected Transformer or StaticEmbedding "
                "first, and once. Register a text embedding model"
            )
        if kind == "Transformer":
            _require_safetensors(path)
            dim = _hidden_size(path, config)
            max_tokens, longest_tokens = _transformer_lengths(path, config)
            notes += _transformer_notes(path)
        elif kind == "StaticEmbedding":
            _require_safetensors(path)
            dim = _static_dim(path)
            max_tokens = longest_tokens = STATIC_MAX_TOKENS
            pooling = "static"
        elif kind == "Pooling":
            if added and path == folder / "1_Pooling":
                config = json.loads(added["1_Pooling/config.json"])
            modes = _pooling_modes(config)
            dim = len(modes) * int(
                config.get("embedding_dimension") or config.get("word_embedding_dimension") or dim
            )
            pooling = "+".join(modes)
        elif kind == "Dense":
            _require_safetensors(path)
            dim = int(config["out_features"])
        elif kind == "LayerNorm":
            _require_safetensors(path)
        elif kind == "Normalize":
            normalize = True
    settings = _read_json(folder / "config_sentence_transformers.json", missing_ok=True)
    query_prompt, document_prompt = _prompts(settings)
    similarity = str(settings.get("similarity_fn_name") or "cosine")
    if similarity != "cosine" and not normalize:
        notes.append(
            f"the model was made for {similarity} similarity without normalisation; its rows are "
            "normalised here, so rankings can differ from the model card's"
        )
    return ModelDescription(
        dim=dim,
        max_tokens=max_tokens,
        longest_tokens=longest_tokens,
        pooling=pooling,
        normalize=normalize,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        truncate_dim=settings.get("truncate_dim"),
        similarity=similarity,
        added_files=added,
        notes=tuple(notes),
    )


def files_to_keep(folder: Path, *, trust_remote_code: bool) -> list[Path]:
    """The files of a model folder that a version holds, sorted: weights in safetensors,
    configuration, tokenizer; no pickles, no exports for other runtimes, no training leftovers."""
    modules, _, _ = _modules(folder)
    kept: set[Path] = set()
    for path in {folder, *(path for _, path in modules)}:
        weights = _weights(path)
        for file in path.glob("*"):
            named = file.suffix.lower() in _KEPT or file.name.lower().startswith(_KEPT_NAMES)
            if file.is_file() and not file.name.startswith(".") and (named or file in weights):
                kept.add(file)
    if trust_remote_code:
        kept.update(file for file in folder.rglob("*.py") if file.is_file())
    return sorted(kept)


def matters_for_vectors(name: str) -> bool:
    """Whether a file belongs in the fingerprint: all but documentation."""
    path = PurePosixPath(name.lower())
    return path.suffix != ".md" and not path.name.startswith(_DOCUMENTATION_NAMES)


def _modules(folder: Path) -> tuple[list[tuple[str, Path]], dict[str, bytes], list[str]]:
    """Short class name and folder of each module, files to add, notes."""
    if (folder / "adapter_config.json").exists():
        raise ModelUnsupported(
            f"{folder} holds an adapter without its base model; merge it first "
            "(`merge_and_unload()` in peft), save the result, and register that folder"
        )
    if not (folder / "modules.json").exists():
        if not (folder / "config.json").exists():
            raise ModelNotFound(
                f"{folder} holds no model: neither modules.json nor config.json is there. Name the "
                "folder that SentenceTransformer.save() wrote"
            )
        return _plain_transformer(folder)
    entries = json.loads((folder / "modules.json").read_bytes())
    modules: list[tuple[str, Path]] = []
    for entry in entries:
        path, kind = str(entry["path"]), str(entry["type"])
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ModelUnsafe(f"{folder}/modules.json points outside the folder: {path!r}")
        ours = kind.startswith("sentence_transformers.") and kind.rpartition(".")[2] in _MODULES
        modules.append((kind.rpartition(".")[2] if ours else kind, folder / path))
    if not modules:
        raise ModelDamaged(f"{folder}/modules.json lists no modules; save the model again")
    return modules, {}, []


def _plain_transformer(
    folder: Path,
) -> tuple[list[tuple[str, Path]], dict[str, bytes], list[str]]:
    """A folder that transformers wrote. sentence-transformers would add pooling while loading; here
    it is written down, so that the version says what it does."""
    config = _read_json(folder / "config.json")
    architecture = str((config.get("architectures") or [""])[0])
    causal = architecture.endswith("ForCausalLM") and config.get("is_causal", True)
    mode = "lasttoken" if causal else "mean"
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    pooling = {"embedding_dimension": _hidden_size(folder, config), "pooling_mode": mode}
    added = {
        "modules.json": json.dumps(modules, indent=2).encode(),
        "1_Pooling/config.json": json.dumps(pooling, indent=2).encode(),
    }
    note = (
        f"the folder has no sentence-transformers configuration; {mode} pooling was added, as "
        "sentence-transformers does. If the model was trained otherwise, save it with its pooling"
    )
    return [("Transformer", folder), ("Pooling", folder / "1_Pooling")], added, [note]


def _refuse_code(folder: Path, modules: list[tuple[str, Path]], trusted: bool) -> None:
    foreign = [kind for kind, _ in modules if "." in kind]
    in_library = [kind for kind in foreign if kind.startswith("sentence_transformers.")]
    if in_library:
        raise ModelUnsupported(
            f"{folder} uses {in_library[0]}, which this release cannot encode with; it knows "
            f"{', '.join(sorted(_MODULES))}"
        )
    code = [f"module {kind}" for kind in foreign]
    for name in ("config.json", "tokenizer_config.json"):
        for path in {path for _, path in modules}:
            references = _read_json(path / name, missing_ok=True).get("auto_map") or {}
            for reference in _strings(references):
                code.append(f"{reference} in {name}")
                if "--" in reference and trusted:
                    raise ModelUnsafe(
                        f"{folder}: {reference} is code in another repository, which may change "
                        "under us; copy it into the model's folder and register that"
                    )
    if code and not trusted:
        raise ModelUnsafe(
            f"{folder} brings code of its own ({code[0]}). Read it, and if you trust it: "
            "`reindexer models register REF --trust-remote-code`"
        )
    if foreign:
        raise ModelUnsupported(
            f"{folder} uses the module {foreign[0]}; code of its own is supported inside the "
            "transformer, not as a module"
        )


def _strings(value: object) -> list[str]:
    """Every text in nested JSON."""
    if isinstance(value, str):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return (
        [text for item in items for text in _strings(item)] if isinstance(items, Iterable) else []
    )


def _weights(path: Path) -> list[Path]:
    """The safetensors files that sentence-transformers loads from here, there or not."""
    if (path / "model.safetensors").is_file():
        return [path / "model.safetensors"]
    index = _read_json(path / "model.safetensors.index.json", missing_ok=True)
    return [path / shard for shard in sorted(set(index.get("weight_map", {}).values()))]


def _require_safetensors(path: Path) -> None:
    weights = _weights(path)
    for shard in weights:
        if not shard.is_file():
            raise ModelDamaged(f"{shard} is missing; download or save the model again")
    if weights:
        return
    pickles = sorted(file.name for file in path.glob("*") if file.suffix.lower() in _PICKLES)
    if pickles:
        raise ModelUnsafe(
            f"{path} has its weights only in {pickles[0]}, a pickle that can run code. Convert it "
            "where you trust it: SentenceTransformer(FOLDER).save(NEW_FOLDER) writes safetensors"
        )
    raise ModelDamaged(f"{path / 'model.safetensors'} is missing; download or save the model again")


def _hidden_size(path: Path, config: Mapping[str, Any]) -> int:
    text_config = config.get("text_config")
    for source in (config, text_config if isinstance(text_config, Mapping) else {}):
        for key in ("hidden_size", "d_model", "dim", "n_embd", "hidden_dim"):
            if isinstance(source.get(key), int):
                return int(source[key])
    raise ModelUnsupported(f"{path}/config.json does not say how wide the model is (hidden_size)")


def _transformer_lengths(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens the model is set to read, tokens it can read at most)."""
    longest = config.get("max_position_embeddings") or config.get("n_positions") or 10**9
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        longest -= 2  # positions begin after the padding index there
    if longest < 1:  # xlnet writes -1 for no limit
        longest = 10**9
    tokenizer = _read_json(path / "tokenizer_config.json", missing_ok=True)
    stated = _transformer_config(path).get("max_seq_length")
    if not stated:
        stated = tokenizer.get("model_max_length")
    if not stated or stated > 10**9:
        stated = longest if longest < 10**9 else DEFAULT_MAX_TOKENS
    return min(int(stated), longest), longest


def _transformer_config(path: Path) -> dict[str, Any]:
    for name in _TRANSFORMER_CONFIGS:
        if config := _read_json(path / name, missing_ok=True):
            return config
    return {}


def _transformer_notes(path: Path) -> list[str]:
    config = _transformer_config(path)
    if "message" in (config.get("modality_config") or {}):
        raise ModelUnsupported(
            f"{path} reads chat messages, not plain text; save it with the text modality alone"
        )
    if config.get("tokenizer_name_or_path"):
        raise ModelUnsupported(
            f"{path} takes its tokenizer from {config['tokenizer_name_or_path']!r}; save the model "
            "with its tokenizer in one folder"
        )
    return []


def _static_dim(path: Path) -> int:
    """Width of the embedding table, from the header of the safetensors file."""
    file = path / "model.safetensors"
    try:
        with file.open("rb") as stream:
            (n_bytes,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(min(n_bytes, 10_000_000)))
        tensor = header.get("embedding.weight") or header["embeddings"]
        return int(tensor["shape"][1])
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise ModelDamaged(f"{file} cannot be read; download or save the model again") from error


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    mode = config.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else [str(item) for item in mode]
    return [name for flag, name in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]


def _prompts(settings: Mapping[str, Any]) -> tuple[str, str]:
    prompts = settings.get("prompts") or {}
    document = next(
        (prompts[key] for key in ("document", "passage", "corpus") if prompts.get(key)), ""
    )
    return str(prompts.get("query") or ""), str(document)


def _read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise ModelDamaged(f"{path} is missing; download or save the model again") from None
    except ValueError as error:
        raise ModelDamaged(f"{path} is not valid JSON ({error}); save the model again") from None
    if not isinstance(value, dict):
        raise ModelDamaged(f"{path} does not hold a JSON object; save the model again")
    return value
