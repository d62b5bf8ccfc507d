"""From a base version and columns of texts to a folder with tuned weights, in what memory there is.

Nothing here knows where pairs come from or what becomes of the folder.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import batch_to_device
from transformers import set_seed

from training.cores import use_visible_cores
from training.dev_set import DevSet
from training.device import is_out_of_memory, resolve_device
from training.errors import RecipeInvalid, TrainingFailed, is_disk_full
from training.extras import require
from training.less_padding import ForwardByLength
from training.losses import can_be_cached, make_loss
from training.memory_plan import MemoryPlan
from training.model_loading import load_model
from training.model_version import ModelVersion
from training.precision import DtypeName
from training.processes import is_main_process, n_processes, wait_for_everyone
from training.step_precision import choose_step_dtype
from training.trainer import OnStep, Trained, quiet_libraries, run_trainer
from training.training_recipe import Schedule, TrainingRecipe
from training.whole_file import write_whole

log = logging.getLogger(__name__)

PROBE_PAIRS = 8  # of the batch that chooses the number format
LORA_RANK = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """A model that was trained, saved as a sentence-transformers folder."""

    folder: Path
    trained: Trained
    schedule: Schedule
    dims: tuple[int, ...]
    dtype: DtypeName
    device: str
    seconds: float  # of training, all starts together
    memory_changes: tuple[str, ...]  # what was done for want of memory


def tune(
    base: ModelVersion,
    columns: Mapping[str, Sequence[Any]],
    *,
    recipe: TrainingRecipe,
    schedule: Schedule,
    work: Path,
    dev: DevSet | None,
    guide: ModelVersion | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
    on_step: OnStep = lambda _done, _total, _text: None,
    on_note: Callable[[str], None] = log.warning,
) -> Tuned:
    """Train the base on the columns; everything is kept under `work`, from where the same call goes
    on after a kill.

    Out of memory is not the end: the batch is cut into smaller pieces and training goes on from the
    last checkpoint. on_note is told.

    Raises RecipeInvalid, TrainingFailed when even single pairs do not fit.
    """
    require("accelerate", "datasets", *(["peft"] if recipe.lora else []))
    done = work / "tuned.json"
    if done.exists():
        known = _read(work)
        wait_for_everyone()  # the first goes on to clear this folder
        return known
    is_static = base.is_static
    cached = can_be_cached(recipe.loss, is_static=is_static)
    plan_file, checkpoints = work / "memory.json", work / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    plan = MemoryPlan.read(plan_file, recipe, can_be_cached=cached)
    use_visible_cores()
    place = resolve_device(device)
    clock = _Clock(work / "seconds")
    while True:
        try:
            with quiet_libraries(), _repeatable(recipe.seed), clock:
                tuned = _train_once(
                    base, columns, recipe=recipe, schedule=schedule, plan=plan, work=work,
                    dev=dev, guide=guide, place=place, cache_dir=cache_dir, on_step=on_step,
                )  # fmt: skip
            break
        except Exception as error:
            if is_disk_full(error):
                raise TrainingFailed(
                    f"the disk of {work} is full: {error}. Make room (`reindexer prune`); the same "
                    "command goes on from the last whole checkpoint"
                ) from error
            if not is_out_of_memory(error):
                raise
            smaller = plan.smaller(
                schedule.batch_size, can_be_cached=cached, mini=recipe.mini_batch_size
            )
            if smaller is None:
                raise TrainingFailed(
                    f"{base} does not fit in the memory of {place} with one pair at a time; "
                    "shorten what it reads (--max-tokens 128), train an adapter (--lora), or use a "
                    "smaller base"
                ) from error
            if n_processes() > 1:  # the others wait for this one in the middle of a step
                smaller.write(plan_file)
                raise TrainingFailed(
                    f"out of memory on {place}; the same command goes on from the last checkpoint "
                    f"with {smaller.changes[-1]} (torchrun --max-restarts 8 types it for you)"
                ) from error
            plan = smaller
        gc.collect()
        if place.type == "cuda":
            torch.cuda.empty_cache()
        on_note(f"out of memory on {place}; going on with {plan.changes[-1]}")
        plan.write(plan_file)
    result = replace(tuned, seconds=clock.seconds, memory_changes=plan.changes)
    wait_for_everyone()  # each reads the best checkpoint
    if is_main_process():
        _write(result, done)
        shutil.rmtree(checkpoints)
    return result


def _train_once(
    base: ModelVersion,
    columns: Mapping[str, Sequence[Any]],
    *,
    recipe: TrainingRecipe,
    schedule: Schedule,
    plan: MemoryPlan,
    work: Path,
    dev: DevSet | None,
    guide: ModelVersion | None,
    place: torch.device,
    cache_dir: Path | None,
    on_step: OnStep,
) -> Tuned:
    model = load_model(base)
    full_dim = model.get_embedding_dimension() or base.dim
    dims = recipe.dims(full_dim, base.truncate_dim)
    longest = min(base.max_tokens, recipe.max_tokens or base.max_tokens)
    if not base.is_static:
        model.max_seq_length = longest
    adapter = _add_adapter(model) if recipe.lora else None
    if plan.gradient_checkpointing:
        _checkpoint_gradients(model)
    model.to(place)
    if place.type == "cpu" and not base.is_static and n_processes() == 1:
        model.forward = ForwardByLength(model.forward)  # type: ignore[assignment, method-assign]
    loss = make_loss(
        recipe.loss,
        model,
        dims=dims,
        mini_batch_size=plan.mini_batch_size,
        guide=load_model(guide).to(place) if guide is not None else None,
        gather=n_processes() > 1,
    )
    prompts = {
        column: base.query_prompt if column == "anchor" else base.document_prompt
        for column in columns
        if column != "score"
    }
    if n_processes() > 1:  # all must compute alike, so nobody measures
        dtype: DtypeName = "bf16" if place.type == "cuda" else "fp32"
        dtype = recipe.dtype if recipe.dtype != "auto" else dtype
    else:
        dtype = choose_step_dtype(
            lambda: _probe(model, loss, columns, prompts, place),
            model,
            base.fingerprint,
            device=place,
            wanted=recipe.dtype if not base.is_static or recipe.dtype != "auto" else "fp32",
            cache_dir=cache_dir,
        )
    trained = run_trainer(
        model,
        loss,
        columns,
        recipe=recipe,
        schedule=schedule,
        dtype=dtype,
        device=place,
        dev=dev,
        prompts=prompts,
        folder=work / "checkpoints",
        accumulate=plan.accumulate,
        on_step=on_step,
    )
    folder = work / "model"
    if is_main_process():
        if adapter is not None:
            adapter.merge_and_unload()
        if not base.is_static:
            model.max_seq_length = base.max_tokens
        shutil.rmtree(folder, ignore_errors=True)
        model.to("cpu").save_pretrained(str(folder), create_model_card=False)
    return Tuned(
        folder=folder,
        trained=trained,
        schedule=schedule,
        dims=dims,
        dtype=dtype,
        device=str(place),
        seconds=0.0,
        memory_changes=(),
    )


def _probe(
    model: SentenceTransformer,
    loss: torch.nn.Module,
    columns: Mapping[str, Sequence[Any]],
    prompts: Mapping[str, str],
    place: torch.device,
) -> torch.Tensor:
    """The loss of one small batch of real pairs."""
    features = [
        batch_to_device(
            model.preprocess(list(columns[column][:PROBE_PAIRS]), prompt=prompt or None), place
        )
        for column, prompt in prompts.items()
    ]
    scores = torch.tensor(list(columns.get("score", ()))[:PROBE_PAIRS], device=place)
    value: torch.Tensor = loss(features, scores)
    return value


# -- parts of a model -----------------------------------------------------------------------------


def _add_adapter(model: SentenceTransformer) -> Any:
    """Low-rank layers beside every linear one, which alone are trained (Hu et al. 2021)."""
    from peft import LoraConfig, get_peft_model

    if model.transformers_model is None:
        raise RecipeInvalid("--lora is for transformers; this model has none. Leave it out")
    with warnings.catch_warnings():  # peft 0.21 asks transformers 5 by the older of two names
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(
            model.transformers_model,
            LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules="all-linear"),
        )


def _checkpoint_gradients(model: SentenceTransformer) -> None:
    if model.transformers_model is not None:
        model.transformers_model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )


@contextlib.contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """A seed gives the same weights on the same machine."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=only_warned)


