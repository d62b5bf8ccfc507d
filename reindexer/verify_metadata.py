"""The gate's look at metadata: filters read what lies beside each vector, so it must be what the
corpus has."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reindexer.check import Check
from reindexer.stored_vectors import hash64, such_as
from reindexer.verify_documents import settled
from search.corpus import Corpus
from search.dense import DenseCollection
from search.documents import Value

READ_AGAIN = 500  # documents at a time
ENOUGH = 1_000  # documents that are known to differ; then the others are not read again
# The embedded engine gives a float64 of more than 15 digits back off by up to two units in its last
# place, and once more after each copy.
FLOAT_TOLERANCE = 1e-12  # relative


def check_metadata(
    corpus: Corpus,
    collection: DenseCollection,
    documents: NDArray[Any],
    points: NDArray[Any],
    watermark: int,
) -> Check:
    """Every point against the document that it was made from; one of another version is not looked
    at, since that is the fault.

    Hashes decide, so equal ones cost nothing. Where they differ both sides are read again: it may
    be a float that the engine rounded.
    """
    expected, _ = settled(documents, watermark)
    known = expected[np.argsort(expected["doc"])]
    suspects: set[int] = set()
    if len(known):
        at = np.minimum(np.searchsorted(known["doc"], points["doc"]), len(known) - 1)
        same = (known["doc"][at] == points["doc"]) & (known["seq"][at] == points["seq"])
        suspects = set(points["doc"][same & (known["metadata"][at] != points["metadata"])].tolist())
    differ = _read_again(corpus, collection, suspects) if suspects else []
    return Check(
        name="metadata",
        passed=not differ,
        found=f"{'at least ' if len(differ) >= ENOUGH else ''}{len(differ):,} documents with "
        "other metadata",
        expected="beside every vector the metadata of its document, which filters read",
        detail=such_as(len(differ), differ),
    )


def _read_again(corpus: Corpus, collection: DenseCollection, suspects: set[int]) -> list[str]:
    """Those that really differ, up to ENOUGH of them."""
    doc_ids = [row.doc_id for row in corpus.identities() if hash64(row.doc_id) in suspects]
    differ: dict[str, None] = {}
    for start in range(0, len(doc_ids), READ_AGAIN):
        part = doc_ids[start : start + READ_AGAIN]
        points, _ = collection.stored(part)
        changes = corpus.get_many(part)
        for point in points:
            change = changes.get(point.doc_id)
            if change is None or change.document is None or change.seq != point.seq:
                continue  # changed this very moment
            if not same_metadata(point.metadata, change.document.metadata):
                differ[point.doc_id] = None
        if len(differ) >= ENOUGH:
            break
    return list(differ)


def same_metadata(found: Mapping[str, Value], expected: Mapping[str, Value]) -> bool:
    """Whether a filter sees the same in both, but for how an engine rounds floats."""
    return found.keys() == expected.keys() and all(
        _same(value, expected[name]) for name, value in found.items()
    )


def _same(one: Value, other: Value) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=FLOAT_TOLERANCE, abs_tol=sys.float_info.min)
    return one == other and isinstance(one, bool) == isinstance(other, bool)
