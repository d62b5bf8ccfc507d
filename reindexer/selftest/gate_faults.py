"""The faults that `selftest gate` plants, each with the check that must find it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from reindexer.opening import sync_lexical
from reindexer.quality import score_answers
from reindexer.selftest.gate_models import (
    Forgetful,
    NotNormalized,
    Prompted,
    Truncating,
    TurnedEncoder,
    WronglyPooled,
)
from reindexer.selftest.gate_world import DIM, World
from reindexer.selftest.texts import text_of
from reindexer.selftest.word_encoder import WordEncoder
from reindexer.verify import Check
from search.lexical import LexicalIndex
from search.payload import INDEX_FROM_KB
from search.serving import OpenGeneration
from training.judgments import Judgments, read_judgments
from training.metrics import PRIMARY_METRIC

SHORT_DIM = 24
WORSE_BY = 0.03  # nDCG@10


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a generation, and the check that must say so."""

    name: str
    check: str
    refused: Callable[[World], list[Check]]


def _wrong_prompt(world: World) -> list[Check]:
    """The model has a prompt for documents, and the vectors were made without."""
    model, encoder = world.model(lambda turn: Prompted(turn, dim=DIM))
    turn = int(model.partition("@")[2])
    del encoder
    with world.opened(world.build(model, writer=TurnedEncoder(turn, dim=DIM))) as opened:
        return world.verify(opened)


def _not_normalized(world: World) -> list[Check]:
    model, _ = world.model(lambda turn: NotNormalized(turn, dim=DIM))
    with world.opened(world.build(model)) as opened:
        return world.verify(opened)


def _wrong_dim(world: World) -> list[Check]:
    """The collection was made and filled for shorter vectors, under the right fingerprint."""
    model, _ = world.model(lambda turn: TurnedEncoder(turn, dim=DIM))
    short = WordEncoder(1, dim=SHORT_DIM)
    name = world.build(model, writer=short, spec=lambda spec: replace(spec, dim=SHORT_DIM))
    with world.opened_unchecked(name) as opened:
        return world.verify(opened)


def _foreign(opened: OpenGeneration, doc_ids: list[str]) -> None:
    """Of another model of the same dimension."""
    points, _ = opened.collection.stored(doc_ids)
    texts = [text_of(int(point.doc_id[1:])) for point in points]
    opened.collection.upsert(points, WordEncoder(99, dim=DIM).encode_documents(texts))


def _missing(opened: OpenGeneration, doc_ids: list[str]) -> None:
    opened.collection.remove_older(dict.fromkeys(doc_ids, 2**40))


def _stale(opened: OpenGeneration, doc_ids: list[str]) -> None:
    points, vectors = opened.collection.stored(doc_ids)
    old = [replace(point, content_hash="0" * len(point.content_hash)) for point in points]
    opened.collection.upsert(old, vectors)


def _other_metadata(opened: OpenGeneration, doc_ids: list[str]) -> None:
    """One field of it, which a filter would then read."""
    points, vectors = opened.collection.stored(doc_ids)
    other = [replace(point, metadata={**point.metadata, "group": "g9"}) for point in points]
    opened.collection.upsert(other, vectors)


def _swapped(opened: OpenGeneration, doc_ids: list[str]) -> None:
    points, vectors = opened.collection.stored(doc_ids)
    opened.collection.upsert(points, np.roll(vectors, 1, axis=0))


def _wrong_metric(world: World) -> list[Check]:
    """The collection measures distances instead of angles."""
    model, _ = world.model(lambda turn: TurnedEncoder(turn, dim=DIM))
    store = world.data.store
    store.metric = "euclid"
    try:
        name = world.build(model)
    finally:
        store.metric = "cosine"
    with world.opened(name) as opened:
        return world.verify(opened)


def _lost_payload_index(world: World) -> list[Check]:
    """The collection was made without the indexes that the recipe's filters need."""
    model, _ = world.model(lambda turn: TurnedEncoder(turn, dim=DIM))
    name = world.build(model, spec=lambda spec: replace(spec, filter_fields={}))
    with world.opened(name) as opened:
        return world.verify(opened)


