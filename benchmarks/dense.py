"""The embedded dense collection against the engine called directly, and against comparing with
every vector.

    python -m benchmarks.dense [POINTS]

100,000 points by default, 384 dimensions, clustered as real embeddings are. Building the HNSW graph
takes most of the time (about a minute per 100,000 points on 2 idle cores).
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import qdrant_edge as engine

from search.dense import CollectionSpec, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.documents import Condition
from search.payload import HIT_FIELDS, to_payload

DIM = 384
K = 100  # what the fusion asks of each leg
QUERIES = 500


def clustered(n: int, rng: np.random.Generator, basis: FloatMatrix) -> FloatMatrix:
    rows = rng.standard_normal((n, len(basis))) @ basis + 0.3 * rng.standard_normal((n, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


def milliseconds(ask: Callable[[int], object], times: int = QUERIES) -> tuple[float, float]:
    """p50 and p99."""
    took = []
    for i in range(times):
        started = time.perf_counter()
        ask(i)
        took.append(time.perf_counter() - started)
    return float(np.percentile(took, 50) * 1e3), float(np.percentile(took, 99) * 1e3)


def main(n: int) -> None:
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((48, DIM)).astype(np.float32)
    vectors, queries = clustered(n, rng, basis), clustered(QUERIES, rng, basis)
    points = [
        Point(
            doc_id=f"doc-{i // 2}",
            number=i % 2,
            count=2,
            seq=i // 2 + 1,
            content_hash=f"{i:032x}",
            text_hash=f"{i:016x}",
            start=0,
            end=900,
            metadata={"year": 2000 + i % 20},
        )
        for i in range(n)
    ]
    spec = CollectionSpec(
        generation="docs@1", fingerprint="f", dim=DIM, filter_fields={"year": "number"}
    )
    with tempfile.TemporaryDirectory() as folder:
        collection = EdgeStore(Path(folder)).create("docs-1", spec)
        shard = collection._shard

        # The first tenth, by the engine alone, then once more through the collection.
        tenth = n // 10
        started = time.process_time()
        for start in range(0, tenth, 500):
            shard.update(
                engine.UpdateOperation.upsert_points(
                    [
                        engine.Point(
                            points[i].id, vectors[i], to_payload(points[i], spec.filter_fields)
                        )
                        for i in range(start, min(start + 500, tenth))
                    ]
                )
            )
        alone = time.process_time() - started
        started = time.process_time()
        collection.upsert(points[:tenth], vectors[:tenth])
        ours = time.process_time() - started
        print(
            f"upsert: {tenth / ours:,.0f} points per CPU second, "
            f"{ours / alone:.2f}x the engine alone"
        )
        collection.upsert(points[tenth:], vectors[tenth:])

        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                collection.upsert(points[:5_000], vectors[:5_000])

        exact = milliseconds(lambda i: collection.search(queries[i], K, exact=True), 50)
        started = time.perf_counter()
        collection.finish()
        print(f"finish: {time.perf_counter() - started:.0f} s for {n:,} points")

        def by_hand(i: int) -> object:
            return shard.query(
                engine.QueryRequest(
                    limit=K, query=engine.Query.Nearest(queries[i]), with_payload=HIT_FIELDS
                )
            )

        engine_alone = milliseconds(by_hand)
        near = milliseconds(lambda i: collection.search(queries[i], K))
        few = milliseconds(lambda i: collection.search(queries[i], 10))
        year = (Condition(field="year", any_of=(2003,)),)
        filtered = milliseconds(lambda i: collection.search(queries[i], 10, year))
        found = wanted = 0
        for query in queries[:50]:
            truth = {hit.doc_id for hit in collection.search(query, 10, exact=True)}
            found += len(truth & {hit.doc_id for hit in collection.search(query, 10)})
            wanted += len(truth)
        print(f"every vector  k={K}: p50 {exact[0]:.2f} ms, p99 {exact[1]:.2f} ms")
        print(f"engine alone  k={K}: p50 {engine_alone[0]:.2f} ms, p99 {engine_alone[1]:.2f} ms")
        print(
            f"collection    k={K}: p50 {near[0]:.2f} ms, p99 {near[1]:.2f} ms, "
            f"{near[0] / engine_alone[0]:.2f}x the engine, {exact[0] / near[0]:.0f}x less than all"
        )
        print(f"collection    k=10: p50 {few[0]:.2f} ms, p99 {few[1]:.2f} ms")
        print(f"filter of 5 % k=10: p50 {filtered[0]:.2f} ms, p99 {filtered[1]:.2f} ms")
        print(f"recall of the exact top 10: {found / wanted:.3f}")

        writer = threading.Thread(target=write)
        writer.start()
        stalled = milliseconds(lambda i: collection.search(queries[i], 10))
        stop.set()
        writer.join()
        print(f"while writing k=10: p50 {stalled[0]:.2f} ms, p99 {stalled[1]:.2f} ms")
        collection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
