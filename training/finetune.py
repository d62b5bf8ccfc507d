"""Fine-tune a model version on pairs, prove it on judged queries, and register what came out.

`fine_tune` is the recipe and reads top to bottom; each step is a function below it or a module of
its own. Killed at any moment, the same call goes on from the last step or checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from training.encoded_texts import EncodedTexts
from training.encoder import Encoder
from training.evaluation import Evaluation, TextEncoder, evaluate_dims
from training.extras import require
from training.gate import Gate, advice, judge
from training.judgments import count_documents
from training.model_files import transformer_width
from training.model_tuning import Tuned, tune
from training.model_version import EncoderDtype, ModelVersion
from training.outcome import Measured, TrainingOutcome, TrainingTask
from training.pairs import Pair, pairs_hash
from training.precision import cpu_name
from training.preparation import OnProgress, overlap, prepare, read_training_pairs
from training.processes import is_main_process, meet, n_processes, wait_for_everyone
from training.registry import ModelRegistry
from training.report import DataFacts, describe_training, write_report
from training.stored_evaluations import evaluation_file, read_evaluations, write_evaluations
from training.training_columns import training_columns
from training.training_recipe import schedule
from training.training_run import Prepared, close_run, open_run

log = logging.getLogger(__name__)


def fine_tune(
    task: TrainingTask,
    *,
    registry: ModelRegistry,
    work: Path,
    fresh: bool = False,
    device: str = "auto",
    encoder_dtype: Literal["auto"] | EncoderDtype = "auto",
    cache_dir: Path | None = None,
    on_progress: OnProgress = lambda _stage, _done, _total, _text: None,
    on_note: Callable[[str], None] = log.warning,
) -> TrainingOutcome | None:
    """Train, measure and register the next version of task.name.

    work: where trainings under way are kept. fresh: begin again instead of going on. on_note is
    told what a user should know. None in all processes but the first when torchrun started several.

    Raises PairsInvalid, RecipeInvalid, QueriesOverlap, TrainingBusy, TrainingFailed,
    JudgmentsInvalid, and what encoding and registering raise.
    """
    recipe, base = task.recipe, task.base
    require("accelerate", "datasets", *(["matplotlib"] if task.evaluation is not None else []))
    is_first = is_main_process()
    if not is_first:  # one voice is enough
        on_progress, on_note = _ignore, _ignore
    meet(device)

    pairs, dropped = read_training_pairs(task)
    if dropped:
        on_note(overlap(dropped))
    sha256 = pairs_hash(pairs)

    with open_run(work, _identity(task, sha256), fresh=fresh) as run:
        # The base before anything else: a mistake in the evaluation shows now and not after hours,
        # and its vectors tell doubtful pairs and hard negatives.
        prepared: Prepared | None = None
        before: dict[int, Evaluation] = {}
        if is_first:
            prepared = Prepared.read(run)
            on_progress("load the base", None, None, str(base))
            encoder = Encoder(base, device=device, dtype=encoder_dtype, cache_dir=cache_dir)
            encoded = EncodedTexts(encoder)
            before = _evaluate_base(encoder, encoded, task, cache_dir or run, on_progress)
            if prepared is None:
                prepared = prepare(task, pairs, encoded, on_progress=on_progress, on_note=on_note)
                prepared.write(run)
            del encoder, encoded
        wait_for_everyone()
        prepared = prepared or Prepared.read(run)
        assert prepared is not None, "the first process prepares before the others go on"

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
                width=None if base.is_static else transformer_width(base.path),
                n_negatives=sum(name.startswith("negative") for name in columns),
                processes=n_processes(),
            ),
            work=run,
            dev=prepared.dev,
            guide=task.guide,
            device=device,
            cache_dir=cache_dir,
            on_step=lambda done, total, text: on_progress("train", done, total, text),
            on_note=on_note,
        )
        if not is_first:
            return None

        measured = None
        if before:
            candidate = _register(ModelRegistry(run / "candidate"), tuned, base, name="candidate")
            encoder = Encoder(candidate, device=device, dtype=encoder_dtype)
            after = _evaluate(encoder, task, list(before)[1:], "evaluate the new one", on_progress)
            measured = Measured(base=before, tuned=after)
            del encoder
        gate = judge(measured.differences if measured is not None else None, recipe.min_gain)

        on_progress("register", None, None, task.name)
        registered = _register(
            registry,
            tuned,
            base,
            name=task.name,
            metrics=measured.to_json() if measured is not None else {},
            lineage={
                "base": str(base),
                "base_from": base.lineage.get("base_from", base.base),
                "base_fingerprint": base.fingerprint,
                "pairs_sha256": sha256,
                "pairs": len(prepared.pairs),
                "code_version": _code_version(),
                "seed": recipe.seed,
                "settings": _settings(task, tuned),
                "command": task.command,
                "data": {**prepared.facts, "dropped_pairs": len(dropped)},
                "gate": gate.verdict,
                "gate_reason": gate.reason,
                "report": "report.html" if measured is not None else None,
            },
            document=_reporter(task, tuned, prepared, measured, gate, dropped, sha256),
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
        measured=measured,
        gate=gate,
        advice=_advice(task, measured, gate),
        dropped_queries=list(dict.fromkeys(pair.anchor for pair in dropped)),
        facts=registered.lineage["data"],
        report=report if report.exists() else None,
    )


def _ignore(*_: Any) -> None:
    pass


def _identity(task: TrainingTask, sha256: str) -> dict[str, Any]:
    """What makes it the same training, so that the same command goes on with it."""
    folders = {"evaluation": task.evaluation, "corpus": task.corpus}
    return {
        "name": task.name,
        "base": task.base.fingerprint,
        "guide": task.guide.fingerprint if task.guide is not None else None,
        "pairs_sha256": sha256,
        "recipe": task.recipe.to_json(),
        **{key: str(path.absolute()) if path else None for key, path in folders.items()},
        "split": task.split,
        "processes": n_processes(),
        "code_version": _code_version(),
    }


def _evaluate_base(
    encoder: Encoder,
    encoded: EncodedTexts,
    task: TrainingTask,
    cache_dir: Path,
    on_progress: OnProgress,
) -> dict[int, Evaluation]:
    """As it was measured before, on the same files, or measured now."""
    base = task.base
    dims = [dim for dim in task.recipe.dims(base.dim) if dim < base.dim]
    known = None
    if task.evaluation is not None:
        with contextlib.suppress(OSError):  # reading it says better what is wrong
            known = evaluation_file(
                cache_dir / "evaluations",
                base,
                task.evaluation,
                task.split,
                dims,
                device=encoder.device,
                dtype=encoder.dtype,
            )
    if known is not None and (found := read_evaluations(known)):
        return found
    before = _evaluate(encoded, task, dims, "evaluate the base", on_progress)
    if known is not None:
        write_evaluations(known, before)
    return before


def _evaluate(
    encoder: TextEncoder,
    task: TrainingTask,
    dims: Sequence[int],
    stage: str,
    on_progress: OnProgress,
) -> dict[int, Evaluation]:
    """By dimension, the full one first; empty when there is nothing to measure on."""
    folder = task.evaluation
    if folder is None:
        return {}
    total = count_documents(folder)
    on_progress(stage, 0, total, "")
    return evaluate_dims(
        encoder, folder, task.split, dims, lambda done: on_progress(stage, done, total, "")
    )


def _register(
    registry: ModelRegistry, tuned: Tuned, base: ModelVersion, *, name: str, **more: Any
) -> ModelVersion:
    """With the prompts, lengths and dimension that the base had."""
    return registry.register(
        tuned.folder,
        name=name,
        truncate_dim=base.truncate_dim,
        query_prompt=base.query_prompt,
        document_prompt=base.document_prompt,
        max_tokens=base.max_tokens,
        trust_remote_code=base.trust_remote_code,
        **more,
    )


# -- what is known about it -----------------------------------------------------------------------


def _reporter(
    task: TrainingTask,
    tuned: Tuned,
    prepared: Prepared,
    measured: Measured | None,
    gate: Gate,
    dropped: Sequence[Pair],
    sha256: str,
) -> Callable[[ModelVersion, Path], None] | None:
    """Writes the report of a version that was measured, once it has a name."""
    if measured is None or task.evaluation is None:
        return None
    folder = task.evaluation
    facts = DataFacts(
        pairs=len(prepared.pairs),
        dropped={"the evaluation asks them, too": len(dropped)} if dropped else {},
        leaked_queries=list(dict.fromkeys(pair.anchor for pair in dropped)),
        noise_share=prepared.facts.get("noise_share"),
        words=_words(prepared.pairs),
        pairs_sha256=sha256,
    )

    def write(version: ModelVersion, into: Path) -> None:
        report = describe_training(
            model=str(version),
            base=str(task.base),
            folder=folder,
            split=task.split,
            command=task.command,
            base_evaluations=measured.base,
            tuned_evaluations=measured.tuned,
            pairs=prepared.pairs,
            gate_passed=gate.passed,
            gate_reason=gate.reason,
            min_gain=task.recipe.min_gain,
            advice=_advice(task, measured, gate),
            loss_curve=tuned.trained.loss_curve,
            metric_curve=tuned.trained.metric_curve,
            facts=facts,
            settings=_settings(task, tuned),
            hardware=_hardware(tuned.device),
            seconds=tuned.seconds,
        )
        write_report(report, into)

    return write


def _advice(task: TrainingTask, measured: Measured | None, gate: Gate) -> tuple[str, ...]:
    found = measured.differences if measured is not None else None
    return advice(gate, found, str(task.pairs_file))


def _settings(task: TrainingTask, tuned: Tuned) -> dict[str, Any]:
    """The recipe with what was filled in."""
    return {
        **task.recipe.to_json(),
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
    texts = {
        "anchor": [pair.anchor for pair in pairs],
        "positive": [pair.positive for pair in pairs],
    }
    result = {}
    for name, values in texts.items():
        counts = sorted(len(text.split()) for text in values)
        result[name] = (counts[len(counts) // 2], counts[len(counts) * 95 // 100], counts[-1])
    return result


def _hardware(device: str) -> str:
    if device.startswith("cuda"):
        return f"{n_processes()} x {torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    name = cpu_name() or platform.machine()
    n_threads = torch.get_num_threads()
    threads = "1 thread" if n_threads == 1 else f"{n_threads} threads"
    return f"{threads} of {name}, torch {torch.__version__}"


def _code_version() -> str:
    try:
        return version("reindexer")
    except PackageNotFoundError:
        return "unknown"
