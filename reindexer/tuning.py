"""Fitting a generation's fusion to judged queries, and keeping it fitted through an upgrade."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.document_texts import texts_of_corpus
from reindexer.errors import GateRefused
from reindexer.live import open_live
from search.fusion import PLAIN_RRF
from search.fusion_fit import FIT_DEPTH, FusionFit, Legs, ScoredDocument, fit_fusion
from search.generations import Generation
from search.recipe import FittedOn, FusionRecipe
from search.serving import OpenGeneration
from training.clicks import ClickLog
from training.judgments import Judgments, judgments_hash
from training.metrics import PRIMARY_METRIC
from training.pairs import RejectedRow, text_key

log = logging.getLogger(__name__)

MIN_QUERIES = 50  # with a relevant document; fewer say little about a weight
MAX_QUERIES = 2_000  # drawn at random from more, which would not change the weight
LEG_QUERIES_PER_CALL = 64
_SEED = 20_090_719

OnProgress = Callable[[int, int, str], None]  # queries done, of how many, what is being done


class TooFewJudgments(GateRefused):
    """Fewer judged queries than a fit can be trusted with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What a generation's fusion was fitted to, and what came of it."""

    generation: str
    model: str
    fit: FusionFit
    before: FusionRecipe
    after: FusionRecipe
    stored: bool

    def to_json(self) -> dict[str, Any]:
        fit = self.fit
        return {
            "generation": self.generation,
            "model": self.model,
            "queries": len(fit.query_ids),
            "chosen": fit.chosen,
            "fusion": asdict(self.after),
            "before": asdict(self.before),
            "metrics": {name: {PRIMARY_METRIC: value} for name, value in fit.means().items()},
            "difference": {
                name: {PRIMARY_METRIC: fit.gain_over(name).to_json()}
                for name in ("lexical", "dense", "rrf")
            },
            "best_leg": fit.best_leg,
            "by_dense_weight": [list(item) for item in fit.by_dense_weight.items()],
            "stored": self.stored,
        }


def tune(
    data: DataDirectory,
    judgments: Judgments,
    *,
    generation: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    on_wait: Callable[[str], None] = lambda _message: None,
    on_progress: OnProgress = lambda _done, _total, _state: None,
) -> Tuning:
    """Fit the fusion of the live generation, or of the one named, and store it in its recipe.

    Both legs answer every query; through the service when one has the generation open. Serving
    processes take the new fusion up by themselves, between two queries.

    Raises TooFewJudgments (unless force, and with fewer than two even then), and what opening and
    asking a generation raises.
    """
    usable = usable_judgments(judgments, 2 if force else MIN_QUERIES)
    n_queries = len(usable.queries)
    with open_live(data, generation, on_wait=on_wait) as live:
        answer = live.legs(
            list(usable.queries.values()),
            depth=FIT_DEPTH,
            on_progress=lambda done: on_progress(done, n_queries, "asking both legs"),
        )
    found = data.catalog.get(answer["generation"])
    fit = fit_fusion(
        legs_of(usable, answer),
        usable.qrels,
        on_progress=lambda done: on_progress(done, n_queries, "fitting"),
    )
    after = replace(fit.recipe, fitted=_fitted_on(judgments, fit))
    if not dry_run:
        data.catalog.set_fusion(found.name, after)
    return Tuning(
        generation=found.name,
        model=found.recipe.model,
        fit=fit,
        before=found.recipe.fusion,
        after=after,
        stored=not dry_run,
    )


def reset(data: DataDirectory, generation: str) -> Generation:
    """Back to plain reciprocal rank fusion."""
    data.catalog.set_fusion(generation, PLAIN_RRF)
    return data.catalog.get(generation)


