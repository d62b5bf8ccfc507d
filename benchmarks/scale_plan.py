"""Hours, cards, disk, memory and money for 1 million to 1 billion passages, on paper.

    python benchmarks/scale_plan.py [--cards 8] [--card-usd-per-h 4] [--gpu-tflops 316]

Prints the tables of docs/scale.md. What was measured is taken from where `reindexer plan` and
docs/results.md have it; everything else is an assumption, printed as one, and an option.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from reindexer.headroom import POINT_BYTES
from reindexer.plan import INDEX_S_PER_PASSAGE
from reindexer.settings import Settings

GB = 1e9
SIZES = (1_000_000, 100_000_000, 1_000_000_000)  # passages
HNSW_M = Settings().hnsw_m
LINK_BYTES = 2 * HNSW_M * 4  # of the graph's lowest layer, as `plan` counts them


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A shape of model; its cost follows from that."""

    name: str
    dim: int
    layers: int
    inner: int

    def flops(self, tokens: int) -> float:
        """Of one passage."""
        linear = 8 * self.dim**2 + 4 * self.dim * self.inner
        return self.layers * (tokens * linear + 4 * self.dim * tokens**2)


MODELS = (
    Model(name="MiniLM-L6", dim=384, layers=6, inner=1_536),
    Model(name="BERT-large", dim=1_024, layers=24, inner=4_096),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--tokens", type=int, default=128, help="of a passage, on average")
    add("--text-bytes", type=int, default=600, help="of a passage in the corpus")
    add("--gpu-tflops", type=float, default=316.0, help="that a card reaches while encoding")
    add("--feed-us", type=float, default=336.0, help="core time of a passage beside the model")
    add("--cores-per-card", type=int, default=16, help="that read, tokenize and write for a card")
    add("--cards", type=int, default=8)
    add("--index-cores", type=int, default=64, help="of the cluster, for the HNSW graph")
    add("--node-memory-gb", type=float, default=256.0)
    add("--card-usd-per-h", type=float, default=4.0)
    add("--core-usd-per-h", type=float, default=0.05)
    add("--memory-usd-per-gb-month", type=float, default=3.0)
    add("--disk-usd-per-gb-month", type=float, default=0.1)
    arguments = parser.parse_args()
    for table in (_given(arguments), _costs(arguments), _limits(arguments)):
        print("\n".join(table), end="\n\n")
    return 0


def _table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _given(arguments: argparse.Namespace) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        index = f"{INDEX_S_PER_PASSAGE * 1e3:g} ms a passage and core at 384 dims"
        yield "HNSW graph, m = 16", index, "measured"
        yield "payload and id of a passage on disk", f"{POINT_BYTES} bytes", "measured"
        yield "passage", f"{arguments.tokens} tokens, {arguments.text_bytes} bytes", "assumed"
        what = f"{arguments.gpu_tflops:g} TFLOP/s in bf16: 40 % of 790"
        yield "a card while encoding", what, "assumed, until `benchmarks/gpu.py` ran on it"
        yield (
            "reading, splitting, tokenizing, writing a passage",
            f"{arguments.feed_us:g} µs of a core",
            "measured, `benchmarks/feed.py`",
        )
        yield (
            "cores beside a card, in processes enough to use them",
            f"{arguments.cores_per_card}: {_fed(arguments):,.0f} passages/s",
            "chosen",
        )
        yield "cards; cores for the graph", f"{arguments.cards}; {arguments.index_cores}", "chosen"
        yield (
            "prices",
            f"${arguments.card_usd_per_h:g} a card-hour, ${arguments.core_usd_per_h:g} a "
            f"core-hour, ${arguments.memory_usd_per_gb_month:g} and "
            f"${arguments.disk_usd_per_gb_month:g} a GB-month of memory and disk",
            "assumed",
        )

    return _table(("what", "figure", "where it is from"), rows())


def _costs(arguments: argparse.Namespace) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        for model in MODELS:
            for n in SIZES:
                yield _cost(arguments, model, n)

    heads = (
        "passages",
        "model",
        "encode, 1 card",
        f"encode, {arguments.cards} cards",
        "graph",
        "disk of one generation",
        "disk while upgrading",
        "memory (in use: quantization)",
        "an upgrade",
        "a month",
    )
    return _table(heads, rows())


def _cost(arguments: argparse.Namespace, model: Model, n: int) -> Sequence[str]:
    of_card = arguments.gpu_tflops * 1e12 / model.flops(arguments.tokens)
    rate = min(of_card, _fed(arguments))
    one_h, all_h = n / rate / 3_600, n / rate / arguments.cards / 3_600
    index_h = n * INDEX_S_PER_PASSAGE * model.dim / 384 / arguments.index_cores / 3_600
    disk = n * (model.dim * 4 + LINK_BYTES + POINT_BYTES)
    kept = disk + n * arguments.text_bytes
    quantization, memory = _memory(arguments, model, n)
    upgrade = (
        one_h * arguments.card_usd_per_h
        + index_h * arguments.index_cores * arguments.core_usd_per_h
    )
    month = (
        memory / GB * arguments.memory_usd_per_gb_month
        + (kept + disk) / GB * arguments.disk_usd_per_gb_month  # the standby's as well
    )
    return (
        f"{n:,}",
        f"{model.name}, {model.dim}",
        _hours(one_h),
        _hours(all_h),
        _hours(index_h),
        _bytes(disk),
        _bytes(kept + 2 * disk),
        f"{_bytes(memory)} ({quantization})",
        _usd(upgrade),
        _usd(month),
    )


def _fed(arguments: argparse.Namespace) -> float:
    """Passages per second that the cores beside a card can bring to it."""
    return float(arguments.cores_per_card / arguments.feed_us * 1e6)


def _bytes_in_memory(model: Model, quantization: str) -> float:
    """Of one passage: the vectors that are searched first, and the graph."""
    of_value = {"none": 4.0, "int8": 1.0, "product": 1 / 4, "binary": 1 / 8}[quantization]
    return model.dim * of_value + LINK_BYTES


def _memory(arguments: argparse.Namespace, model: Model, n: int) -> tuple[str, float]:
    """The least quantization with which eight nodes hold live and standby."""
    for quantization in ("none", "int8", "product", "binary"):
        memory = 2 * n * _bytes_in_memory(model, quantization)
        if memory <= 8 * arguments.node_memory_gb * GB:
            break
    return quantization, memory


def _limits(arguments: argparse.Namespace) -> Iterator[str]:
    """Where each default has to change."""

    def rows() -> Iterator[Sequence[str]]:
        node = arguments.node_memory_gb * GB
        for model in MODELS:
            of_card = arguments.gpu_tflops * 1e12 / model.flops(arguments.tokens)
            rate = min(of_card, _fed(arguments))
            yield (
                f"{model.dim}",
                "`build.fanout = auto` on one card",
                f"{_round(rate * 8 * 3_600)}",
                "encoding takes more than a night (8 h): `ray`, or `processes` with more cards",
            )
            hour = 3_600 * 2 / INDEX_S_PER_PASSAGE / (model.dim / 384)
            yield (
                f"{model.dim}",
                "`store.kind = edge` on 2 cores",
                _round(hour * 2),
                "the graph takes more than 2 h: `qdrant`",
            )
            for before, after in (("none", "int8"), ("int8", "product"), ("product", "binary")):
                yield (
                    f"{model.dim}",
                    f"`store.quantization = {before}` on one node",
                    _round(node / 2 / _bytes_in_memory(model, before)),
                    f"live and standby fill {node / GB:,.0f} GB: `{after}` with "
                    "`store.on_disk_vectors`, or another shard",
                )

    return _table(("dims", "default", "up to, passages", "because, and then"), rows())


def _round(n: float) -> str:
    """Two digits: more would claim too much."""
    digits = len(f"{int(n)}")
    return f"{round(n, 2 - digits):,.0f}"


def _hours(hours: float) -> str:
    if hours < 0.1:
        return f"{hours * 3_600:.0f} s" if hours < 1 / 60 else f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def _bytes(n: float) -> str:
    return f"{n / 1e12:.1f} TB" if n >= 1e12 else f"{n / GB:.1f} GB"


def _usd(amount: float) -> str:
    return f"${amount:.2f}" if amount < 10 else f"${amount:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
