"""The gate's look at documents: the same in corpus and collection, each in the same version."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reindexer.check import Check
from reindexer.stored_vectors import NAMED_DOCUMENTS, content64, hash64
from search.corpus import Corpus
from search.dense import DenseCollection

CORPUS = np.dtype(
    [("doc", "u8"), ("content", "u8"), ("metadata", "u8"), ("seq", "i8"), ("deleted", "?")]
)
_SEED = 20_080_729


def read_corpus(corpus: Corpus, n_sample: int) -> tuple[NDArray[Any], list[str]]:
    """Identity of every row as fixed-size numbers, and a random sample of live doc_ids."""
    rng = random.Random(_SEED)
    sample: list[str] = []
    n_live = 0
    parts: list[NDArray[Any]] = []
    rows: list[tuple[int, int, int, int, bool]] = []
    for row in corpus.identities():
        rows.append(
            (
                hash64(row.doc_id),
                content64(row.content_hash),
                hash64(row.metadata),
                row.seq,
                row.deleted,
            )
        )
        if not row.deleted:
            n_live += 1
            if len(sample) < n_sample:
                sample.append(row.doc_id)
            elif (at := rng.randrange(n_live)) < n_sample:
                sample[at] = row.doc_id
        if len(rows) == 50_000:
            parts.append(np.array(rows, dtype=CORPUS))
            rows = []
    parts.append(np.array(rows, dtype=CORPUS))
    return np.concatenate(parts), sample


def check_documents(
    corpus: Corpus,
    collection: DenseCollection,
    documents: NDArray[Any],
    points: NDArray[Any],
    watermark: int,
) -> list[Check]:
    expected, moving = settled(documents, watermark)
    points = points[~np.isin(points["doc"], moving)]
    heads = points[points["number"] == 0]

    missing = ~np.isin(expected["doc"], heads["doc"])
    extra = ~np.isin(points["doc"], expected["doc"])
    by_doc = np.argsort(expected["doc"])
    known = expected[by_doc]
    at = np.searchsorted(known["doc"], points["doc"])
    at = np.minimum(at, max(0, len(known) - 1))
    stale = np.zeros(len(points), dtype=bool)
    if len(known):
        stale = ~extra & (
            (known["content"][at] != points["content"]) | (known["seq"][at] != points["seq"])
        )
    _, first, n_points = np.unique(points["doc"], return_index=True, return_counts=True)
    partial = points["doc"][first][n_points != points["count"][first]]

    def named(hashes: NDArray[Any]) -> str:
        return _names(corpus, collection, set(hashes[:1_000].tolist()))

    return [
        Check(
            name="documents",
            passed=not missing.any() and not extra.any(),
            found=f"{len(np.unique(heads['doc'])):,} documents, {int(missing.sum()):,} missing, "
            f"{len(np.unique(points['doc'][extra])):,} that the corpus does not have",
            expected=f"the {len(expected):,} documents of the corpus at seq {watermark}",
            detail=named(np.concatenate([expected["doc"][missing], points["doc"][extra]])),
        ),
        Check(
            name="content",
            passed=not stale.any(),
            found=f"{len(np.unique(points['doc'][stale])):,} documents in another version",
            expected="every passage made from the corpus's own version (seq and content hash)",
            detail=named(points["doc"][stale]),
        ),
        Check(
            name="passages",
            passed=not len(partial),
            found=f"{len(points):,} passages, {len(partial):,} documents without all of theirs",
            expected="all passages of every document, none twice",
            detail=named(partial),
        ),
    ]


def settled(documents: NDArray[Any], watermark: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of the documents that are there and have not changed since the watermark, and the
    documents that have: those are left out on both sides. A document that changed while the corpus
    was read may be in it twice, under its old seq and its new one."""
    moving = documents["doc"][documents["seq"] > watermark]
    settled = documents[(documents["seq"] <= watermark) & ~documents["deleted"]]
    return settled[~np.isin(settled["doc"], moving)], moving


def _names(corpus: Corpus, collection: DenseCollection, hashes: set[int]) -> str:
    if not hashes:
        return ""
    found: dict[str, None] = {}
    sources: Iterable[Iterable[str]] = (
        (row.doc_id for row in corpus.identities()),
        (point.doc_id for batch in collection.scan_points() for point in batch),
    )
    for source in sources:
        for doc_id in source:
            if hash64(doc_id) in hashes:
                found[doc_id] = None
                if len(found) == NAMED_DOCUMENTS:
                    return "such as " + ", ".join(map(repr, found))
    return "such as " + ", ".join(map(repr, found))
