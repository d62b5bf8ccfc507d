"""Streaming ingest of small documents into SQLite, against a plain executemany of the same rows.

    python -m benchmarks.ingest [documents, 200000 by default]

The baseline inserts rows that are lists in memory already into one table with the same columns and
indexes, in transactions of the same size and with the same durability: no parsing, no validation,
no hash, no comparison, no duplicate check. The claim: at least 20,000 documents a second, in
constant memory.
"""

from __future__ import annotations

import resource
import sqlite3
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import orjson

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from reindexer.ingest import ingest
from reindexer.sources import open_source
from search.corpus import Corpus
from search.database import open_database, sqlite_url

BATCH = 5_000  # rows a transaction
STRIDE = 7_919  # a prime: ids arrive in no order

SCHEMA = """
CREATE TABLE documents (doc_id TEXT PRIMARY KEY, seq BIGINT NOT NULL, source TEXT NOT NULL,
    deleted BOOLEAN NOT NULL, content_hash TEXT NOT NULL, title TEXT NOT NULL,
    metadata TEXT NOT NULL, text TEXT NOT NULL);
CREATE UNIQUE INDEX documents_seq ON documents (seq, deleted);
CREATE INDEX documents_source ON documents (source, doc_id);
"""


def main(n_docs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "documents.jsonl"
        write_documents(path, n_docs)
        plain_s = plain_insert(folder / "plain.db", path)

        database = open_database(sqlite_url(folder / "corpus.db"))
        corpus = Corpus(database)
        before = peak_mib()
        first = ingest(corpus, open_source(path))
        grown = peak_mib() - before
        again = ingest(corpus, open_source(path))
        database.close()

    rate = n_docs / first.seconds
    print(f"documents            {n_docs:>12,}")
    print(f"plain executemany    {n_docs / plain_s:>12,.0f} docs/s   (baseline)")
    print(f"ingest, all new      {rate:>12,.0f} docs/s   {plain_s / first.seconds:.2f} of baseline")
    print(f"ingest, none changed {n_docs / again.seconds:>12,.0f} docs/s")
    print(f"memory grown by      {grown:>12,.0f} MiB")
    assert (first.added, again.unchanged) == (n_docs, n_docs)
    if rate < 20_000:
        sys.exit("below the claim of 20,000 documents a second")


def write_documents(path: Path, n_docs: int) -> None:
    with path.open("wb") as file:
        for i in range(n_docs):
            document = {
                "_id": f"doc-{i * STRIDE % 10_000_019}",
                "title": f"Note {i}",
                "text": f"Note number {i} holds a hundred characters or so, about as much as the "
                "title and the first line of a ticket.",
                "year": 2000 + i % 25,
                "kind": "note",
            }
            file.write(orjson.dumps(document) + b"\n")


def plain_insert(database: Path, path: Path) -> float:
    """Seconds for the inserts alone."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -65536")  # KiB
    connection.executescript(SCHEMA)
    seconds = 0.0
    seq = 0
    with path.open("rb") as file:
        while lines := list(islice(file, BATCH)):
            rows = []
            for line in lines:
                seq += 1
                value = orjson.loads(line)
                metadata = orjson.dumps({"kind": value["kind"], "year": value["year"]}).decode()
                head = (value["_id"], seq, "default", False, f"{seq:032x}")
                rows.append((*head, value["title"], metadata, value["text"]))
            started = time.perf_counter()
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("INSERT INTO documents VALUES (?,?,?,?,?,?,?,?)", rows)
            connection.execute("COMMIT")
            seconds += time.perf_counter() - started
    connection.close()
    return seconds


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
