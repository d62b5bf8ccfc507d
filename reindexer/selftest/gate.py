"""`selftest gate`: generations with one planted fault each, and healthy ones, before the gate.

Every fault must be refused for the right reason, and nothing else may be refused.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from reindexer.journal import BUILD_LEASE
from reindexer.opening import Opener
from reindexer.quality import check_quality, score_answers
from reindexer.replay import Replay
from reindexer.selftest import verbs
from reindexer.selftest.gate_models import (
    Forgetful,
    NotNormalized,
    Prompted,
    Truncating,
    TurnedEncoder,
    WronglyPooled,
)
from reindexer.selftest.proof import Promise, Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.texts import documents, text_of
from reindexer.selftest.word_directory import WordDirectory
from reindexer.selftest.word_encoder import WordEncoder
from reindexer.settings import Settings
from reindexer.verify import Check, verify_structure
from search.dense import CollectionSpec, DenseHit, Layout
from search.lexical import LexicalIndex
from search.payload import INDEX_FROM_KB
from search.serving import OpenGeneration
from search.splitter import Splitter
from training.judgments import Judgments, read_judgments
from training.metrics import PRIMARY_METRIC

DIM = 32
REPLAY_WINDOW = 2_048
WORSE_BY = 0.03  # nDCG@10
MAX_FALSE_REFUSALS = 0.01  # of the healthy
MAX_SECONDS = 60.0
_LIVE = "turned@0"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is wrong with a generation, and the check that must say so."""

    name: str
    check: str
    refused: Callable[[_World], list[Check]]