def with_clicks(data: DataDirectory, judgments: Judgments | None, log_file: Path) -> Judgments:
    """The judgments, and every query of a click log as one more: what people chose is relevant.

    A query that was judged is not changed by clicks. Raises PairsInvalid when the file cannot be
    read.
    """
    queries = dict(judgments.queries) if judgments is not None else {}
    qrels = {key: dict(grades) for key, grades in judgments.qrels.items()} if judgments else {}
    judged = {text_key(text) for text in queries.values()}
    for row in ClickLog(log_file, texts_of_corpus(data.corpus)):
        if isinstance(row, RejectedRow):
            log.warning("%s: %s", row.where, row.reason)
            continue
        key, doc_id = text_key(row.pair.anchor), row.pair.doc_id
        if key in judged or doc_id is None:
            continue
        query_id = f"clicked: {key}"
        queries[query_id] = row.pair.anchor
        qrels.setdefault(query_id, {})[doc_id] = 1
    return Judgments(queries=queries, qrels=qrels)


def fit_candidate(
    data: DataDirectory, opened: OpenGeneration, judgments: Judgments
) -> tuple[OpenGeneration, FusionFit | None]:
    """Fit a generation that is to replace one whose fusion was fitted.

    Weights are worth nothing to another model, whose cosines have another scale and another worth,
    so a new generation begins with plain RRF. Compared like that with a live one that is tuned, a
    better model would look worse. Nothing happens when the live generation is not fitted, or the
    candidate is already, or there are too few judged queries.
    """
    live = data.catalog.live()
    if live is None or live.name == opened.name or live.recipe.fusion.fitted is None:
        return opened, None
    if opened.searcher.recipe.fusion.fitted is not None:
        return opened, None
    try:
        usable = usable_judgments(judgments, MIN_QUERIES)
    except TooFewJudgments as error:
        log.warning("%s answers with plain RRF and %s is tuned: %s", opened.name, live.name, error)
        return opened, None
    texts = list(usable.queries.values())
    answer: dict[str, list[Any]] = {"lexical": [], "dense": []}
    for start in range(0, len(texts), LEG_QUERIES_PER_CALL):
        part = opened.searcher.legs(texts[start : start + LEG_QUERIES_PER_CALL], depth=FIT_DEPTH)
        for leg, hits in answer.items():
            hits += part[leg]
    fit = fit_fusion(legs_of(usable, answer), usable.qrels)
    fusion = replace(fit.recipe, fitted=_fitted_on(judgments, fit))
    data.catalog.set_fusion(opened.name, fusion)
    return opened.with_fusion(fusion), fit


def usable_judgments(judgments: Judgments, at_least: int) -> Judgments:
    """The queries that a fit can learn from, not more than MAX_QUERIES of them."""
    usable = [
        query_id
        for query_id, grades in sorted(judgments.qrels.items())
        if any(grade > 0 for grade in grades.values())
    ]
    if len(usable) < at_least:
        raise TooFewJudgments(
            f"found {len(usable)} judged queries with a relevant document, expected at least "
            f"{at_least}: {at_least - len(usable)} more are needed. Judge some more, add what "
            "people clicked with `--clicks FILE`, or accept a weight that may be wrong: --force"
        )
    if len(usable) > MAX_QUERIES:
        usable = random.Random(_SEED).sample(usable, MAX_QUERIES)
    return Judgments(
        queries={query_id: judgments.queries[query_id] for query_id in usable},
        qrels={query_id: judgments.qrels[query_id] for query_id in usable},
    )


def legs_of(
    judgments: Judgments, answer: Mapping[str, Sequence[Sequence[Sequence[Any]]]]
) -> dict[str, Legs]:
    """By query id. answer: [doc_id, score] pairs of every query, by leg, as `Searcher.legs` gives
    them."""
    return {
        query_id: Legs(
            lexical=[ScoredDocument(*hit) for hit in lexical],
            dense=[ScoredDocument(*hit) for hit in dense],
        )
        for query_id, lexical, dense in zip(
            judgments.queries, answer["lexical"], answer["dense"], strict=True
        )
    }


def _fitted_on(judgments: Judgments, fit: FusionFit) -> FittedOn:
    means = fit.means()
    return FittedOn(
        queries=len(fit.query_ids),
        judgments_sha256=judgments_hash(judgments),
        at=time.time(),
        ndcg_at_10=round(means["fitted"], 4),
        rrf_ndcg_at_10=round(means["rrf"], 4),
    )
