"""What a fusion fitted to few judged queries is worth on the queries that it has not seen.

    reindexer --data-dir DATA ingest FOLDER
    reindexer --data-dir DATA upgrade MODEL --yes
    python benchmarks/fusion.py DATA:FOLDER [DATA:FOLDER …] [--labels 50] [--repeats 200]

The judged queries of all splits of a folder are cut in halves again and again: the fusion is fitted
to at most `--labels` queries of one half, and measured on all of the other against each leg alone
and plain reciprocal rank fusion. Then the time of fusing alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import timeit
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Report, read_arguments
from reindexer.data_directory import DataDirectory
from reindexer.live import open_live
from reindexer.settings import Settings
from search.fusion import PLAIN_RRF, fuse
from search.fusion_fit import FIT_DEPTH, Legs, ScoredDocument, fit_fusion
from search.recipe import FusionRecipe
from training.judgments import read_judgments, splits
from training.metrics import PRIMARY_METRIC, score

K = 10
ALLOWED_LOSS = 0.002  # of nDCG@10, against the better leg
CALLS, ROUNDS = 10, 300  # a round is short, so that on a busy machine some are undisturbed

Qrels = Mapping[str, Mapping[str, int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="+", metavar="DATA:FOLDER")
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=200)
    arguments = read_arguments(parser)

    report = Report(
        f"{arguments.repeats} half-splits, at most {arguments.labels} labels", path=arguments.report
    )
    gains = []
    for item in arguments.sets:
        data_dir, _, folder = item.partition(":")
        legs, qrels = _read(Path(data_dir), Path(folder))
        print(f" {Path(folder).name}, {len(legs):,} judged queries", flush=True)
        _whole(report, legs, qrels)
        gains.append(_half_splits(report, legs, qrels, arguments.labels, arguments.repeats))
    print(" together", flush=True)
    name = "fitted over plain RRF, mean of the sets"
    report.figure(name, statistics.mean(gains), "nDCG@10", digits=4, at_least=0.01)
    _timing(report, next(iter(legs.values())))
    return report.exit_code()


def _read(data_dir: Path, folder: Path) -> tuple[dict[str, Legs], dict[str, dict[str, int]]]:
    """What both legs say to every judged query with an answer, and the judgments."""
    texts: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for split in splits(folder):
        judgments = read_judgments(folder, split)
        for query_id, grades in judgments.qrels.items():
            if any(grade > 0 for grade in grades.values()):
                texts[query_id] = judgments.queries[query_id]
                qrels[query_id] = dict(grades)
    with DataDirectory(Settings(data_dir=data_dir)) as data, open_live(data) as live:
        answer = live.legs(list(texts.values()), depth=FIT_DEPTH)
    legs = {
        query_id: Legs(
            [ScoredDocument(*hit) for hit in lexical], [ScoredDocument(*hit) for hit in dense]
        )
        for query_id, lexical, dense in zip(texts, answer["lexical"], answer["dense"], strict=True)
    }
    return legs, qrels


def _ndcg(recipe: FusionRecipe, legs: Mapping[str, Legs], qrels: Qrels) -> NDArray[np.float64]:
    """(n_queries,) in the order of the sorted query ids."""
    depth = recipe.depth
    run = {
        query_id: [
            place.doc_id for place in fuse(lexical[:depth], dense[:depth], recipe, K, depth=depth)
        ]
        for query_id, (lexical, dense) in legs.items()
    }
    return score(run, qrels).per_query[PRIMARY_METRIC]


BASELINES = {
    "lexical": FusionRecipe(dense_weight=0.0),
    "dense": FusionRecipe(lexical_weight=0.0),
    "rrf": PLAIN_RRF,
}


def _whole(report: Report, legs: Mapping[str, Legs], qrels: Qrels) -> None:
    for name, recipe in BASELINES.items():
        mean = float(_ndcg(recipe, legs, qrels).mean())
        report.figure(f"{name}, all queries", mean, "nDCG@10", digits=4)


def _half_splits(
    report: Report, legs: Mapping[str, Legs], qrels: Qrels, n_labels: int, repeats: int
) -> float:
    """The mean gain over plain RRF."""
    query_ids = sorted(legs)
    known = {name: _ndcg(recipe, legs, qrels) for name, recipe in BASELINES.items()}
    fitted_ndcg: dict[FusionRecipe, NDArray[np.float64]] = {}
    rng = np.random.default_rng(0)
    fitted, over_rrf, over_leg, chosen = [], [], [], []
    for _ in range(repeats):
        order = rng.permutation(len(query_ids))
        half = len(order) // 2
        labelled = [query_ids[at] for at in order[:half][:n_labels]]
        fit = fit_fusion(
            {query_id: legs[query_id] for query_id in labelled},
            {query_id: qrels[query_id] for query_id in labelled},
        )
        if fit.recipe not in fitted_ndcg:
            fitted_ndcg[fit.recipe] = _ndcg(fit.recipe, legs, qrels)
        others = order[half:]
        value = float(fitted_ndcg[fit.recipe][others].mean())
        fitted.append(value)
        over_rrf.append(value - float(known["rrf"][others].mean()))
        leg = max(float(known[name][others].mean()) for name in ("lexical", "dense"))
        over_leg.append(value - leg)
        chosen.append(fit.recipe.dense_weight if fit.recipe.method == "convex" else None)
    weights = [weight for weight in chosen if weight is not None]
    report.figure("fitted", statistics.mean(fitted), "nDCG@10", digits=4, note=_spread(fitted))
    report.figure(
        "fitted over plain RRF",
        statistics.mean(over_rrf),
        "nDCG@10",
        digits=4,
        note=_spread(over_rrf),
    )
    report.figure(
        "fitted over the better leg",
        statistics.mean(over_leg),
        "nDCG@10",
        digits=4,
        at_least=-ALLOWED_LOSS,
        note=_spread(over_leg),
    )
    behind = sum(value < -ALLOWED_LOSS for value in over_leg) / repeats
    report.figure(f"half-splits more than {ALLOWED_LOSS} behind it", behind * 100, "%", digits=1)
    report.figure("dense weight", statistics.mean(weights), note=_spread(weights))
    report.figure("plain RRF chosen", 100 * chosen.count(None) / repeats, "%", digits=1)
    return statistics.mean(over_rrf)


def _spread(values: Sequence[float]) -> str:
    return f"sd {statistics.stdev(values):.4f}, {min(values):+.4f} to {max(values):+.4f}"


def _timing(report: Report, legs: Legs) -> None:
    depth = PLAIN_RRF.depth
    lexical, dense = legs.lexical[:depth], legs.dense[:depth]
    weighted = FusionRecipe(method="convex", lexical_weight=0.4, dense_weight=0.6, dense_span=0.3)
    for name, recipe in (("plain RRF", PLAIN_RRF), ("weighted scores", weighted)):
        once = partial(fuse, lexical, dense, recipe, K, depth=depth)
        taken_s = timeit.repeat(once, number=CALLS, repeat=ROUNDS)
        n_hits = f"{len(lexical)} and {len(dense)} hits"
        report.figure(
            f"fuse, {name}", min(taken_s) / CALLS * 1e3, "ms", digits=3, at_most=0.15, note=n_hits
        )


if __name__ == "__main__":
    sys.exit(main())
