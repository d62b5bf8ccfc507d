"""Whether BM25 on the Qdrant server ranks as bm25s does: the share of queries with an equal top 10.

    python -m benchmarks.lexical_kinds FOLDER [--queries 300] [--url http://127.0.0.1:6333]

FOLDER is a BEIR data set (corpus.jsonl, queries.jsonl). Without --url it is the engine inside
qdrant-client, in memory: it ranks as the server does, slowly.
"""

from __future__ import annotations

import argparse
import itertools
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from qdrant_client import QdrantClient

from search.dense import CollectionSpec, Point
from search.dense_qdrant import QdrantStore
from search.documents import Change, Document
from search.lexical import LexicalIndex
from search.lexical_qdrant import QdrantLexical
from search.recipe import AnalyzerRecipe
from search.term_weights import TermWeights, fitted_lexical

K = 10
WRITTEN_AT_ONCE = 1_000
GOAL = 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description="BM25 on the Qdrant server against bm25s")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--url")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="qdrant_client")
    documents = [
        Document.of(doc_id=row["_id"], title=row.get("title", ""), text=row["text"])
        for row in _rows(given.folder / "corpus.jsonl")
    ]
    asked = _rows(given.folder / "queries.jsonl")
    queries = [row["text"] for row in itertools.islice(asked, given.queries)]
    recipe = AnalyzerRecipe()
    index = LexicalIndex.empty(recipe)
    index.apply(
        [
            Change(seq=seq, doc_id=document.doc_id, content_hash="", document=document)
            for seq, document in enumerate(documents, 1)
        ]
    )
    index.compact()
    weights = TermWeights(recipe, fitted_lexical(recipe, documents).average_length)
    client = QdrantClient(url=given.url) if given.url else QdrantClient(":memory:")
    store = QdrantStore(client=client, prefix=f"benchmark-{uuid.uuid4().hex[:8]}-")
    spec = CollectionSpec(generation="docs@1", fingerprint="none", dim=2, terms=True)
    collection = store.create("docs-1", spec)
    try:
        for start in range(0, len(documents), WRITTEN_AT_ONCE):
            part = documents[start : start + WRITTEN_AT_ONCE]
            points = [_point(seq, one, weights) for seq, one in enumerate(part, start + 1)]
            collection.upsert(points, np.tile(np.float32([1, 0]), (len(points), 1)))
        collection.finish()
        leg = QdrantLexical(collection, weights, lambda: len(documents))
        equal = sum(_top(leg, query) == _top(index, query) for query in queries)
    finally:
        store.drop("docs-1")
    share = equal / len(queries)
    print(f"documents                  {len(documents):>8,}")
    print(f"queries                    {len(queries):>8,}")
    print(f"with an equal top {K}       {share:>8.3f}  (goal {GOAL})")


def _top(leg: Any, query: str) -> list[str]:
    return [hit.doc_id for hit in leg.search(query, K)]


def _point(seq: int, document: Document, weights: TermWeights) -> Point:
    return Point(
        doc_id=document.doc_id,
        number=0,
        count=1,
        seq=seq,
        content_hash="",
        text_hash="",
        start=0,
        end=len(document.text),
        metadata={},
        terms=weights.document(document),
    )


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            yield orjson.loads(line)


if __name__ == "__main__":
    main()
