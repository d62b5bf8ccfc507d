"""One run of sentence-transformers' trainer: watched, checkpointed, stopped at the right time."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.sampler import BatchSamplers
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.training_args import (
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.util import cos_sim
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.dev_scores import DevScores
from training.dev_set import DevSet
from training.kill_points import reached
from training.metrics import PRIMARY_METRIC, score
from training.precision import DtypeName
from training.processes import first_says, wait_for_everyone
from training.step_precision import autocast, torch_dtype
from training.training_recipe import Schedule, TrainingRecipe

log = logging.getLogger(__name__)

STEPS_PER_EVALUATION = 40  # about; an epoch ends with one
MAX_EVALUATIONS = 20
SECONDS_PER_CHECKPOINT = 120.0  # at most so much work is lost
CHECKPOINTS_KEPT = 3
COMPLETE = "complete"  # a file of this name is written last into a checkpoint
WEIGHTS = "weights.safetensors"
METRIC = "dev_cosine_ndcg@10"
KEPT, ENOUGH = "dev_kept_step", "dev_is_enough"  # said with the metric, so that every process hears

OnStep = Callable[[int, int, str], None]  # steps done, of how many, in words


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What a run came to; the model holds the weights that were kept."""

    steps: int
    best_step: int  # whose weights are kept
    epochs: float
    stopped_early: bool
    loss_curve: Sequence[tuple[int, float]]  # step, mean training loss since the last one
    metric_curve: Sequence[tuple[float, float]]  # epoch, nDCG@10 on the dev set; 0 is the base

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_trainer(
    model: SentenceTransformer,
    loss: torch.nn.Module,
    columns: Mapping[str, Sequence[Any]],
    *,
    recipe: TrainingRecipe,
    schedule: Schedule,
    dtype: DtypeName,
    device: torch.device,
    dev: DevSet | None,
    prompts: Mapping[str, str],
    folder: Path,
    accumulate: int = 1,
    on_step: OnStep = lambda _done, _total, _text: None,
) -> Trained:
    """Train the model in place, from the last complete checkpoint in `folder` if there is one.

    columns: texts (and scores) of all pairs by column, anchor first. prompts: by column.
    accumulate: so many batches, each that much smaller, make one step.
    """
    from datasets import Dataset

    per_epoch = max(1, round(schedule.steps / schedule.epochs))
    parts = max(1, round(per_epoch / STEPS_PER_EVALUATION))
    every = max(math.ceil(per_epoch / parts), math.ceil(schedule.steps / MAX_EVALUATIONS))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps,
        per_device_train_batch_size=max(1, schedule.batch_size // accumulate),
        gradient_accumulation_steps=accumulate,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=schedule.warmup_steps,
        weight_decay=recipe.weight_decay,
        bf16=dtype == "bf16",
        fp16=dtype == "fp16",
        use_cpu=device.type == "cpu",
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts={column: prompt for column, prompt in prompts.items() if prompt} or None,
        seed=recipe.seed,
        data_seed=recipe.seed,
        eval_strategy="steps" if dev is not None else "no",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=CHECKPOINTS_KEPT,
        load_best_model_at_end=dev is not None,
        metric_for_best_model=METRIC if dev is not None else None,
        greater_is_better=True if dev is not None else None,
        logging_steps=max(1, schedule.steps // 200),
        logging_first_step=True,
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=0,
        dataloader_pin_memory=device.type == "cuda",
    )
    if device.type == "cuda" and arguments.n_gpu > 1:
        log.warning("%d GPUs are here and one is used; for all of them: torchrun "
                    "--nproc-per-node %d -m reindexer train ...",
                    arguments.n_gpu, arguments.n_gpu)  # fmt: skip
        arguments._n_gpu = 1
    checkpoint = last_checkpoint(folder)
    scores = DevScores(
        folder / "dev_scores.json", until=_step_of(checkpoint) if checkpoint is not None else None
    )
    evaluator = None
    if dev is not None:
        evaluator = _DevEvaluator(dev, prompts, device, dtype, scores, recipe.patience)
    watch = _Watch(schedule, evaluates=dev is not None, on_step=on_step)
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(dict(columns)),
        loss=loss,
        evaluator=evaluator,
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    if evaluator is not None and checkpoint is None and trainer.is_world_process_zero():
        on_step(0, schedule.steps, "looking at the base")
        evaluator(model)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    return _trained(trainer.state, schedule, scores.mean(0))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; half-written ones are left by a kill."""
    found = [
        path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if (path / COMPLETE).exists()
    ]
    return max(found, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _trained(state: TrainerState, schedule: Schedule, base: float | None) -> Trained:
    """base: its nDCG@10 on the dev set."""
    measured = [
        (float(entry["epoch"]), float(entry[f"eval_{METRIC}"]))
        for entry in state.log_history
        if f"eval_{METRIC}" in entry
    ]
    if base is not None:
        measured.insert(0, (0.0, base))
    return Trained(
        steps=state.global_step,
        best_step=state.best_global_step or state.global_step,
        epochs=round(float(state.epoch or 0.0), 3),
        stopped_early=state.global_step < schedule.steps,
        loss_curve=[
            (int(entry["step"]), float(entry["loss"]))
            for entry in state.log_history
            if "loss" in entry
        ],
        metric_curve=measured,
    )


class _Trainer(SentenceTransformerTrainer):
    """Checkpoints hold what is trained and nothing else: no model card (which would ask the hub
    about the base), no frozen weights under an adapter."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        del default_args_dict

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        assert output_dir is not None
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        frozen = {name for name, item in self.model.named_parameters() if not item.requires_grad}
        weights = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in self.model.state_dict().items()
            if name not in frozen
        }
        save_file(weights, Path(output_dir) / WEIGHTS)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        del model
        weights = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        unexpected = self.model.load_state_dict(weights, strict=False).unexpected_keys
        if unexpected:
            raise RuntimeError(f"{resume_from_checkpoint} is of another model: {unexpected[:3]}")

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Of the evaluation just made, which is saved next."""
        del trial
        self.state.best_metric = metrics[f"eval_{METRIC}"]
        kept = int(metrics[f"eval_{KEPT}"])
        self.state.best_global_step = kept
        return kept == int(self.state.global_step)

    def _load_best_model(self) -> None:
        assert self.args.output_dir is not None
        best = Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        self._load_from_checkpoint(str(best))


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Progress, checkpoints by the clock, the mark that one is complete, and the early end."""

    def __init__(self, schedule: Schedule, *, evaluates: bool, on_step: OnStep) -> None:
        self._total = schedule.steps
        self._evaluates = evaluates
        self._on_step = on_step
        self._loss: float | None = None
        self._metric: float | None = None
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        del args
        self._on_step(state.global_step, self._total, self._text())
        if first_says(time.monotonic() - self._saved_at >= SECONDS_PER_CHECKPOINT):
            control.should_save = True
        if state.global_step >= self._total:
            control.should_evaluate = self._evaluates
            control.should_save = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        del args, control
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])
            self._on_step(state.global_step, self._total, self._text())

    def on_evaluate(
        self, args: Any, state: Any, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> None:
        del args
        self._metric = float(metrics[f"eval_{METRIC}"])
        self._on_step(state.global_step, self._total, self._text())
        if metrics[f"eval_{ENOUGH}"]:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        del control
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        wait_for_everyone()  # each writes a part of it
        if state.is_world_process_zero:
            reached("training.checkpoint")
            (folder / COMPLETE).touch()
        self._saved_at = time.monotonic()

    def _text(self) -> str:
        parts = [f"loss {self._loss:.3f}"] if self._loss is not None else []
        parts += [f"nDCG@10 {self._metric:.3f} on dev"] if self._metric is not None else []
        return ", ".join(parts)


class _DevEvaluator(InformationRetrievalEvaluator):
    """Ranks the dev set in the numbers that training computes in; cosines are fp32. Of several
    processes one does."""

    def __init__(
        self,
        dev: DevSet,
        prompts: Mapping[str, str],
        device: torch.device,
        dtype: DtypeName,
        scores: DevScores,
        patience: int,
    ) -> None:
        super().__init__(
            queries=dict(dev.queries),
            corpus=dict(dev.corpus),
            relevant_docs={query_id: set(ids) for query_id, ids in dev.relevant.items()},
            mrr_at_k=[10],
            ndcg_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[10],
            map_at_k=[100],
            score_functions={"cosine": cos_sim},
            name="dev",
            write_csv=False,
            query_prompt=prompts.get("anchor") or None,
            corpus_prompt=prompts.get("positive") or None,
        )
        self._device, self._dtype = device, torch_dtype(dtype)
        self._qrels = {
            query_id: dict.fromkeys(doc_ids, 1) for query_id, doc_ids in dev.relevant.items()
        }
        self._scores, self._patience = scores, patience
        self._step = 0

    def __call__(
        self,
        model: Any,
        output_path: str | None = None,
        epoch: int = -1,
        steps: int = 0,
        **options: Any,
    ) -> dict[str, float]:
        """steps: done so far; 0 is the base."""
        self._step = steps
        with autocast(self._device, self._dtype):
            found: dict[str, float] = super().__call__(model, output_path, epoch, steps, **options)
        kept = self._scores.kept_step()
        found[KEPT] = float(steps if kept is None else kept)
        found[ENOUGH] = float(self._scores.is_enough(self._patience))
        return found

    def compute_metrics(self, queries_result_list: list[Any]) -> Any:
        run = {
            query_id: {hit["corpus_id"]: hit["score"] for hit in hits}
            for query_id, hits in zip(self.queries_ids, queries_result_list, strict=True)
        }
        self._scores.add(self._step, score(run, self._qrels).per_query[PRIMARY_METRIC])
        return super().compute_metrics(queries_result_list)

    def embed_inputs(self, *args: Any, **options: Any) -> Any:
        rows: Any = super().embed_inputs(*args, **options)  # a tensor, whatever its annotation says
        return rows.float()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Training libraries report to their developers: bars, hints, figures of their own. Errors are
    raised, and what a user should know we say ourselves."""
    import datasets
    from transformers.utils import logging as transformers_logging

    names = ("transformers", "sentence_transformers", "datasets", "accelerate", "peft", "torch")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    shown = transformers_logging.is_progress_bar_enabled()
    bars = not datasets.are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
        if shown:
            transformers_logging.enable_progress_bar()
