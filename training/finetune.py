"""Fine-tune a model version on pairs, prove it on judged queries, and register what came out.

Reads top to bottom: `fine_tune` is the recipe, and each step of it is a function below or a module
of its own. Killed at any moment, the same call goes on from the last step or checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from training.audit import CrossScores, estimate_noise
from training.dev_set import make_dev_set
from training.device import resolve_device
from training.encoded_texts import EncodedTexts
from training.encoder import Encoder
from training.errors import PairsInvalid, QueriesOverlap
from training.evaluation import Evaluation, differences, evaluate_dims
from training.gate import Gate, advice, judge
from training.judgments import read_documents, read_judgments
from training.metrics import PRIMARY_METRIC, Difference
from training.model_tuning import Tuned, tune
from training.model_version import ModelVersion
from training.negatives import candidates_from, mine
from training.pairs import Pair, pairs_hash, read_pairs
from training.precision import cpu_name
from training.processes import is_main_process, n_processes, wait_for_everyone
from training.registry import ModelRegistry
from training.report import DataFacts, describe_training, write_report
from training.split import drop_evaluation_queries
from training.training_columns import training_columns
from training.training_recipe import TrainingRecipe, schedule
from training.training_run import Prepared, close_run, open_run

log = logging.getLogger(__name__)

NAMED_QUERIES = 5  # of those dropped, in a message

OnProgress = Callable[[str, int | None, int | None, str], None]  # stage, done, total, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """Base and tuned on the same judged queries, by dimension, the full one first."""

    base: Mapping[int, Evaluation]
    tuned: Mapping[int, Evaluation]
    differences: Mapping[str, Difference]  # at the full dimension

    def to_json(self) -> dict[str, Any]:
        """Means at the full dimension, and the primary metric at the others."""
        return {
            "base": next(iter(self.base.values())).scores.means(),
            "tuned": next(iter(self.tuned.values())).scores.means(),
            "difference": {name: value.to_json() for name, value in self.differences.items()},
            "dims": {
                str(dim): {
                    "base": self.base[dim].scores.means()[PRIMARY_METRIC],
                    "tuned": self.tuned[dim].scores.means()[PRIMARY_METRIC],
                }
                for dim in self.tuned
                if dim in self.base
            },
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOutcome:
    """What a training came to."""

    version: ModelVersion
    base: ModelVersion
    pairs: int  # that were trained on
    epochs: float
    steps: int
    stopped_early: bool
    seconds: float  # of training, without mining and evaluating
    metrics: Mapping[str, Any]  # as Measured.to_json; empty when nothing was measured
    gate: Gate
    advice: Sequence[str]
    dropped_queries: Sequence[str]
    facts: Mapping[str, Any]
    report: Path | None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": str(self.version),
            "base": str(self.base),
            "pairs": self.pairs,
            "epochs": self.epochs,
            "steps": self.steps,
            "stopped_early": self.stopped_early,
            "seconds": round(self.seconds, 3),
            "metrics": dict(self.metrics),
            "registered": True,
            "gate": self.gate.verdict,
            "gate_reason": self.gate.reason,
            "advice": list(self.advice),
            "dropped_queries": list(self.dropped_queries),
            "facts": dict(self.facts),
            "report": str(self.report) if self.report is not None else None,
            "fingerprint": self.version.fingerprint,
        }


def fine_tune(
    recipe: TrainingRecipe,
    pairs_file: Path | str,
    *,
    base: ModelVersion,
    name: str,
    registry: ModelRegistry,
    work: Path,
    evaluation: Path | None = None,
    split: str = "test",
    corpus: Path | None = None,
    scores_of: CrossScores | None = None,
    strict: bool = False,
    fresh: bool = False,
    command: str = "",
    device: str = "auto",
    encoder_dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda _stage, _done, _total, _text: None,
    on_note: Callable[[str], None] = log.warning,
) -> TrainingOutcome | None:
    """Train `base` on the pairs and register the result as the next version of `name`.

    evaluation, split: a BEIR folder that base and tuned are measured on; without it the version is
    registered as one that nobody measured. corpus: a BEIR folder to mine negatives from, the
    evaluation's unless given. strict: refuse pairs that ask what the evaluation asks, instead of
    dropping them. work: where runs are kept until they are done. fresh: begin again instead of
    going on. scores_of: judges mined negatives in place of the base. command: what repeats this,
    for the report. on_note is told what a user should know.

    None in all processes but the first, when torchrun started several.

    Raises PairsInvalid, RecipeInvalid, QueriesOverlap, TrainingBusy, TrainingFailed,
    JudgmentsInvalid, and what encoding and registering raise.
    """
    wait_for_everyone(cpu=resolve_device(device).type == "cpu")
    guide = registry.resolve(recipe.guide) if recipe.guide is not None else None

    # 1. The pairs, without what the evaluation asks.
    mines = recipe.negatives != "none"
    pairs = read_pairs(pairs_file, loss="mnrl" if mines else recipe.loss)
    sha256 = pairs_hash(pairs)
    pairs, dropped = _without_evaluation_queries(pairs, evaluation, split, strict)
    dropped_queries = list(dict.fromkeys(pair.anchor for pair in dropped))
    if dropped and is_main_process():
        on_note(_overlap(dropped, dropped_queries))

    settings = {
        "base": base.fingerprint,
        "pairs_sha256": sha256,
        "recipe": recipe.to_json(),
        "guide": guide.fingerprint if guide is not None else None,
        "evaluation": str(evaluation.absolute()) if evaluation is not None else None,
        "split": split,
        "corpus": str(corpus.absolute()) if corpus is not None else None,
        "processes": n_processes(),
    }
    with open_run(work, settings, fresh=fresh) as run:
        prepared = Prepared.read(run) if is_main_process() else None
        measured_base: dict[int, Evaluation] = {}
        full_dim = base.dim
        if is_main_process():
            # 2. The base: what it scores, which pairs it doubts, which texts it takes for answers.
            on_progress("load the base", None, None, str(base))
            encoder = Encoder(base, device=device, dtype=encoder_dtype, cache_dir=cache_dir)
            encoded = EncodedTexts(encoder)
            dims = tuple(dim for dim in recipe.dims(full_dim) if dim < base.dim)
            if evaluation is not None:
                measured_base = _evaluate(encoded, evaluation, split, dims, "base", on_progress)
            if prepared is None:
                prepared = _prepare(
                    pairs, recipe, encoded, pairs_file=pairs_file,
                    evaluation=evaluation, split=split, corpus=corpus or evaluation,
                    scores_of=scores_of, on_progress=on_progress, on_note=on_note,
                )  # fmt: skip
                prepared.write(run)
            del encoder, encoded
        wait_for_everyone()
        prepared = prepared or Prepared.read(run)
        assert prepared is not None, "the first process prepares before the others go on"

        # 3. Training.
        columns = training_columns(
            prepared.pairs,
            recipe.loss,
            max_negatives=recipe.negatives_per_anchor,
            seed=recipe.seed,
        )
        tuned = tune(
            base,
            columns,
            recipe=recipe,
            schedule=schedule(
                recipe,
                len(columns["anchor"]),
                is_static=base.pooling == "static",
                processes=n_processes(),
            ),
            work=run,
            dev=prepared.dev,
            guide=guide,
            device=device,
            cache_dir=cache_dir,
            on_step=lambda done, total, text: on_progress("train", done, total, text),
            on_note=on_note,
        )
        if not is_main_process():
            return None

        # 4. Is it better?
        measured = None
        if evaluation is not None:
            candidate = _candidate(run, tuned.folder, base)
            encoder = Encoder(candidate, device=device, dtype=encoder_dtype)
            measured_tuned = _evaluate(
                encoder, evaluation, split, tuple(measured_base)[1:], "tuned", on_progress
            )
            del encoder
            measured = Measured(
                base=measured_base,
                tuned=measured_tuned,
                differences=differences(
                    next(iter(measured_tuned.values())).scores,
                    next(iter(measured_base.values())).scores,
                ),
            )
        gate = judge(measured.differences if measured is not None else None, recipe.min_gain)
        hints = advice(
            gate, measured.differences if measured is not None else None, str(pairs_file)
        )

        # 5. A version of its own, with everything that is known about it.
        on_progress("register", None, None, name)
        facts = {**prepared.facts, "dropped_queries": len(dropped_queries)}
        lineage = {
            "base": str(base),
            "base_fingerprint": base.fingerprint,
            "pairs_sha256": sha256,
            "pairs": len(prepared.pairs),
            "code_version": _code_version(),
            "seed": recipe.seed,
            "settings": _settings(recipe, tuned),
            "command": command,
            "data": facts,
            "gate": gate.verdict,
            "gate_reason": gate.reason,
            "report": "report.html" if measured is not None else None,
        }

        def document(version: ModelVersion, folder: Path) -> None:
            if measured is None or evaluation is None:
                return
            described = describe_training(
                model=str(version),
                base=str(base),
                folder=evaluation,
                split=split,
                command=command,
                base_evaluations=measured.base,
                tuned_evaluations=measured.tuned,
                pairs=prepared.pairs,
                gate_passed=gate.passed,
                gate_reason=gate.reason,
                min_gain=recipe.min_gain,
                advice=hints,
                loss_curve=tuned.trained.loss_curve,
                metric_curve=tuned.trained.metric_curve,
                facts=DataFacts(
                    pairs=len(prepared.pairs),
                    dropped={"asked by the evaluation": len(dropped)} if dropped else {},
                    leaked_queries=dropped_queries,
                    noise_share=prepared.facts.get("noise_share"),
                    words=_words(prepared.pairs),
                    pairs_sha256=sha256,
                ),
                settings=_settings(recipe, tuned),
                hardware=_hardware(tuned.device),
                seconds=tuned.seconds,
            )
            write_report(described, folder)

        registered = registry.register(
            tuned.folder,
            name=name,
            truncate_dim=base.truncate_dim,
            query_prompt=base.query_prompt,
            document_prompt=base.document_prompt,
            max_tokens=base.max_tokens,
            trust_remote_code=base.trust_remote_code,
            metrics=measured.to_json() if measured is not None else {},
            lineage=lineage,
            document=document,
        )
        close_run(run)
    report = registered.path / "report.html"
    return TrainingOutcome(
        version=registered,
        base=base,
        pairs=len(prepared.pairs),
        epochs=tuned.trained.epochs,
        steps=tuned.trained.steps,
        stopped_early=tuned.trained.stopped_early,
        seconds=tuned.seconds,
        metrics=measured.to_json() if measured is not None else {},
        gate=gate,
        advice=hints,
        dropped_queries=dropped_queries,
        facts=facts,
        report=report if report.exists() else None,
    )


# -- 1. the pairs ---------------------------------------------------------------------------------


def _without_evaluation_queries(
    pairs: Sequence[Pair], evaluation: Path | None, split: str, strict: bool
) -> tuple[list[Pair], list[Pair]]:
    """(kept, dropped)"""
    if evaluation is None:
        return list(pairs), []
    kept, dropped = drop_evaluation_queries(pairs, read_judgments(evaluation, split).queries)
    if dropped and strict:
        queries = list(dict.fromkeys(pair.anchor for pair in dropped))
        raise QueriesOverlap(
            f"{_overlap(dropped, queries)}. Leave out --strict to drop them and go on"
        )
    if not kept:
        raise PairsInvalid(
            f"every one of the {len(dropped):,} pairs asks what the {split} split of {evaluation} "
            "asks; train on other queries (`reindexer pairs build --split train`)"
        )
    return kept, dropped


def _overlap(dropped: Sequence[Pair], queries: Sequence[str]) -> str:
    named = ", ".join(repr(query) for query in queries[:NAMED_QUERIES])
    more = f" and {len(queries) - NAMED_QUERIES:,} more" if len(queries) > NAMED_QUERIES else ""
    return (
        f"{len(dropped):,} pairs ask what the evaluation asks and are not trained on: {named}{more}"
    )


# -- 2. the base ----------------------------------------------------------------------------------


def _prepare(
    pairs: list[Pair],
    recipe: TrainingRecipe,
    encoded: EncodedTexts,
    *,
    pairs_file: Path | str,
    evaluation: Path | None,
    split: str,
    corpus: Path | None,
    scores_of: CrossScores | None,
    on_progress: OnProgress,
    on_note: Callable[[str], None],
) -> Prepared:
    facts: dict[str, Any] = {}
    if recipe.loss != "cosent":
        on_progress("estimate noise", None, None, "")
        with contextlib.suppress(PairsInvalid):  # too few of them to tell
            noise = estimate_noise(encoded, pairs, seed=recipe.seed)
            facts["noise_share"] = noise.share
            if noise.is_high:
                on_note(
                    f"{noise} look mismatched to the base; look at a sample before you trust the "
                    f"result: `reindexer pairs audit {pairs_file} --base REF`"
                )
    if recipe.negatives != "none":
        documents = (
            ((document.doc_id, document.full_text) for document in read_documents(corpus))
            if corpus is not None
            else ()
        )
        mined = mine(
            pairs,
            candidates_from(pairs, documents),
            encoded,
            source=recipe.negatives,
            per_anchor=recipe.negatives_per_anchor,
            scores_of=scores_of,
            on_progress=lambda done, total: on_progress("mine negatives", done, total, ""),
        )
        pairs = mined.pairs
        facts |= {
            "negatives": mined.found,
            "negatives_of_the_same_document": mined.same_document,
            "pairs_without_negatives": mined.without,
        }
        if recipe.loss == "triplet" and mined.without:
            pairs = [pair for pair in pairs if pair.negatives]
            on_note(f"{mined.without:,} pairs are left out: no negative was found for them")
        if not pairs:
            raise PairsInvalid(
                "no negative was found for any pair; take --negatives both, or --loss mnrl, which "
                "needs none"
            )
    dev, left = make_dev_set(pairs, folder=evaluation, test_split=split, seed=recipe.seed)
    facts["watched_with"] = dev.origin if dev is not None else "nothing: too few queries"
    facts["held_out_pairs"] = len(pairs) - len(left)
    return Prepared(pairs=left, dev=dev, facts=facts)


# -- 4. measuring ---------------------------------------------------------------------------------


def _evaluate(
    encoder: Encoder | EncodedTexts,
    folder: Path,
    split: str,
    dims: Sequence[int],
    who: str,
    on_progress: OnProgress,
) -> dict[int, Evaluation]:
    total = sum(1 for _ in read_documents(folder))
    stage = f"evaluate the {who}" if who == "base" else f"evaluate the {who} model"
    on_progress(stage, 0, total, "")
    return evaluate_dims(
        encoder, folder, split, dims, lambda done: on_progress(stage, done, total, "documents")
    )


def _candidate(run: Path, folder: Path, base: ModelVersion) -> ModelVersion:
    """The tuned folder as a version, before it has a name."""
    return ModelRegistry(run / "candidate").register(
        folder,
        name="candidate",
        truncate_dim=base.truncate_dim,
        query_prompt=base.query_prompt,
        document_prompt=base.document_prompt,
        max_tokens=base.max_tokens,
        trust_remote_code=base.trust_remote_code,
    )


# -- 5. what is known about it --------------------------------------------------------------------


def _settings(recipe: TrainingRecipe, tuned: Tuned) -> dict[str, Any]:
    """The recipe with what was filled in, as lineage and report show it."""
    return {
        **recipe.to_json(),
        **tuned.schedule.to_json(),
        "matryoshka": list(tuned.dims) if len(tuned.dims) > 1 else None,
        "dtype": tuned.dtype,
        "device": tuned.device,
        "best_step": tuned.trained.best_step,
        "processes": n_processes(),
        "for_want_of_memory": list(tuned.memory_changes),
    }


def _words(pairs: Sequence[Pair]) -> dict[str, tuple[int, int, int]]:
    """Median, 95th percentile and maximum of the words of queries and positives."""
    result = {}
    for name, texts in (
        ("anchor", [pair.anchor for pair in pairs]),
        ("positive", [pair.positive for pair in pairs]),
    ):
        counts = sorted(len(text.split()) for text in texts)
        result[name] = (
            counts[len(counts) // 2],
            counts[min(len(counts) - 1, len(counts) * 95 // 100)],
            counts[-1],
        )
    return result


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return f"{n_processes()} x {torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    cores = torch.get_num_threads()
    return f"{cores} threads of {cpu_name() or platform.machine()}, torch {torch.__version__}"


def _code_version() -> str:
    try:
        return version("reindexer")
    except PackageNotFoundError:
        return "unknown"
