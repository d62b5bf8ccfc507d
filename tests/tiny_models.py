"""Tiny models with random weights, made on the fly: real files, real code, milliseconds to encode.

Two seeds give two vector spaces of the same dimension. Texts that share words are similar, since
the token vectors are random but fixed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

Kind = Literal["mean", "cls", "last", "static"]

WORD_LIST = """
a about above after again all also an and animal answer any apple are as ask at away back bank be
bear because become before begin better between big bird black blood blue body book both box bread
bring build but by call can car carry cat cell change child city clean clear close cold color come
computer corn could country cut data day deep disease do doctor document dog door down draw drink
drug dry each early earth east eat engine every eye fact fall family far farm fast father feel few
field find fire first fish five fly food for forest four friend from fruit garden gene give go gold
good grass great green ground grow half hand happy hard have he head hear heart heat help here high
hill home horse hot hour house how ice idea in index is island it keep kind king know lake land
language large last late leaf learn left less letter life light like line list little long low make
man many map market meat medicine metal milk mind minute model money month moon more morning most
mother mountain mouse move music name near never new next night north note number of oil old on one
open or orange other our out over page paper part people picture place plant play point poor power
price problem protein public query question quick quiet rain read red rest rich right river road
rock room round run salt same sand say school sea search second see seed sell send seven ship short
show silver sing six sky sleep slow small snow so soft soil some song soon south speak spring star
stone story street strong study summer sun sweet table take talk tall teach tell ten than that the
their then there they thing think this three time to today tool top town treatment tree true turn
two under up use vaccine valley vector village virus voice walk wall want war warm wash watch water
way we week west wet what wheat when where which white who wide wild wind window winter wise with
woman wood word work world write year yellow you young
"""

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tiny_model(
    path: Path,
    *,
    kind: Kind = "mean",
    seed: int = 0,
    dim: int = 32,
    max_tokens: int = 128,
    query_prompt: str = "",
    document_prompt: str = "",
    truncate_dim: int | None = None,
    include_prompt: bool = True,
    normalize: bool = True,
) -> Path:
    """Write a sentence-transformers folder to path and return it.

    kind: `mean` and `cls` are encoders with that pooling, `last` is a decoder with last-token
    pooling that pads on the left, `static` is a table of token vectors. include_prompt: whether
    the prompt's tokens take part in the pooling. dim: divisible by 4.
    """
    path.mkdir(parents=True)
    modules = ["StaticEmbedding" if kind == "static" else "Transformer"]
    if kind == "static":
        _write_static(path, seed=seed, dim=dim)
    else:
        _write_transformer(path, decoder=kind == "last", seed=seed, dim=dim, max_tokens=max_tokens)
        modules.append("Pooling")
        mode = {"mean": "mean", "cls": "cls", "last": "lasttoken"}[kind]
        _write_json(
            path / "1_Pooling" / "config.json",
            {"embedding_dimension": dim, "pooling_mode": mode, "include_prompt": include_prompt},
        )
    if normalize:
        modules.append("Normalize")
    _write_json(
        path / "modules.json",
        [
            {
                "idx": at,
                "name": str(at),
                "path": f"{at}_{name}" if at else "",
                "type": f"sentence_transformers.models.{name}",
            }
            for at, name in enumerate(modules)
        ],
    )
    settings: dict[str, Any] = {
        "prompts": {"query": query_prompt, "document": document_prompt},
        "similarity_fn_name": "cosine",
    }
    if truncate_dim is not None:
        settings["truncate_dim"] = truncate_dim
    _write_json(path / "config_sentence_transformers.json", settings)
    return path


def _write_static(path: Path, *, seed: int, dim: int) -> None:
    import torch
    from safetensors.torch import save_file

    tokenizer = wordpiece_tokenizer()
    table = torch.randn(
        tokenizer.get_vocab_size(), dim, generator=torch.Generator().manual_seed(seed)
    )
    tokenizer.save(str(path / "tokenizer.json"))
    save_file({"embedding.weight": table}, path / "model.safetensors")


def _write_transformer(path: Path, *, decoder: bool, seed: int, dim: int, max_tokens: int) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel, Qwen2Config, Qwen2Model

    tokenizer = byte_pair_tokenizer() if decoder else wordpiece_tokenizer()
    tokenizer.enable_truncation(16)  # many published tokenizers carry such settings
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(path / "tokenizer.json"))
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": dim,
        "intermediate_size": 2 * dim,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module
        if decoder:
            config = Qwen2Config(**sizes, num_key_value_heads=2, architectures=["Qwen2Model"])
            model = Qwen2Model(config)
        else:
            config = BertConfig(**sizes, architectures=["BertModel"])
            model = BertModel(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)  # so that attention is not uniform
    config.to_json_file(path / "config.json", use_diff=False)
    save_file(model.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    _write_json(
        path / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": max_tokens,
            "padding_side": "left" if decoder else "right",
            **({"pad_token": "[PAD]", "eos_token": "[SEP]"} if decoder else names),
        },
    )
    _write_json(path / "sentence_bert_config.json", {"max_seq_length": max_tokens})


def wordpiece_tokenizer() -> Any:
    """Whole words, and letters for everything else."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    letters = [chr(code) for code in range(33, 127)]
    inner = [f"##{letter}" for letter in letters]
    vocabulary = dict.fromkeys([*_SPECIAL, *WORD_LIST.split(), *letters, *inner])
    ids = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_pair_tokenizer() -> Any:
    """Byte-level pairs learned from the word list, with an end token: no text is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f" {word}" for word in WORD_LIST.split()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 3)]
    )
    return tokenizer


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
