"""What `train` shows when it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reindexer.terminal import count, duration, fields, next_steps, say, table

if TYPE_CHECKING:
    from training.outcome import TrainingOutcome

_SHOWN = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map@100")


def show_training(
    outcome: TrainingOutcome, *, pairs: str, eval_dir: Path | None, quiet: bool
) -> None:
    epochs = "epoch" if outcome.epochs == 1 else "epochs"
    say(
        f"{outcome.version}: {outcome.base} tuned on {count(outcome.pairs, 'pair')}, "
        f"{outcome.epochs:g} {epochs} ({count(outcome.steps, 'step')}) in "
        f"{duration(outcome.seconds)}{', stopped early' if outcome.stopped_early else ''}\n"
    )
    if outcome.metrics:
        say(_metrics_table(outcome.metrics))
        say()
        if dims := _dims_table(outcome.metrics.get("dims", {})):
            say(dims)
            say()
    say(
        fields(
            [
                ("gate", f"{outcome.gate.verdict}: {outcome.gate.reason}"),
                ("to try", "; ".join(outcome.advice)),
                ("report", str(outcome.report) if outcome.report is not None else None),
            ]
        )
    )
    if quiet:
        return
    say()
    measured = f" --eval {eval_dir}" if eval_dir is not None else ""
    if outcome.gate.passed:
        next_steps(f"reindexer upgrade {outcome.version}{measured}")
    elif not outcome.metrics:
        next_steps(
            f"reindexer train {pairs} --base {outcome.base} --name {outcome.version.name} "
            "--eval DIR"
        )
    else:
        next_steps(
            f"reindexer pairs audit {pairs}",
            f'reindexer upgrade {outcome.version}{measured} --override "REASON"',
        )


def _metrics_table(metrics: Mapping[str, Any]) -> str:
    rows: list[Sequence[Any]] = []
    for name in _SHOWN:
        gain = metrics["difference"][name]
        rows.append(
            (
                name,
                metrics["base"][name],
                metrics["tuned"][name],
                f"{gain['mean']:+.3f}  ({gain['low']:+.3f} to {gain['high']:+.3f})",
            )
        )
    return table(("", "base", "tuned", "difference"), rows)


def _dims_table(dims: Mapping[str, Any]) -> str | None:
    if len(dims) < 2:
        return None
    full = next(iter(dims.values()))["tuned"]
    rows = [
        (int(dim), value["base"], value["tuned"], f"{value['tuned'] / full:.1%}" if full else "-")
        for dim, value in dims.items()
    ]
    return table(("dimensions", "base nDCG@10", "tuned nDCG@10", "of full"), rows)
