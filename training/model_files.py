"""The files of a sentence-transformers folder: its modules, and what is safe to keep of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from training.errors import ModelDamaged, ModelNotFound, ModelUnsafe, ModelUnsupported

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_KEPT = (".json", ".txt", ".model", ".vocab", ".spm", ".tiktoken", ".bpe", ".jinja", ".md", ".html")
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


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Whoever wrote a model's configuration is not trusted: a value of a wrong kind, whatever it
    breaks, is damage. Raises ModelDamaged."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelDamaged(
            f"the configuration in {folder} cannot be used ({type(error).__name__}: {error}); "
            "download or save the model again"
        ) from error


def files_to_keep(
    folder: Path, *, trust_remote_code: bool, pooling: str | None = None
) -> list[Path]:
    """The files of a model folder that a version holds, sorted: weights in safetensors,
    configuration, tokenizer; no pickles, no exports for other runtimes, no training leftovers.

    Raises ModelUnsafe for a link that leads out of the folder, and what `find_modules` raises.
    """
    with reading(folder):
        kept = _files_to_keep(folder, trust_remote_code, pooling)
        _refuse_links(folder, kept)
    return kept


def _refuse_links(folder: Path, files: Iterable[Path]) -> None:
    """A folder from elsewhere may link to any file of this machine, which would be copied and then
    pushed. The hub's own cache is made of links into its `blobs`, which stay inside the cache."""
    root = folder.resolve()
    is_cache = root.parent.name == "snapshots" and (root.parents[1] / "blobs").is_dir()
    allowed = root.parents[1] if is_cache else root
    for file in files:
        if not file.resolve().is_relative_to(allowed):
            raise ModelUnsafe(
                f"{file} is a link out of the model's folder, to {file.resolve()}; put the file "
                "itself there, or leave it out"
            )


def _files_to_keep(folder: Path, trust_remote_code: bool, pooling: str | None) -> list[Path]:
    modules, _, _ = find_modules(folder, pooling)
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
    return path.suffix not in (".md", ".html") and not path.name.startswith(_DOCUMENTATION_NAMES)


def find_modules(
    folder: Path, pooling: str | None = None
) -> tuple[list[tuple[str, Path]], dict[str, bytes], list[str]]:
    """Short class name and folder of each module, files to add, notes. pooling: for a folder that
    has no configuration of its own."""
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
        return _plain_transformer(folder, pooling)
    try:
        entries = [
            (str(entry["path"]), str(entry["type"]))
            for entry in json.loads((folder / "modules.json").read_bytes())
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelDamaged(
            f"{folder / 'modules.json'} is not a list of modules ({error}); save the model again"
        ) from error
    modules: list[tuple[str, Path]] = []
    for path, kind in entries:
        if path.startswith("/") or ".." in PurePosixPath(path).parts:
            raise ModelUnsafe(f"{folder}/modules.json points outside the folder: {path!r}")
        ours = kind.startswith("sentence_transformers.") and kind.rpartition(".")[2] in _MODULES
        modules.append((kind.rpartition(".")[2] if ours else kind, folder / path))
    if not modules:
        raise ModelDamaged(f"{folder}/modules.json lists no modules; save the model again")
    return modules, {}, []


def _plain_transformer(
    folder: Path, pooling_mode: str | None
) -> tuple[list[tuple[str, Path]], dict[str, bytes], list[str]]:
    """A folder that transformers wrote. sentence-transformers would add a pooling of its own choice
    while loading, and a model trained with another one would answer badly without an error; so
    whoever registers it says which, and it is written down."""
    config = read_json(folder / "config.json")
    if pooling_mode is None:
        raise ModelUnsupported(
            f"{folder} was saved without the sentence-transformers configuration (modules.json): "
            "nothing in it says how the vectors of its tokens become one. If it was trained with "
            "sentence-transformers, save it with SentenceTransformer.save(FOLDER) and register "
            f"that; otherwise say it with --pooling {_likely_pooling(config)} (`mean` for most "
            "encoders, `cls` where the first token was trained, `lasttoken` for decoders): "
            f"`reindexer models register REF --pooling {_likely_pooling(config)}`"
        )
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {
            "idx": 1,
            "name": "1",
            "path": "1_Pooling",
            "type": "sentence_transformers.models.Pooling",
        },
    ]
    pooling = {"embedding_dimension": hidden_size(folder, config), "pooling_mode": pooling_mode}
    added = {
        "modules.json": json.dumps(modules, indent=2).encode(),
        "1_Pooling/config.json": json.dumps(pooling, indent=2).encode(),
    }
    note = (
        f"the folder has no sentence-transformers configuration; {pooling_mode} pooling was added, "
        "as asked for"
    )
    return [("Transformer", folder), ("Pooling", folder / "1_Pooling")], added, [note]


def _likely_pooling(config: Mapping[str, Any]) -> str:
    """What sentence-transformers would take."""
    architecture = str((config.get("architectures") or [""])[0])
    causal = architecture.endswith("ForCausalLM") and config.get("is_causal", True)
    return "lasttoken" if causal else "mean"


def refuse_code(folder: Path, modules: list[tuple[str, Path]], trusted: bool) -> None:
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
            references = read_json(path / name, missing_ok=True).get("auto_map") or {}
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
    index = read_json(path / "model.safetensors.index.json", missing_ok=True)
    shards = sorted(set(index.get("weight_map", {}).values()))
    for shard in shards:
        if "/" in shard or not shard.endswith(".safetensors"):
            raise ModelUnsafe(
                f"{path} takes weights from {shard!r}; expected safetensors beside it"
            )
    return [path / shard for shard in shards]


def require_safetensors(path: Path) -> None:
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


def transformer_width(folder: Path) -> int:
    """Of the hidden states, which may be more than a row has dimensions."""
    modules, _, _ = find_modules(folder)
    path = next(path for kind, path in modules if kind == "Transformer")
    return hidden_size(path, read_json(path / "config.json"))


def hidden_size(path: Path, config: Mapping[str, Any]) -> int:
    text_config = config.get("text_config")
    for source in (config, text_config if isinstance(text_config, Mapping) else {}):
        for key in ("hidden_size", "d_model", "dim", "n_embd", "hidden_dim"):
            if isinstance(source.get(key), int):
                return int(source[key])
    raise ModelUnsupported(f"{path}/config.json does not say how wide the model is (hidden_size)")


def read_json(path: Path, *, missing_ok: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if missing_ok:
            return {}
        raise ModelDamaged(f"{path} is missing; download or save the model again") from None
    except (ValueError, RecursionError) as error:
        raise ModelDamaged(f"{path} is not valid JSON ({error}); save the model again") from None
    if not isinstance(value, dict):
        raise ModelDamaged(f"{path} does not hold a JSON object; save the model again")
    return value
