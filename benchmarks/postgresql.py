"""Large writes into PostgreSQL: COPY against one upsert a row, in the same transactions.

    python -m benchmarks.postgresql [documents, 30000 by default]

Both take turns on one server, twice; the better of two counts. The claim: new documents go in at
least 1.3 times as fast. Rows that did not change are compared and not sent, so for them nothing is
claimed.
"""

from __future__ import annotations

import sys
import time

import sqlalchemy as sa

from search import corpus as corpus_module
from search.corpus import Corpus
from search.database import Database, open_database
from search.documents import Document
from tests.postgresql_server import postgresql_server

BATCH = 5_000  # rows a transaction
STRIDE = 7_919  # a prime: ids arrive in no order
WORDS = 100  # a document
NEVER = sys.maxsize


def main(n_docs: int) -> None:
    best: dict[tuple[str, str], float] = {}
    with postgresql_server() as url:
        database = open_database(url)
        copy_from_rows = corpus_module._COPY_FROM_ROWS
        for _ in range(2):
            for way, from_rows in (("upserts", NEVER), ("COPY", copy_from_rows)):
                corpus_module._COPY_FROM_ROWS = from_rows
                for kind, rate in rates(database, n_docs).items():
                    best[kind, way] = max(rate, best.get((kind, way), 0.0))
        database.close()
    print(f"{'documents/s':<12}{'upserts':>12}{'COPY':>12}{'ratio':>8}")
    for kind in ("new", "edited", "unchanged"):
        old, new = best[kind, "upserts"], best[kind, "COPY"]
        print(f"{kind:<12}{old:>12,.0f}{new:>12,.0f}{new / old:>8.2f}")
    if best["new", "COPY"] < 1.3 * best["new", "upserts"]:
        sys.exit("below the claim of 1.3 times as many new documents a second")


def rates(database: Database, n_docs: int) -> dict[str, float]:
    """Documents a second, into an empty corpus."""
    with database.write() as connection:
        connection.execute(sa.text("TRUNCATE documents"))
        connection.execute(sa.text("UPDATE corpus_head SET seq = 0"))
    corpus = Corpus(database)
    first, edited = batches(n_docs, "word "), batches(n_docs, "other ")
    result: dict[str, float] = {}
    for kind, documents in (("new", first), ("edited", edited), ("unchanged", edited)):
        began = time.perf_counter()
        for batch in documents:
            corpus.put(batch)
        result[kind] = n_docs / (time.perf_counter() - began)
    return result


def batches(n_docs: int, word: str) -> list[list[Document]]:
    return [
        [
            Document(doc_id=f"d{i * STRIDE % n_docs}", text=f"{i} {word * WORDS}")
            for i in range(start, min(start + BATCH, n_docs))
        ]
        for start in range(0, n_docs, BATCH)
    ]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30_000)
