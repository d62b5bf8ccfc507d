"""The verb that fits how BM25 and dense are fused: tune."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation, split_option
from reindexer.progress import Progress
from reindexer.terminal import count, duration, next_steps, print_json, say, table, warn

if TYPE_CHECKING:
    from reindexer.data_directory import DataDirectory
    from reindexer.tuning import Tuning

_FUSION = (
    '{"method": "rrf|convex", "lexical_weight", "dense_weight", "rrf_k", "dense_span", "depth", '
    '"fitted": {"queries", "judgments_sha256", "at", "ndcg_at_10", "rrf_ndcg_at_10"}|null}'
)


@click.command(
    cls=Verb,
    examples=[
        "reindexer tune judged/ --split train",
        "reindexer tune judged/ --split train --dry-run",
        "reindexer tune --clicks clicks.jsonl",
        "reindexer tune --reset",
    ],
    json_fields='{"generation", "model", "queries", "chosen": "convex|rrf|lexical|dense", '
    f'"fusion": {_FUSION}, "before": {{…}}, "metrics": {{"lexical": {{"ndcg@10"}}, "dense": {{…}}, '
    '"rrf": {…}, "fitted": {…}}, "difference": {"lexical": {"ndcg@10": {"mean", "low", "high"}}, '
    '"dense": {…}, "rrf": {…}}, "best_leg", "by_dense_weight": [[weight, ndcg@10], …], "stored", '
    '"missing_documents", "seconds"}; metrics.fitted is cross-validated, difference is fitted '
    'minus the other; with --reset {"generation", "model", "fusion", "before", "stored"}',
)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@split_option("train")
@click.option(
    "--clicks",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A click log: what people chose counts as judged.",
)
@click.option("--generation", metavar="GEN", help="Tune this generation instead of the live one.")
@click.option("--dry-run", is_flag=True, help="Fit and show; store nothing.")
@click.option("--force", is_flag=True, help="Fit to fewer than 50 queries.")
@click.option("--reset", is_flag=True, help="Back to plain reciprocal rank fusion.")
@json_option
@pass_invocation
def tune(
    invocation: Invocation,
    folder: Path | None,
    split: str,
    clicks: Path | None,
    generation: str | None,
    dry_run: bool,
    force: bool,
    reset: bool,
    as_json: bool,
) -> None:
    """Fit the fusion of BM25 and dense to judged queries.

    DIR is a BEIR folder: queries.jsonl and qrels/SPLIT.tsv; take another split than you evaluate
    on. Fits how much each leg counts, checks that against plain rank fusion and each leg alone on
    queries it was not fitted on, and stores it in the generation's recipe. Services take it up
    within a second, without opening anything again. Wants 50 judged queries; exit code 3 with
    fewer.
    """
    if reset:
        if folder is not None or clicks is not None or dry_run:
            raise click.UsageError("--reset goes with --generation and --json only")
        _reset(invocation, generation, as_json)
        return
    if folder is None and clicks is None:
        raise click.UsageError("expected judged queries: DIR, --clicks FILE, or both")
    _tune(invocation, folder, split, clicks, generation, dry_run, force, as_json)


def _tune(
    invocation: Invocation,
    folder: Path | None,
    split: str,
    clicks: Path | None,
    generation: str | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    from training.judgments import read_judgments

    began = time.monotonic()
    judgments = read_judgments(folder, split) if folder is not None else None
    with (
        invocation.open_existing() as data,
        Progress("tune", quiet=invocation.quiet) as progress,
    ):
        progress.update(state="reading")
        from reindexer.generation_scores import missing_documents
        from reindexer.tuning import tune as fit_and_store
        from reindexer.tuning import with_clicks

        if clicks is not None:
            judgments = with_clicks(data, judgments, clicks)
        assert judgments is not None
        missing = missing_documents(data, judgments)
        tuning = fit_and_store(
            data,
            judgments,
            generation=generation,
            force=force,
            dry_run=dry_run,
            on_wait=lambda text: progress.update(state=text),
            on_progress=lambda done, total, state: progress.update(done, total=total, state=state),
        )
    seconds = round(time.monotonic() - began, 3)
    if missing:
        warn(
            f"{count(missing, 'relevant document')} not in the corpus, so neither leg can find "
            "them; bring them in with `reindexer ingest DIR`"
        )
    if as_json:
        print_json({**tuning.to_json(), "missing_documents": missing, "seconds": seconds})
        return
    _show(tuning, seconds)
    if not invocation.quiet:
        say()
        where = folder if folder is not None else "DIR"
        next_steps(f"reindexer evaluate {where} --split test --mode lexical,dense,hybrid")


def _show(tuning: Tuning, seconds: float) -> None:
    fit = tuning.fit
    means = fit.means()
    say(
        f"{tuning.generation} ({tuning.model}) on {count(len(fit.query_ids), 'judged query')}, "
        f"{duration(seconds)}\n"
    )
    rows: list[tuple[Any, ...]] = []
    for name, shown in (("lexical", "lexical"), ("dense", "dense"), ("rrf", "plain RRF")):
        gain = fit.gain_over(name)
        interval = f"{gain.mean:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"
        rows.append((shown, f"{means[name]:.4f}", interval))
    rows.append(("fitted, cross-validated", f"{means['fitted']:.4f}", ""))
    say(table(("", "ndcg@10", "fitted is better by"), rows))
    say(f"\n{tuning.after.in_words}; before, {tuning.before.in_words}.")
    if fit.chosen == "rrf":
        say("Plain rank fusion is surely better here than any weighting of the scores.")
    elif fit.chosen != "convex":
        say("The other leg adds nothing here, so one leg decides the order by itself.")
    if tuning.stored:
        say(f"Stored in the recipe of {tuning.generation}; a running service follows by itself.")
    else:
        say("Nothing was stored: --dry-run.")


def _reset(invocation: Invocation, generation: str | None, as_json: bool) -> None:
    from dataclasses import asdict

    with invocation.open_existing() as data:
        before = _named_or_live(data, generation)
        from reindexer.tuning import reset

        after = reset(data, before.name)
    if as_json:
        print_json(
            {
                "generation": after.name,
                "model": after.recipe.model,
                "fusion": asdict(after.recipe.fusion),
                "before": asdict(before.recipe.fusion),
                "stored": True,
            }
        )
        return
    say(f"{after.name} fuses by {after.recipe.fusion.in_words} again.")


def _named_or_live(data: DataDirectory, generation: str | None) -> Any:
    from search.errors import NoLiveGeneration

    found = data.catalog.get(generation) if generation is not None else data.catalog.live()
    if found is None:
        raise NoLiveGeneration(
            "no generation is live, so there is no fusion to reset; name one with --generation"
        )
    return found