# -- what is kept ---------------------------------------------------------------------------------


class _Clock:
    """Seconds of all starts of a run together, up to the last one that ended in order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.seconds = float(path.read_text()) if path.exists() else 0.0
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.monotonic() - self._began
        with contextlib.suppress(OSError):  # a full disk; nothing depends on it
            write_whole(self._path, str(self.seconds))


def _write(tuned: Tuned, path: Path) -> None:
    value = {
        "trained": tuned.trained.to_json(),
        "schedule": tuned.schedule.to_json(),
        "dims": tuned.dims,
        "dtype": tuned.dtype,
        "device": tuned.device,
        "seconds": tuned.seconds,
        "memory_changes": tuned.memory_changes,
    }
    write_whole(path, json.dumps(value))


def _read(work: Path) -> Tuned:
    value = json.loads((work / "tuned.json").read_text())
    trained = value["trained"]
    for curve in ("loss_curve", "metric_curve"):
        trained[curve] = [tuple(point) for point in trained[curve]]
    return Tuned(
        folder=work / "model",
        trained=Trained(**trained),
        schedule=Schedule(**value["schedule"]),
        dims=tuple(value["dims"]),
        dtype=value["dtype"],
        device=value["device"],
        seconds=value["seconds"],
        memory_changes=tuple(value["memory_changes"]),
    )
