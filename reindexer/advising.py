"""What `advise` rests on: the two legs measured on judged queries, and what a reindex costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reindexer.data_directory import DataDirectory
from reindexer.live import open_live
from reindexer.progress import Progress
from reindexer.tuning import legs_of, usable_judgments
from search.fusion import PLAIN_RRF, fuse
from search.fusion_fit import FIT_DEPTH, FusionFit, K, Legs, fit_fusion
from search.recipe import AnalyzerRecipe, FusionRecipe
from training.advice import Baseline, ReindexCost
from training.judgments import Judgments, read_documents, read_judgments, splits
from training.metrics import PRIMARY_METRIC, score

FOUND_DEPTH = 100  # documents of each leg that a reranker could look at
_PAGE = 2_000  # documents indexed at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A model with BM25 beside it, on judged queries."""

    model: str
    generation: str | None  # None: measured on a folder alone
    baseline: Baseline
    fit: FusionFit
    reindex: ReindexCost


def measure_live(data: DataDirectory, progress: Progress, judgments: Judgments) -> Measured:
    """The live generation as it answers; the reindex as `plan` measures it on the corpus.

    Raises NoLiveGeneration, TooFewJudgments for fewer than two queries, and what asking raises.
    """
    from reindexer.plan import plan_upgrade

    usable = usable_judgments(judgments, 2)
    texts = list(usable.queries.values())
    with open_live(data, on_wait=lambda text: progress.update(state=text)) as live:
        progress.update(0, total=len(texts), state="asking both legs")
        answer = live.legs(texts, depth=FIT_DEPTH, on_progress=progress.update)
    fusion = data.catalog.get(answer["generation"]).recipe.fusion
    baseline, fit = _baseline(usable, answer, fusion)
    progress.begin("advise")
    plan = plan_upgrade(
        data, answer["model"], on_step=lambda step: progress.update(state=f"plan: {step}")
    )
    cost = ReindexCost(
        documents=plan.documents, docs_per_s=plan.docs_per_s, seconds=plan.from_nothing_s
    )
    return Measured(
        model=answer["model"],
        generation=answer["generation"],
        baseline=baseline,
        fit=fit,
        reindex=cost,
    )


def measure_folder(
    data: DataDirectory, progress: Progress, folder: Path, judgments: Judgments, model: str
) -> Measured:
    """A model and BM25 on the folder's own corpus; exact, with nothing built.

    Documents are encoded as one text each, up to the model's own maximum length. The cost is that
    of this corpus, unless the data directory has one. Raises ModelNotFound, JudgmentsInvalid,
    TooFewJudgments for fewer than two queries.
    """
    from reindexer.recipes import find_model
    from training.evaluation import scored_runs

    usable = usable_judgments(judgments, 2)
    progress.update(state="indexing words")
    lexical, n_documents = _lexical_hits(data, folder, list(usable.queries.values()))
    progress.update(state=f"loading {model}")
    version = str(find_model(data, model))
    encoder = data.load_encoder(version)
    progress.update(0, total=n_documents, state="encoding documents")
    began = time.perf_counter()
    runs = scored_runs(
        encoder,
        usable.queries,
        read_documents(folder),
        k=FIT_DEPTH,
        on_progress=progress.update,
    )
    seconds = time.perf_counter() - began
    (run,) = runs.values()
    answer = {"lexical": lexical, "dense": [run[query_id] for query_id in usable.queries]}
    baseline, fit = _baseline(usable, answer, PLAIN_RRF)
    documents = data.corpus.count() or n_documents
    cost = ReindexCost(
        documents=documents,
        docs_per_s=n_documents / seconds,
        seconds=seconds * documents / max(1, n_documents),
    )
    return Measured(model=version, generation=None, baseline=baseline, fit=fit, reindex=cost)


def judged_pairs(folder: Path, judgments: Judgments) -> int:
    """How many training pairs the folder judges, without the queries that are measured on."""
    found: set[tuple[str, str]] = set()
    for split in splits(folder):
        other = read_judgments(folder, split)
        found.update(
            (query_id, doc_id)
            for query_id in other.queries
            if query_id not in judgments.queries
            for doc_id in other.relevant(query_id)
        )
    return len(found)


def _lexical_hits(
    data: DataDirectory, folder: Path, texts: Sequence[str]
) -> tuple[list[list[tuple[str, float]]], int]:
    """[doc_id, score] of every query by BM25, and how many documents there are."""
    from search.documents import Change, Document
    from search.lexical import LexicalIndex

    index = LexicalIndex.empty(AnalyzerRecipe(language=data.settings.language))
    n_documents = 0
    documents = read_documents(folder)
    while page := list(itertools.islice(documents, _PAGE)):
        changes = []
        for item in page:
            n_documents += 1
            document = Document.of(doc_id=item.doc_id, title=item.title, text=item.text)
            changes.append(
                Change(
                    seq=n_documents,
                    doc_id=item.doc_id,
                    content_hash=document.content_hash,
                    document=document,
                )
            )
        index.apply(changes)
    index.compact()
    hits = [[(hit.doc_id, hit.score) for hit in index.search(text, FIT_DEPTH)] for text in texts]
    index.close()
    return hits, n_documents


def _baseline(
    judgments: Judgments, answer: Mapping[str, Any], current: FusionRecipe
) -> tuple[Baseline, FusionFit]:
    legs = legs_of(judgments, answer)
    fit = fit_fusion(legs, judgments.qrels)
    means = fit.means()
    return Baseline(
        queries=len(fit.query_ids),
        lexical=means["lexical"],
        dense=means["dense"],
        hybrid=means["rrf"],
        tuned=means["fitted"],
        current=_ndcg(legs, judgments, current),
        found=_found(legs, judgments),
    ), fit


def _ndcg(legs: Mapping[str, Legs], judgments: Judgments, fusion: FusionRecipe) -> float:
    depth = fusion.depth
    run = {
        query_id: [
            place.doc_id for place in fuse(lexical[:depth], dense[:depth], fusion, K, depth=depth)
        ]
        for query_id, (lexical, dense) in legs.items()
    }
    return score(run, judgments.qrels).means()[PRIMARY_METRIC]


def _found(legs: Mapping[str, Legs], judgments: Judgments) -> float:
    shares = []
    for query_id, (lexical, dense) in legs.items():
        there = {hit.doc_id for hit in [*lexical[:FOUND_DEPTH], *dense[:FOUND_DEPTH]]}
        relevant = judgments.relevant(query_id)
        shares.append(len(there.intersection(relevant)) / len(relevant))
    return float(np.mean(shares))