def prove_gate(
    *,
    documents: int = 2_000,
    queries: int = 300,
    healthy: int = 20,
    seed: int = 0,
    own: Settings | None = None,
    faults: Sequence[Fault] | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """Every fault once, and so many healthy generations. own: as in `sandbox`.

    documents: at least 1,000, so that a thousandth of them is one. queries: judged ones; with
    fewer than 300, chance alone may look like a loss. faults: instead of all.
    """
    watch = Stopwatch()
    faults = FAULTS if faults is None else faults
    total = len(faults) + healthy
    results: dict[str, str] = {}
    wrong: list[str] = []
    refused: list[str] = []
    with (
        sandbox(own) as settings,
        WordDirectory(settings) as data,
        _World(data, max(1_000, documents), queries, seed) as world,
    ):
        for number, fault in enumerate(faults):
            on_progress(number, total, fault.name)
            reasons = {check.name: check for check in fault.refused(world) if not check.passed}
            results[fault.name] = ", ".join(sorted(reasons)) or "not refused"
            if fault.check not in reasons:
                wrong.append(f"{fault.name}: {results[fault.name]}, expected {fault.check}")
        for number in range(healthy):
            on_progress(len(faults) + number, total, "healthy generations")
            failed = [check for check in world.healthy(number) if not check.passed]
            if failed:
                refused.append("; ".join(f"{check.name}: found {check.found}" for check in failed))
    return Proof(
        tool="gate",
        repeat=f"reindexer selftest gate --documents {documents} --queries {queries} "
        f"--healthy {healthy} --seed {seed}",
        seed=seed,
        promises=(
            Promise(
                name="every fault is refused for its reason",
                kept=not wrong,
                found=f"{len(faults) - len(wrong)} of {len(faults)}",
                expected=f"{len(faults)} of {len(faults)}",
                detail=tuple(wrong),
            ),
            nothing_wrong(
                "what is healthy passes",
                refused if len(refused) > MAX_FALSE_REFUSALS * healthy else [],
                looked_at=f"{len(refused)} of {healthy} refused",
                expected="at most 1 in 100 refused",
            ),
            at_most(
                "one verification",
                max(world.seconds, default=0.0),
                MAX_SECONDS,
                "s",
                about=f" for {world.n_documents:,} documents and {queries} queries",
            ),
        ),
        figures={
            "faults": results,
            "healthy": healthy,
            "refused_healthy": len(refused),
            "documents": world.n_documents,
            "queries": queries,
            "slowest_verification_s": round(max(world.seconds, default=0.0), 2),
        },
        seconds=watch.seconds,
    )


class _World:
    """A corpus, judged queries, a live generation, and a workshop for candidates."""

    def __init__(self, data: WordDirectory, n_documents: int, n_queries: int, seed: int) -> None:
        self.data = data
        self.n_documents = n_documents
        self.rng = random.Random(seed)
        self.seed = seed
        self.seconds: list[float] = []  # of each verification of a healthy generation
        self._turn = 0
        self._spare: OpenGeneration | None = None
        self._open = contextlib.ExitStack()
        for start in range(0, n_documents, 5_000):
            numbers = range(start, min(start + 5_000, n_documents))
            data.corpus.put(list(documents(numbers, version=seed)))
        self.judged = _write_judgments(data.path / "judged", n_documents, n_queries, seed)
        data.models[_LIVE] = TurnedEncoder(0, dim=DIM)
        live = self.build(_LIVE)
        data.catalog.keep_verification(live, {"passed": True})
        verbs.go_live(data, live)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._open.close()

    # -- candidates ----------------------------------------------------------------------------

    def model(self, encoder: Callable[[int], Any]) -> tuple[str, Any]:
        """A name and the encoder that it stands for, of a vector space that nothing else has."""
        self._turn += 1
        name = f"turned@{self._turn}"
        self.data.models[name] = encoder(self._turn)
        return name, self.data.models[name]

    def build(
        self,
        model: str,
        *,
        writer: Any = None,
        spec: Callable[[CollectionSpec], CollectionSpec] = lambda spec: spec,
        finish: bool = True,
    ) -> str:
        """A generation that is ready. writer: the encoder that makes the vectors, if that is not
        the model's own. spec: what the collection is made with, if that is not the recipe's."""
        data = self.data
        generation = data.record(model)
        name, recipe = generation.name, generation.recipe
        encoder = writer if writer is not None else data.load_encoder(model)
        collection = data.store.create(generation.collection, spec(recipe.collection_spec(name)))
        head = data.corpus.head()
        with data.journal.lease(BUILD_LEASE) as lease:
            Replay(
                corpus=data.corpus,
                collection=collection,
                encoder=cast(Any, _Under(encoder, recipe.fingerprint)),
                splitter=Splitter(recipe.splitter, encoder),
                window=REPLAY_WINDOW,
                checkpoint=lambda progress: data.catalog.advance(
                    name, progress.watermark, lease=BUILD_LEASE, token=lease.token
                ),
            ).run(0, head, fresh_until=head)
        if finish:
            collection.finish()
        collection.close()
        for state in ("catching_up", "verifying", "ready"):
            data.catalog.move(name, cast(Any, state))
        return name

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[OpenGeneration]:
        """Open, and dropped afterwards."""
        opener = Opener(self.data, writable=False)
        opened = opener.open(name)
        try:
            yield opened
        finally:
            opened.close()
            opener.close()
            self.data.catalog.move(name, "retired")
            self.data.store.drop(opened.generation.collection)
            self.data.catalog.move(name, "pruned")

    def verify(self, opened: OpenGeneration) -> list[Check]:
        watermark = self.data.catalog.watermark(opened.name)
        return verify_structure(self.data.corpus, opened, watermark=watermark)

    def quality(self, opened: OpenGeneration) -> Check:
        check, _ = check_quality(self.data, opened, self.judged, "test")
        return check

    def healthy(self, number: int) -> list[Check]:
        del number
        model, _ = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        with self.opened(self.build(model)) as opened:
            watch = Stopwatch()
            checks = [*self.verify(opened), self.quality(opened)]
            self.seconds.append(watch.seconds)
        return checks

    # -- ways to plant a fault -----------------------------------------------------------------

    def written_by(self, kind: Callable[..., WordEncoder]) -> list[Check]:
        """The vectors are made by a model that differs, under the fingerprint of the right one."""
        model, encoder = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        turn = int(model.partition("@")[2])
        with self.opened(self.build(model, writer=kind(turn, dim=DIM))) as opened:
            del encoder
            return self.verify(opened)

    def changed(self, change: Callable[[OpenGeneration, list[str]], None], share: float) -> Any:
        """Some documents of a healthy generation are changed in the store."""
        model, _ = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
        with self.opened(self.build(model)) as opened:
            n = max(1, round(share * self.n_documents))
            chosen = self.rng.sample(range(self.n_documents), n)
            change(opened, [f"d{number}" for number in chosen])
            return self.verify(opened)

    def seen_as(self, alter: Callable[[OpenGeneration], OpenGeneration]) -> list[Check]:
        """A healthy generation, of which the gate sees something else. One serves them all."""
        if self._spare is None:
            model, _ = self.model(lambda turn: TurnedEncoder(turn, dim=DIM))
            self._spare = self._open.enter_context(self.opened(self.build(model)))
        return self.verify(alter(self._spare))


# -- the faults, each with the check that must find it ---------------------------------------------


def _wrong_prompt(world: _World) -> list[Check]:
    """The model has a prompt for documents, and the vectors were made without."""
    model, encoder = world.model(lambda turn: Prompted(turn, dim=DIM))
    turn = int(model.partition("@")[2])
    del encoder
    with world.opened(world.build(model, writer=TurnedEncoder(turn, dim=DIM))) as opened:
        return world.verify(opened)


def _not_normalized(world: _World) -> list[Check]:
    model, _ = world.model(lambda turn: NotNormalized(turn, dim=DIM))
    with world.opened(world.build(model)) as opened:
        return world.verify(opened)


def _wrong_dim(world: _World) -> list[Check]:
    return world.seen_as(
        lambda opened: replace(
            opened,
            encoder=cast(Any, _Under(WordEncoder(1, dim=24), opened.encoder.fingerprint)),
        )
    )


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


def _swapped(opened: OpenGeneration, doc_ids: list[str]) -> None:
    points, vectors = opened.collection.stored(doc_ids)
    opened.collection.upsert(points, np.roll(vectors, 1, axis=0))


def _wrong_metric(world: _World) -> list[Check]:
    return world.seen_as(
        lambda opened: replace(opened, collection=cast(Any, _Euclidean(opened.collection)))
    )


def _lost_payload_index(world: _World) -> list[Check]:
    """The collection was made without the indexes that the recipe's filters need."""
    model, _ = world.model(lambda turn: TurnedEncoder(turn, dim=DIM))
    name = world.build(model, spec=lambda spec: replace(spec, filter_fields={}))
    with world.opened(name) as opened:
        return world.verify(opened)


def _unbuilt_index(world: _World) -> list[Check]:
    """Long enough vectors that a graph is due, and none was built."""
    segments = 10.0 if world.data.store.shared else 1.1  # each may keep so many outside the graph
    dim = max(DIM, int(segments * INDEX_FROM_KB * 1024 / (4 * world.n_documents)))
    model, _ = world.model(lambda turn: WordEncoder(turn + 500, dim=dim))
    with world.opened(world.build(model, finish=False)) as opened:
        return [check for check in world.verify(opened) if check.name == "index"]


def _old_lexical(world: _World) -> list[Check]:
    def alter(opened: OpenGeneration) -> OpenGeneration:
        index = LexicalIndex.empty(opened.generation.recipe.analyzer)
        index.apply(world.data.corpus.changes(0, world.n_documents * 9 // 10))
        return replace(opened, lexical=index)

    return world.seen_as(alter)


def _worse(world: _World) -> list[Check]:
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
)


class _Under:
    """An encoder that claims another fingerprint."""

    def __init__(self, encoder: Any, fingerprint: str) -> None:
        self._encoder = encoder
        self.fingerprint = fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)


class _Euclidean:
    """A collection that measures distances instead of angles."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)

    def layout(self) -> Layout:
        return Layout(metric="euclid", indexed_paths=self._collection.layout().indexed_paths)

    def search(self, *args: Any, **options: Any) -> list[DenseHit]:
        hits: list[DenseHit] = self._collection.search(*args, **options)
        return [hit._replace(score=2 - 2 * hit.score) for hit in hits]


def _write_judgments(folder: Path, n_documents: int, n_queries: int, seed: int) -> Path:
    """Each query is some words of one document among some of another."""
    rng = random.Random(seed)
    (folder / "qrels").mkdir(parents=True)
    asked = rng.sample(range(n_documents), min(n_queries, n_documents // 2))
    with (
        (folder / "queries.jsonl").open("w", encoding="utf-8") as queries,
        (folder / "qrels" / "test.tsv").open("w", encoding="utf-8") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for number in asked:
            words = text_of(number, seed).split()[:5]
            words += text_of((number + 1) % n_documents, seed).split()[:3]
            queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(words)}) + "\n")
            qrels.write(f"q{number}\td{number}\t1\n")
    return folder
