"""What the lexical index adds to bm25s, and what a change costs in proportion to a rebuild.

    python benchmarks/lexical.py [--documents 100000] [--changes 50 1000 5000]

The text is made up, with word frequencies as in English (Zipf's law), so the run needs no data.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bm25s

from search.analyzer import Analyzer
from search.documents import Change, Condition, Document
from search.lexical import LexicalIndex, warm
from search.recipe import AnalyzerRecipe

RECIPE = AnalyzerRecipe(stop_words=False)
WORDS = 100_000  # in the vocabulary
MEAN_LENGTH = 60  # words a document
PAGE = 2_000  # changes applied at a time
K = 10

analyzer = Analyzer(RECIPE)
rng = np.random.default_rng(7)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--changes", type=int, nargs="*", default=[50, 1_000, 5_000])
    arguments = parser.parse_args()
    n = arguments.documents
    report("import and compile", timed(warm) * 1e3, "ms")

    documents = {f"doc-{number:07d}": text for number, text in enumerate(texts(n))}
    queries = list(texts(200, mean_length=6))
    analyze_s = timed(lambda: [analyzer.terms(text) for text in documents.values()])
    report("analyzer alone", n / analyze_s, "documents/s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lexical"
        index = LexicalIndex.open(path, RECIPE)
        rebuild_s = timed(lambda: build(index, documents))
        report("build from nothing", n / rebuild_s, f"documents/s, {rebuild_s:.2f} s")
        compare("query, compacted", index, documents, queries)
        filtered(index, queries, n)

        save_s = timed(index.save)
        megabytes = sum(file.stat().st_size for file in path.iterdir()) / 1e6
        report("save", save_s, f"s, {megabytes:,.0f} MB")
        index.close()
        opened: list[LexicalIndex] = []
        open_s = timed(lambda: opened.append(LexicalIndex.open(path, RECIPE)))
        index = opened[0]
        first_s = timed(lambda: index.search(queries[0], K))
        report("open, checksums compared", open_s, f"s; first query {first_s * 1e3:.1f} ms")

        seq = n
        for count in arguments.changes:
            batch = list(edits(documents, seq, count))
            seq += count
            start = time.perf_counter()
            index.apply(batch)
            apply_s = time.perf_counter() - start
            save_s = timed(index.save)
            report(
                f"apply {count:,} changes",
                apply_s * 1e3,
                f"ms, {apply_s / rebuild_s:.2%} of a rebuild; save {save_s * 1e3:.0f} ms",
            )
            compare(f"query, {index.pending:,} pending", index, documents, queries)
        stalls(index, queries)
        compare("query, compacted again", index, documents, queries)
        index.close()


def report(what: str, figure: float, rest: str) -> None:
    print(f"{what:<28}{figure:>12,.3f} {rest}", flush=True)


def build(index: LexicalIndex, documents: dict[str, str]) -> None:
    log = [put(seq, doc_id, text) for seq, (doc_id, text) in enumerate(documents.items(), 1)]
    for start in range(0, len(log), PAGE):
        index.apply(log[start : start + PAGE])
    index.compact()


def compare(
    what: str, index: LexicalIndex, documents: dict[str, str], queries: Sequence[str]
) -> None:
    """Time and hits against bm25s called directly, with the same analyzer, on an index built from
    scratch."""
    doc_ids = sorted(documents)
    engine = bm25s.BM25(k1=RECIPE.k1, b=RECIPE.b, method="lucene", backend="numba")
    engine.index([analyzer.terms(documents[doc_id]) for doc_id in doc_ids], show_progress=False)

    def direct(query: str) -> list[tuple[str, float]]:
        found = engine.retrieve([analyzer.terms(query)], k=K, show_progress=False)
        rows, scores = found.documents[0].tolist(), found.scores[0].tolist()
        return [(doc_ids[row], score) for row, score in zip(rows, scores, strict=True) if score > 0]

    index.search(queries[0], K)
    direct(queries[0])
    ours_s, direct_s, overlaps, differences = [], [], [], []
    for query in queries:
        start = time.perf_counter()
        hits = index.search(query, K)
        middle = time.perf_counter()
        expected = direct(query)
        end = time.perf_counter()
        ours_s.append(middle - start)
        direct_s.append(end - middle)
        # Documents that tie at the last place may stand for each other.
        last = min(score for _, score in expected) + 1e-5
        wanted = {doc_id for doc_id, score in expected}
        right = sum(hit.doc_id in wanted or abs(hit.score - last) < 2e-5 for hit in hits)
        overlaps.append(right / len(expected))
        differences += [
            abs(hit.score - score) for hit, (_, score) in zip(hits, expected, strict=True)
        ]
    p50, p99 = np.percentile(ours_s, [50, 99])
    report(
        what,
        p50 * 1e3,
        f"ms p50, {p50 / statistics.median(direct_s):.2f}x bm25s alone; p99 {p99 * 1e3:.2f} ms; "
        f"overlap@10 {statistics.mean(overlaps):.4f}; scores differ by {max(differences):.0e}",
    )


def filtered(index: LexicalIndex, queries: Sequence[str], n: int) -> None:
    where = (Condition(field="number", lt=n / 100),)
    first_s = timed(lambda: index.search(queries[0], K, where))
    p50 = statistics.median(timed(lambda q=query: index.search(q, K, where)) for query in queries)
    report("query, 1 % pass a filter", p50 * 1e3, f"ms p50; first {first_s * 1e3:.1f} ms")


def stalls(index: LexicalIndex, queries: Sequence[str]) -> None:
    """The longest that a search took while another thread compacted."""
    took_s: list[float] = []
    compacting = threading.Thread(target=lambda: took_s.append(timed(index.compact)))
    compacting.start()
    searches_s = []
    while compacting.is_alive():
        query = queries[len(searches_s) % len(queries)]
        start = time.perf_counter()
        index.search(query, K)
        searches_s.append(time.perf_counter() - start)
    compacting.join()
    report(
        "compact while searching",
        took_s[0],
        f"s; {len(searches_s):,} searches, the longest {max(searches_s) * 1e3:.1f} ms",
    )


def edits(documents: dict[str, str], seq: int, count: int) -> Iterator[Change]:
    """Inserts, deletes and edits, a third each; `documents` follows."""
    existing = list(documents)
    for number, text in enumerate(texts(count)):
        seq += 1
        doc_id = existing[int(rng.integers(len(existing)))]
        if number % 3 == 0:
            doc_id = f"new-{seq:07d}"
        elif number % 3 == 1:
            documents.pop(doc_id, None)
            yield Change(seq=seq, doc_id=doc_id, content_hash="", document=None)
            continue
        documents[doc_id] = text
        yield put(seq, doc_id, text)


def put(seq: int, doc_id: str, text: str) -> Change:
    document = Document(doc_id=doc_id, text=text, metadata={"kind": f"k{seq % 7}", "number": seq})
    return Change(seq=seq, doc_id=doc_id, content_hash=document.content_hash, document=document)


def texts(count: int, mean_length: int = MEAN_LENGTH) -> Iterator[str]:
    share = 1 / (np.arange(1, WORDS + 1) + 10)
    share /= share.sum()
    for start in range(0, count, 5_000):
        lengths = rng.integers(mean_length // 2, mean_length * 3 // 2, min(5_000, count - start))
        words = rng.choice(WORDS, int(lengths.sum()), p=share).tolist()
        at = 0
        for length in lengths.tolist():
            yield " ".join(f"word{word:x}" for word in words[at : at + length])
            at += length


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
