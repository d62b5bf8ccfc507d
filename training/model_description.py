"""What a model folder's own configuration says about its vectors; nothing is loaded or run."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import ModelDamaged, ModelUnsafe, ModelUnsupported
from training.model_files import (
    find_modules,
    hidden_size,
    read_json,
    reading,
    refuse_code,
    require_safetensors,
)

# A static model reads any length at the same price a token; the splitter cuts much earlier.
STATIC_MAX_TOKENS = 32_768
DEFAULT_MAX_TOKENS = 512  # for a model that states no length at all

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


def describe(
    folder: Path, *, trust_remote_code: bool, pooling: str | None = None
) -> ModelDescription:
    """Read and check a model folder. pooling: for one without configuration of its own.

    Raises ModelNotFound (no model in it), ModelDamaged (files missing or unreadable), ModelUnsafe
    (pickles, code of its own), ModelUnsupported.
    """
    with reading(folder):
        return _describe(folder, trust_remote_code, pooling)


def _describe(folder: Path, trust_remote_code: bool, pooling: str | None) -> ModelDescription:
    modules, added, notes = find_modules(folder, pooling)
    refuse_code(folder, modules, trust_remote_code)
    dim, found_pooling, normalize = 0, "none", False
    max_tokens = longest_tokens = 0
    for position, (kind, path) in enumerate(modules):
        config = read_json(path / "config.json", missing_ok=True)
        if (position == 0) != (kind in ("Transformer", "StaticEmbedding")):
            raise ModelUnsupported(
                f"{folder}: module {position} is {kind}; expected Transformer or StaticEmbedding "
                "first, and once. Register a text embedding model"
            )
        if kind == "Transformer":
            require_safetensors(path)
            dim = hidden_size(path, config)
            max_tokens, longest_tokens = _transformer_lengths(path, config)
            notes += _transformer_notes(path)
        elif kind == "StaticEmbedding":
            require_safetensors(path)
            dim = _static_dim(path)
            max_tokens = longest_tokens = STATIC_MAX_TOKENS
            found_pooling = "static"
        elif kind == "Pooling":
            if added:
                config = json.loads(added["1_Pooling/config.json"])
            elif not config:
                config = read_json(path / "config.json")  # without it every pooling looks like mean
            modes = _pooling_modes(config)
            dim = len(modes) * int(
                config.get("embedding_dimension") or config.get("word_embedding_dimension") or dim
            )
            found_pooling = "+".join(modes)
        elif kind == "Dense":
            require_safetensors(path)
            dim = _dense_dim(path, config, trust_remote_code)
        elif kind == "LayerNorm":
            require_safetensors(path)
        elif kind == "Normalize":
            normalize = True
    if pooling is not None and pooling != found_pooling:
        raise ModelUnsupported(
            f"{folder} has {found_pooling} pooling by its own configuration, not {pooling}; leave "
            "out --pooling"
        )
    settings = read_json(folder / "config_sentence_transformers.json", missing_ok=True)
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
        pooling=found_pooling,
        normalize=normalize,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        truncate_dim=settings.get("truncate_dim"),
        similarity=similarity,
        added_files=added,
        notes=tuple(notes),
    )


def _transformer_lengths(path: Path, config: Mapping[str, Any]) -> tuple[int, int]:
    """(tokens the model is set to read, tokens it can read at most)."""
    longest = config.get("max_position_embeddings") or config.get("n_positions") or 10**9
    if config.get("model_type") in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer"):
        longest -= 2  # positions begin after the padding index there
    if longest < 1:  # xlnet writes -1 for no limit
        longest = 10**9
    tokenizer = read_json(path / "tokenizer_config.json", missing_ok=True)
    stated = _transformer_config(path).get("max_seq_length")
    if not stated:
        stated = tokenizer.get("model_max_length")
    if not stated or stated > 10**9:
        stated = longest if longest < 10**9 else DEFAULT_MAX_TOKENS
    return min(int(stated), longest), longest


def _transformer_config(path: Path) -> dict[str, Any]:
    for name in _TRANSFORMER_CONFIGS:
        if config := read_json(path / name, missing_ok=True):
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


def _dense_dim(path: Path, config: Mapping[str, Any], trust_remote_code: bool) -> int:
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if not activation.startswith("torch.") and not trust_remote_code:
        raise ModelUnsafe(
            f"{path} brings an activation function of its own ({activation}). Read it, and if you "
            "trust it: `reindexer models register REF --trust-remote-code`"
        )
    if "out_features" not in config:
        raise ModelDamaged(f"{path / 'config.json'} has no out_features; save the model again")
    return int(config["out_features"])


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
