"""How busy a build keeps a GPU: encoding against what sentence-transformers does by itself.

    python benchmarks/gpu.py                    on the GPU, a few minutes
    python benchmarks/gpu.py --device cpu       the same script with tiny models: tries itself out

Needs no download: the models have the shape of BERT-base and of MiniLM-L6 and random weights, which
are as fast as trained ones. Texts have 16 to 240 tokens, 128 on average. Everything is timed after
a warm-up, and interleaved. Measured against

(a) `SentenceTransformer.encode` as it comes: fp32, batches of 32;
(b) the same in 16-bit numbers at the best of several batch sizes;
(c) the rate of a large matrix multiplication in bf16 on this GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from benchmarks.report import Report, read_arguments, seconds
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.recipes import recipe_for
from reindexer.replay import Replay, ReplayProgress
from reindexer.settings import Settings
from reindexer.window import window_docs
from search.documents import Document
from search.splitter import Splitter
from training.encoder import Encoder
from training.registry import ModelVersion

FEWEST_TOKENS, MOST_TOKENS = 16, 240  # 128 on average
MAX_TOKENS = 256
N_WORDS = 8_000
BATCH_SIZES = (64, 128, 256, 512, 1_024)
MATMUL = 8_192  # rows and columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Of a model, and how much is encoded with it."""

    name: str
    layers: int
    width: int
    heads: int
    inner: int
    passages: int

    def flops(self, lengths: Any) -> float:
        """Of encoding texts of so many tokens: matrix multiplications, attention included."""
        tokens = float(lengths.sum())
        per_token = self.layers * (8 * self.width**2 + 4 * self.width * self.inner)
        pairs = float((lengths.astype(np.float64) ** 2).sum())
        return tokens * per_token + self.layers * 4 * self.width * pairs


GPU_SHAPES = (
    Shape(name="BERT-base", layers=12, width=768, heads=12, inner=3_072, passages=60_000),
    Shape(name="MiniLM-L6", layers=6, width=384, heads=12, inner=1_536, passages=120_000),
)
CPU_SHAPES = (
    Shape(name="BERT-base, tiny", layers=2, width=48, heads=4, inner=96, passages=300),
    Shape(name="MiniLM-L6, tiny", layers=1, width=32, heads=4, inner=64, passages=300),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu for tiny models")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passages", type=int, help="of each model, instead of its own number")
    arguments = read_arguments(parser)
    is_cpu = arguments.device == "cpu"
    if not is_cpu and not torch.cuda.is_available():
        print(
            f"there is no GPU that torch {torch.__version__} can use (CUDA "
            f"{torch.version.cuda or 'not built in'}), so there is nothing to measure; "
            "`--device cpu` tries the script out with tiny models"
        )
        return 2
    transformers_logging.disable_progress_bar()
    device = torch.device(arguments.device)
    name = "no GPU: a trial with tiny models" if is_cpu else torch.cuda.get_device_name(device)
    report = Report(
        f"encoding on {arguments.device}",
        [name, f"torch {torch.__version__}", *_cuda()],
        path=arguments.report,
    )
    peak = 0.0 if is_cpu else _matmul_rate(device)
    if peak:
        report.figure("bf16 matrix multiplication", peak / 1e12, "TFLOP/s", digits=0)
    for shape in CPU_SHAPES if is_cpu else GPU_SHAPES:
        _measure(report, shape, arguments, peak)
    return 0 if is_cpu else report.exit_code()


def _cuda() -> list[str]:
    return [f"CUDA {torch.version.cuda}"] if torch.version.cuda else []


def _measure(report: Report, shape: Shape, arguments: argparse.Namespace, peak: float) -> None:
    is_cpu = arguments.device == "cpu"
    texts, lengths = _texts(arguments.passages or shape.passages)
    n = len(texts)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder) / "data", device=arguments.device)
        with open_data_directory(settings) as data:
            version = data.registry.register(_model(shape, Path(folder) / "model"))
            encoder = data.load_encoder(str(version))
            by_itself = SentenceTransformer(str(version.path), device=arguments.device)
            halved = SentenceTransformer(
                str(version.path),
                device=arguments.device,
                model_kwargs={"dtype": torch.bfloat16},
            )
            few = texts[: min(n, 256 if is_cpu else 8_000)]
            best = _best_batch_size(halved, few)
            works: list[tuple[str, Callable[[], object], int]] = [
                ("encoder alone", lambda: encoder.encode_documents(texts), n),
                ("(a) encode() as it comes", lambda: by_itself.encode(few), len(few)),
                (
                    f"(b) encode() in bf16, batches of {best}",
                    lambda: halved.encode(texts, batch_size=best),
                    n,
                ),
            ]
            rates: dict[str, list[float]] = {name: [] for name, _, _ in works}
            busy: list[float] = []
            whole: list[float] = []
            for _, work, _ in works:
                work()
            for _ in range(arguments.rounds):
                for work_name, work, count in works:
                    rates[work_name].append(count / seconds(work))
                build_s, share = _build(data, version, encoder, texts)
                whole.append(n / build_s)
                busy.append(share)
            report.figure(
                f"{shape.name}: {encoder.dtype}, batches of",
                encoder.max_batch_tokens,
                "tokens",
                digits=0,
            )
            for work_name, _, _ in works:
                report.figure(
                    f"  {work_name}", statistics.median(rates[work_name]), "passages/s", digits=0
                )
            alone, plain, half = (statistics.median(rates[name]) for name, _, _ in works)
            end_to_end = statistics.median(whole)
            report.figure("  build, embedded store", end_to_end, "passages/s", digits=0)
            report.figure("  encoder / (a)", alone / plain, at_least=None if is_cpu else 4)
            report.figure("  encoder / (b)", alone / half, at_least=None if is_cpu else 1.25)
            if peak:
                at_least = 0.40 if shape.layers == 12 else None
                share = shape.flops(lengths) * alone / n / peak
                report.figure("  share of the matmul rate", share, at_least=at_least)
                report.figure("  GPU busy during the build", min(busy), at_least=0.95)
            report.figure(
                "  build / encoder alone", end_to_end / alone, at_least=None if is_cpu else 0.92
            )
            exact = by_itself.encode(few, normalize_embeddings=True)
            cosine = np.einsum("nd,nd->n", exact, encoder.encode_documents(few))
            report.figure("  lowest cosine to fp32", float(cosine.min()), digits=5, at_least=0.999)


