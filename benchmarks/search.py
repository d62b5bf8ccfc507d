"""A query without its encoding, and what the layers add to the two engines below them.

    python benchmarks/search.py [--documents 100000] [--queries 1000] [--keep DIR]

A stub encoder has the query vectors ready. The baseline calls the same two engines directly and
does nothing with what they find: `retrieve` of bm25s on ready tokens over an index built from
scratch, and `query` of a Qdrant shard with the payload that says which document a point belongs to,
both at the depth of the hybrid search and with the same width of the HNSW walk. The searcher does
all that a user sees: analysis, fusion, titles, snippets and metadata of the hits from the corpus.
A second baseline does that by hand: words by `bm25s.tokenize`, both engines, reciprocal ranks in a
dictionary, and the ten documents by one SELECT, cut to 300 characters. At the end the same searcher
asks as a service does, with the collection in a process of its own and both legs at once.

--keep builds into a folder, or uses what an earlier run has built there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import bm25s
import qdrant_edge as engine
import Stemmer

from benchmarks.corpus import documents, fill, queries, vectors
from benchmarks.report import Ask, Report, ask_ms, percentile, queries_by_turns, read_arguments
from search.analyzer import Analyzer
from search.collection_file import read_collection_file
from search.corpus import Corpus
from search.database import open_database, sqlite_url
from search.dense import DenseCollection, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.documents import Filter, parse_filter
from search.lexical import LexicalIndex, warm
from search.recipe import AnalyzerRecipe, Recipe, SplitterRecipe
from search.searcher import DEFAULT_DEPTH, Mode, Searcher, SearchRequest

GENERATION, COLLECTION = "docs@1", "docs-1"
DIM = 384
PAGE = 5_000  # documents read or written at a time
RECIPE = Recipe(
    model="stub@1",
    fingerprint="stub",
    dim=DIM,
    splitter=SplitterRecipe(max_tokens=256, overlap_tokens=32),
    filter_fields={"kind": "keyword", "year": "number"},
)


class StubEncoder:
    """Has the vector of every query ready."""

    fingerprint = RECIPE.fingerprint
    dim = DIM

    def __init__(self, rows: dict[str, FloatMatrix]) -> None:
        self._rows = rows  # (1, dim) by query

    def encode_queries(self, texts: Sequence[str], /) -> FloatMatrix:
        return self._rows[texts[0]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--keep", type=Path, help="folder for what is built")
    arguments = read_arguments(parser)
    report = Report(
        f"search: {arguments.documents:,} documents, {DIM} dimensions, "
        f"{arguments.queries:,} queries, depth {DEFAULT_DEPTH}, k 10",
        path=arguments.report,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        _measure(report, folder, arguments.documents, queries(arguments.queries))
    return report.exit_code()


def _measure(report: Report, folder: Path, n_documents: int, texts: Sequence[str]) -> None:
    database = open_database(sqlite_url(folder / "corpus.db"))
    corpus = Corpus(database)
    store = EdgeStore(folder / "collections")
    if corpus.head() < n_documents:
        fill(corpus, documents(n_documents))
    if COLLECTION not in store.names():
        _build(store, corpus)
    lexical = _lexical(folder / "lexical", corpus)
    query_vectors = vectors(len(texts), DIM, seed=8)
    stub = {text: query_vectors[row : row + 1] for row, text in enumerate(texts)}
    direct = Direct(folder, corpus, dict(zip(texts, query_vectors, strict=True)))

    def searcher(collection: DenseCollection) -> Searcher:
        return Searcher(
            generation=GENERATION,
            recipe=RECIPE,
            encoder=StubEncoder(stub),
            collection=collection,
            lexical=lexical,
            corpus=corpus,
        )

    with contextlib.closing(database), contextlib.closing(direct):
        with contextlib.closing(store.open(COLLECTION, RECIPE.fingerprint)) as collection:
            _compare(report, searcher(collection), direct, texts)
            _modes(report, searcher(collection), texts)
        with contextlib.closing(store.open_apart(COLLECTION, RECIPE.fingerprint)) as collection:
            _as_a_service(report, searcher(collection), direct, texts)


def _compare(report: Report, searcher: Searcher, direct: Direct, texts: Sequence[str]) -> None:
    ours_ms, direct_ms = queries_by_turns([_hybrid(searcher), direct], texts)
    p50, baseline = statistics.median(ours_ms), statistics.median(direct_ms)
    p99 = percentile(ours_ms, 0.99)
    report.figure("hybrid, p50", p50, "ms", at_most=2.0)
    report.figure("hybrid, p99", p99, "ms")
    report.figure("hybrid, p99 / p50", p99 / p50, at_most=3.0)
    report.figure("bm25s and the engine called directly, p50", baseline, "ms", note="baseline")
    report.figure("hybrid / direct, p50", p50 / baseline, at_most=1.3)
    again_ms, by_hand_ms = queries_by_turns([_hybrid(searcher), direct.by_hand], texts)
    by_hand = statistics.median(by_hand_ms)
    report.figure("the same answer by hand, p50", by_hand, "ms", note="second baseline")
    report.figure("hybrid / by hand, p50", statistics.median(again_ms) / by_hand)
    for part, part_ms in direct.parts_ms.items():
        report.figure(f"  direct: {part}, p50", statistics.median(part_ms), "ms", digits=3)
    answers = [searcher.search(SearchRequest(query=text)) for text in texts]
    for part in ("lexical", "dense", "fuse", "hydrate"):
        part_ms = [getattr(answer.took_ms, part) for answer in answers]
        report.figure(f"  hybrid: {part}, p50", statistics.median(part_ms), "ms", digits=3)


def _as_a_service(report: Report, searcher: Searcher, direct: Direct, texts: Sequence[str]) -> None:
    ours_ms, direct_ms = queries_by_turns([_hybrid(searcher), direct], texts)
    p50 = statistics.median(ours_ms)
    note = f"p99 {percentile(ours_ms, 0.99):.2f} ms"
    report.figure("hybrid, as a service asks, p50", p50, "ms", note=note)
    report.figure("hybrid, as a service asks / direct, p50", p50 / statistics.median(direct_ms))


def _modes(report: Report, searcher: Searcher, texts: Sequence[str]) -> None:
    filters = ("kind=kind-3", "year=2003", "year=2003..2014", "kind=kind-3|kind-4|kind-5")
    for name, work in (
        ("lexical only", _asking(searcher, "lexical")),
        ("dense only", _asking(searcher, "dense")),
        *(
            (f"hybrid, {text}", _asking(searcher, "hybrid", parse_filter([text])))
            for text in filters
        ),
    ):
        (taken_ms,) = queries_by_turns([work], texts)
        report.figure(
            f"{name}, p50",
            statistics.median(taken_ms),
            "ms",
            note=f"p99 {percentile(taken_ms, 0.99):.2f} ms",
        )
    taken_ms, rate = _threads(_hybrid(searcher), texts, 4)
    report.figure(
        "hybrid, 4 threads, p50",
        statistics.median(taken_ms),
        "ms",
        note=f"p99 {percentile(taken_ms, 0.99):.2f} ms, {rate:,.0f} queries/s",
    )


def _hybrid(searcher: Searcher) -> Ask:
    return _asking(searcher, "hybrid")


def _asking(searcher: Searcher, mode: Mode, where: Filter = ()) -> Ask:
    def ask(text: str) -> None:
        answer = searcher.search(SearchRequest(query=text, mode=mode, where=where))
        assert not answer.degraded

    return ask


def _threads(ask: Ask, texts: Sequence[str], n: int) -> tuple[list[float], float]:
    """Milliseconds of each query, and queries a second, of n threads at once."""
    taken_ms: list[float] = []

    def work(part: Sequence[str]) -> None:
        for text in part:
            taken_ms.append(ask_ms(ask, text))

    workers = [threading.Thread(target=work, args=(texts[first::n],)) for first in range(n)]
    began = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return taken_ms, len(texts) / (time.perf_counter() - began)


class Direct:
    """bm25s and a shard of the engine, each called as its documentation shows."""

    def __init__(self, folder: Path, corpus: Corpus, query_vectors: dict[str, Any]) -> None:
        self._analyzer = Analyzer(RECIPE.analyzer)
        self._vectors = query_vectors
        self._bm25 = bm25s.BM25(method="lucene", backend="numba")
        self._stemmer = Stemmer.Stemmer("english")
        documents = [
            change.document
            for after in range(0, corpus.head(), PAGE)
            for change in corpus.changes(after, PAGE)
            if change.document is not None
        ]
        self._doc_ids = [document.doc_id for document in documents]
        terms = [self._analyzer.terms(document.full_text) for document in documents]
        self._bm25.index(terms, show_progress=False)
        self._database = sqlite3.connect(folder / "corpus.db", check_same_thread=False)
        self._terms = {text: self._analyzer.terms(text) for text in query_vectors}
        copy = folder / "shard"  # a shard has one owner
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / "collections" / COLLECTION / "shard", copy)
        self._shard = engine.EdgeShard.load(str(copy))
        self._hnsw_ef = read_collection_file(folder / "collections" / COLLECTION).hnsw_ef
        self.parts_ms: dict[str, list[float]] = {"bm25s": [], "engine": []}

    def __call__(self, text: str) -> None:
        terms, vector = self._terms[text], self._vectors[text]
        began = time.perf_counter()
        self._bm25.retrieve([terms], k=DEFAULT_DEPTH, show_progress=False)
        middle = time.perf_counter()
        self._nearest(vector)
        self.parts_ms["bm25s"].append((middle - began) * 1e3)
        self.parts_ms["engine"].append((time.perf_counter() - middle) * 1e3)

    def by_hand(self, text: str) -> list[tuple[str, str, str, Any]]:
        """doc_id, title, beginning and metadata of the ten best by reciprocal ranks."""
        terms = bm25s.tokenize(
            [text], stopwords="en", stemmer=self._stemmer, return_ids=False, show_progress=False
        )
        rows, _ = self._bm25.retrieve(terms, k=DEFAULT_DEPTH, show_progress=False)
        lexical = [self._doc_ids[row] for row in rows[0]]
        dense = [point.payload["doc_id"] for point in self._nearest(self._vectors[text])]
        scores: dict[str, float] = {}
        for leg in (lexical, dense):
            for rank, doc_id in enumerate(leg, 1):
                scores[doc_id] = scores.get(doc_id, 0.0) + 1 / (60 + rank)
        best = sorted(scores, key=lambda doc_id: (-scores[doc_id], doc_id))[:10]
        found = self._database.execute(
            "SELECT doc_id, title, text, metadata FROM documents WHERE doc_id IN "
            f"({','.join('?' * len(best))})",
            best,
        ).fetchall()
        rank_of = {doc_id: rank for rank, doc_id in enumerate(best)}
        found.sort(key=lambda row: rank_of[row[0]])
        return [
            (doc_id, title, body[:300], json.loads(metadata))
            for doc_id, title, body, metadata in found
        ]

    def _nearest(self, vector: Any) -> Sequence[Any]:
        return self._shard.query(
            engine.QueryRequest(
                limit=DEFAULT_DEPTH,
                query=engine.Query.Nearest(vector),
                with_payload=True,
                params=engine.SearchParams(hnsw_ef=self._hnsw_ef),
            )
        )

    def close(self) -> None:
        self._shard.close()
        self._database.close()


def _build(store: EdgeStore, corpus: Corpus) -> None:
    """A document, a passage. Indexed in this process, which has nobody to answer meanwhile."""
    rows = vectors(corpus.head(), DIM)
    collection: DenseCollection = store.create(COLLECTION, RECIPE.collection_spec(GENERATION))
    for after in range(0, corpus.head(), PAGE):
        changes = corpus.changes(after, PAGE)
        points = [
            Point(
                doc_id=change.doc_id,
                number=0,
                count=1,
                seq=change.seq,
                content_hash=change.content_hash,
                text_hash="0" * 16,
                start=0,
                end=len(change.document.text),
                metadata=change.document.metadata,
            )
            for change in changes
            if change.document is not None
        ]
        collection.upsert(points, rows[after : after + len(points)])
    collection.finish()
    collection.close()


def _lexical(path: Path, corpus: Corpus) -> LexicalIndex:
    warm()
    index = LexicalIndex.open(path, AnalyzerRecipe())
    while changes := corpus.changes(index.watermark, PAGE):
        index.apply(changes)
    index.compact()
    index.save()
    return index


if __name__ == "__main__":
    sys.exit(main())