def _unbuilt_index(world: World) -> list[Check]:
    """Long enough vectors that a graph is due, and none was built."""
    segments = 10.0 if world.data.store.shared else 1.1  # each may keep so many outside the graph
    dim = max(DIM, int(segments * INDEX_FROM_KB * 1024 / (4 * world.n_documents)))
    model, _ = world.model(lambda turn: WordEncoder(turn + 500, dim=dim))
    with world.opened(world.build(model, finish=False)) as opened:
        return [check for check in world.verify(opened) if check.name == "index"]


def _old_lexical(world: World) -> list[Check]:
    """On disk lies one of nine tenths of the documents, which says that it has seen all of them:
    opening brings an honest one up to date."""
    model, _ = world.model(lambda turn: TurnedEncoder(turn, dim=DIM))
    name, corpus = world.build(model), world.data.corpus
    analyzer = world.data.catalog.get(name).recipe.analyzer
    path = world.data.lexical_path(analyzer)
    with contextlib.closing(LexicalIndex.open(path, analyzer, writable=True)) as index:
        sync_lexical(corpus, index, corpus.head() * 9 // 10)
        index.apply(corpus.changes(corpus.head() - 1, 1))
        index.save()
    try:
        with world.opened(name) as opened:
            return world.verify(opened)
    finally:
        LexicalIndex.discard(path)


def _worse(world: World) -> list[Check]:
    """A model that does not understand just so many queries that it is 3 points worse."""
    judgments = read_judgments(world.judged, "test")
    texts = judgments.queries
    model, encoder = world.model(lambda turn: Forgetful(turn, dim=DIM))
    with world.opened(world.build(model)) as opened:
        good = _ndcg(opened, judgments)
        encoder.forgotten = frozenset(texts.values())
        bad = _ndcg(opened, judgments)
        forgotten, lost = set(), 0.0
        for query_id in sorted(texts, key=lambda name: bad[name] - good[name]):
            if lost >= WORSE_BY * len(texts):
                break
            forgotten.add(texts[query_id])
            lost += good[query_id] - bad[query_id]
        encoder.forgotten = frozenset(forgotten)
        return [world.quality(opened)]


def _ndcg(opened: OpenGeneration, judgments: Judgments) -> Mapping[str, float]:
    """By query."""
    scores = score_answers(judgments, opened.searcher.runs, "hybrid")
    return dict(zip(scores.query_ids, scores.per_query[PRIMARY_METRIC].tolist(), strict=True))


FAULTS: tuple[Fault, ...] = (
    Fault(name="wrong pooling", check="sample", refused=lambda w: w.written_by(WronglyPooled)),
    Fault(name="wrong prompt", check="sample", refused=_wrong_prompt),
    Fault(name="not normalised", check="vectors", refused=_not_normalized),
    Fault(name="wrong dimension", check="fingerprint", refused=_wrong_dim),
    Fault(name="1 % foreign vectors", check="marks", refused=lambda w: w.changed(_foreign, 0.01)),
    Fault(name="0.1 % missing", check="documents", refused=lambda w: w.changed(_missing, 0.001)),
    Fault(name="0.1 % stale", check="content", refused=lambda w: w.changed(_stale, 0.001)),
    Fault(
        name="swapped ids", check="marks", refused=lambda w: w.changed(_swapped, 2 / w.n_documents)
    ),
    Fault(name="wrong metric", check="metric", refused=_wrong_metric),
    Fault(name="lost payload index", check="filters", refused=_lost_payload_index),
    Fault(name="unbuilt HNSW", check="index", refused=_unbuilt_index),
    Fault(name="old lexical index", check="lexical", refused=_old_lexical),
    Fault(name="truncated text", check="sample", refused=lambda w: w.written_by(Truncating)),
    Fault(name="a model 3 points worse", check="quality", refused=_worse),
    Fault(
        name="0.1 % other metadata",
        check="metadata",
        refused=lambda w: w.changed(_other_metadata, 0.001),
    ),
)
