"""A real model's folder, small and without torch: a table of token vectors."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np

DIM = 16
_WORDS = tuple(f"w{number}" for number in range(50))


def write_static_model(folder: Path, seed: int) -> Path:
    """A folder that `models register` takes; another seed is another vector space."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    ids = {word: number for number, word in enumerate(("[UNK]", *_WORDS))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.random.default_rng(seed).standard_normal((len(ids), DIM)).astype(np.float32)
    save_file({"embedding.weight": table}, folder / "model.safetensors")
    modules = ("StaticEmbedding", "Normalize")
    listed = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{name}" if at else "",
            "type": f"sentence_transformers.models.{name}",
        }
        for at, name in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    settings = {"prompts": {"query": "", "document": ""}, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps(settings), encoding="utf-8"
    )
    return folder


def write_pairs(path: Path, seed: int, n: int = 200) -> Path:
    """Pairs of texts that share words, as `train` reads them."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(n):
            words = rng.sample(_WORDS, 8)
            pair = {"anchor": " ".join(words[:3]), "positive": " ".join(words[1:])}
            file.write(json.dumps(pair) + "\n")
    return path