def _best_batch_size(model: SentenceTransformer, texts: list[str]) -> int:
    def took(size: int) -> float:
        try:
            model.encode(texts[: 2 * size], batch_size=size)
            return seconds(lambda: model.encode(texts, batch_size=size))
        except torch.OutOfMemoryError:
            return float("inf")

    return min((size for size in BATCH_SIZES if size <= len(texts)), key=took)


def _build(
    data: DataDirectory, version: ModelVersion, encoder: Encoder, texts: list[str]
) -> tuple[float, float]:
    """Seconds of a build without the index, and the share of them that the GPU was at work."""
    if not data.corpus.head():
        data.corpus.put(
            [Document.of(doc_id=f"d{number}", text=text) for number, text in enumerate(texts)]
        )
    generation = data.catalog.record(recipe_for(data, version))
    recipe = generation.recipe
    collection = data.store.create(generation.collection, recipe.collection_spec(generation.name))
    head = data.corpus.head()
    replay = Replay(
        corpus=data.corpus,
        collection=collection,
        encoder=encoder,
        splitter=Splitter(recipe.splitter, encoder),
        window=window_docs(data.settings, encoder.device),
        checkpoint=lambda _progress: None,
    )
    done: list[ReplayProgress] = []
    with _Watch() as watch:
        took_s = seconds(lambda: done.append(replay.run(0, head, fresh_until=head)))
    assert done[0].passages == len(texts), (done[0].passages, len(texts))
    collection.close()
    data.store.drop(generation.collection)
    return took_s, watch.share


class _Watch:
    """The share of the time that the GPU was at work, by nvidia-smi, five times a second."""

    def __enter__(self) -> _Watch:
        self._process: subprocess.Popen[str] | None = None
        self.share = 0.0
        if torch.cuda.is_available():
            uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
            with contextlib.suppress(FileNotFoundError):
                self._process = subprocess.Popen(
                    ["nvidia-smi", "-i", f"GPU-{uuid}", *query], stdout=subprocess.PIPE, text=True
                )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        lines = self._process.communicate()[0].split()
        shares = [int(line) / 100 for line in lines if line.isdigit()]
        inside = shares[2:-1] or shares  # the ends reach beyond the build
        self.share = statistics.mean(inside) if inside else 0.0


def _matmul_rate(device: torch.device) -> float:
    """FLOP/s of bf16, the best of some."""
    one, other = (
        torch.randn(MATMUL, MATMUL, device=device, dtype=torch.bfloat16) for _ in range(2)
    )
    best = 0.0
    for _ in range(10):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            one @ other
        torch.cuda.synchronize()
        best = max(best, 10 * 2 * MATMUL**3 / (time.perf_counter() - began))
    return best


def _texts(n: int) -> tuple[list[str], Any]:
    """Texts of words that are one token each, in random order of length, and their tokens."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(FEWEST_TOKENS, MOST_TOKENS + 1, n)  # with [CLS] and [SEP]
    words = [f"w{word}" for word in range(N_WORDS)]
    texts = [
        " ".join(words[at] for at in rng.integers(0, N_WORDS, length - 2)) for length in lengths
    ]
    return texts, lengths


def _model(shape: Shape, folder: Path) -> Path:
    """Random weights, saved as sentence-transformers saves a model."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {
        token: at for at, token in enumerate([*special, *(f"w{i}" for i in range(N_WORDS))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=MAX_TOKENS,
    )
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=30_522,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.inner,
            max_position_embeddings=512,
        )
    )
    plain = folder.with_name("plain")
    model.save_pretrained(plain)
    wrapped.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=MAX_TOKENS)
    pooling = Pooling(shape.width, pooling_mode="mean")
    SentenceTransformer(modules=[transformer, pooling]).save(str(folder))
    return folder


if __name__ == "__main__":
    sys.exit(main())
