"""How a version is trained: every choice a user can make, and the defaults that need none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from training.errors import RecipeInvalid

LossName = Literal["mnrl", "cached-mnrl", "triplet", "cosent", "gist"]
NegativeSource = Literal["none", "same-document", "dense", "bm25", "both"]

LOSSES: tuple[str, ...] = get_args(LossName)
NEGATIVE_SOURCES: tuple[str, ...] = get_args(NegativeSource)

MATRYOSHKA_LADDER = (1024, 768, 512, 384, 256, 128, 64)
SHORTEST_DIM = 32

# How often a transformer goes over its pairs, as long as that makes no more than so many steps;
# more pairs than these are gone over once. Measured: docs/results.md.
EPOCHS = ((4.0, 75), (3.0, 160), (2.0, 500))
# The learning rate at a width of 768; narrower transformers take larger steps in proportion, up
# to the highest that was measured. Measured at 384: docs/results.md.
LEARNING_RATE, AT_WIDTH, MAX_LEARNING_RATE = 5e-5, 768, 1e-4
STATIC_STEPS = 75  # of a table of token vectors, in as many epochs as that takes
MAX_STATIC_EPOCHS = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRecipe:
    """What decides the outcome besides the base and the pairs. None leaves it to the defaults."""

    loss: LossName = "mnrl"
    guide: str | None = None  # the model version that gist takes advice from
    matryoshka: Sequence[int] | Literal["auto"] | None = None  # auto: halves, from the full length
    epochs: float | None = None
    batch_size: int | None = None  # pairs; also how many texts each anchor is told apart from
    mini_batch_size: int = 32  # pairs that the cached losses hold in memory at once
    learning_rate: float | None = None
    warmup_share: float = 0.1  # of all steps, before the cosine schedule falls
    weight_decay: float = 0.01
    max_tokens: int | None = None  # of one text while training; the version reads what its base did
    negatives: NegativeSource = "none"
    negatives_per_anchor: int = 1
    lora: bool = False
    gradient_checkpointing: bool = False
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patience: int = 3  # evaluations clearly worse than the best, until training stops
    min_gain: float = 0.02  # nDCG@10 over the base
    seed: int = 0

    def __post_init__(self) -> None:
        _expect(self.loss in LOSSES, "loss", self.loss, ", ".join(LOSSES))
        _expect(
            self.negatives in NEGATIVE_SOURCES,
            "negatives", self.negatives, ", ".join(NEGATIVE_SOURCES),
        )  # fmt: skip
        _expect(self.epochs is None or 0 < self.epochs <= 1_000, "epochs", self.epochs, "above 0")
        _expect(self.batch_size is None or self.batch_size >= 2, "batch size", self.batch_size,
                "2 or more, since pairs are told apart from the others of their batch")  # fmt: skip
        _expect(self.mini_batch_size >= 1, "mini-batch size", self.mini_batch_size, "1 or more")
        _expect(
            self.learning_rate is None
            or (math.isfinite(self.learning_rate) and self.learning_rate > 0),
            "learning rate", self.learning_rate, "above 0, such as 5e-5",
        )  # fmt: skip
        _expect(0 <= self.warmup_share < 1, "warm-up share", self.warmup_share, "0 to 1")
        _expect(self.negatives_per_anchor >= 1, "negatives per anchor", self.negatives_per_anchor,
                "1 or more; to have none say --negatives none")  # fmt: skip
        _expect(self.max_tokens is None or self.max_tokens >= 8, "max tokens", self.max_tokens,
                "8 or more")  # fmt: skip
        if self.loss == "gist" and self.guide is None:
            raise RecipeInvalid(
                "the gist loss needs a second model to ask; name a registered version with --guide"
            )
        if self.guide is not None and self.loss != "gist":
            raise RecipeInvalid(f"--guide is for --loss gist; {self.loss} does not ask a model")
        if self.loss == "cosent" and self.negatives != "none":
            raise RecipeInvalid(
                "the cosent loss learns from scored pairs, not negatives; leave --negatives out"
            )

    def to_json(self) -> dict[str, Any]:
        """Every setting, as lineage holds it."""
        value = asdict(self)
        if isinstance(self.matryoshka, Sequence) and not isinstance(self.matryoshka, str):
            value["matryoshka"] = list(self.matryoshka)
        return value

    def dims(self, full_dim: int, truncate_dim: int | None = None) -> tuple[int, ...]:
        """The lengths that are trained, full first; the full one alone without Matryoshka.

        truncate_dim: what the base keeps of its rows; then that length is trained as well.
        Raises RecipeInvalid.
        """
        if self.matryoshka is None:
            wanted: set[int] = set() if truncate_dim is None else {truncate_dim}
        elif self.matryoshka == "auto":
            wanted = {dim for dim in MATRYOSHKA_LADDER if dim < full_dim} or {
                full_dim // part for part in (2, 4) if full_dim // part >= 2
            }
        else:
            wanted = set(self.matryoshka)
            wrong = sorted(dim for dim in wanted if not 0 < dim <= full_dim)
            if wrong:
                raise RecipeInvalid(
                    f"--matryoshka names {wrong[0]}; the base makes rows of {full_dim} dimensions, "
                    f"so name dimensions from 1 to {full_dim}, or `auto`"
                )
        return (full_dim, *sorted(wanted - {full_dim}, reverse=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The numbers that a recipe comes to for so many pairs and such a model."""

    epochs: float
    batch_size: int
    learning_rate: float
    steps: int
    warmup_steps: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def schedule(
    recipe: TrainingRecipe,
    n_pairs: int,
    *,
    width: int | None,
    n_negatives: int = 0,
    processes: int = 1,
) -> Schedule:
    """Fill in what the recipe leaves open.

    width: of the transformer's hidden states; None for a static model. n_negatives: of each pair; a
    step computes them too and tells more apart, so fewer are made.

    Static models compute almost nothing a step and only the tokens of a batch learn from it, so
    they take large batches, large steps and more epochs; adapters (LoRA) take larger steps than
    full weights.
    """
    is_static = width is None
    batch_size = recipe.batch_size or (min(1_024, max(32, n_pairs // 8)) if is_static else 32)
    batch_size = max(2, min(batch_size, n_pairs))
    learning_rate = recipe.learning_rate or _learning_rate(width, lora=recipe.lora)
    batches = n_pairs / (batch_size * processes)  # several processes leave the odd one out
    per_epoch = max(1, math.ceil(batches) if processes == 1 else math.floor(batches))
    epochs = recipe.epochs
    if epochs is None:
        if is_static:
            wanted = STATIC_STEPS * 2 / (2 + n_negatives)
            epochs = float(min(max(round(wanted / per_epoch), 1), MAX_STATIC_EPOCHS))
        else:
            worth = per_epoch * (1 + 1.5 * n_negatives)
            epochs = next((times for times, most in EPOCHS if times * worth <= most), 1.0)
    steps = max(1, math.ceil(per_epoch * epochs))
    return Schedule(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        steps=steps,
        warmup_steps=round(recipe.warmup_share * steps),
    )


def _learning_rate(width: int | None, *, lora: bool) -> float:
    if width is None:
        return 5e-3
    return 3e-4 if lora else min(LEARNING_RATE * AT_WIDTH / width, MAX_LEARNING_RATE)


def _expect(holds: bool, name: str, found: object, expected: str) -> None:
    if not holds:
        raise RecipeInvalid(f"{name} is {found}; expected {expected}")
