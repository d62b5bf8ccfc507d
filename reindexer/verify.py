"""The gate: is a generation whole, in its own vector space, quick to search, and good enough?"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.corpus import Corpus
from search.dense import DenseCollection
from search.lexical import LexicalIndex
from search.recall import queries_near, share_found
from search.recipe import Recipe
from search.serving import OpenGeneration
from search.splitter import Splitter
from training.encoder import Encoder

SAMPLE_DOCUMENTS = 200  # encoded again and compared
MIN_COSINE = 0.99  # of a vector and the same passage encoded again; bf16 against fp32 gives 0.998
RECALL_QUERIES = 50
RECALL_K = 10
MIN_RECALL = 0.95  # of the ANN index against exact search
MIN_INDEXED = 0.99
NAMED_DOCUMENTS = 5  # how many culprits a message names
_SEED = 20_080_729

_CORPUS = np.dtype([("doc", "u8"), ("content", "u8"), ("seq", "i8"), ("deleted", "?")])
_POINTS = np.dtype(
    [("doc", "u8"), ("content", "u8"), ("seq", "i8"), ("number", "i4"), ("count", "i4")]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing the gate looked at."""

    name: str
    passed: bool
    found: str
    expected: str
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "passed": self.passed,
            "found": self.found,
            "expected": self.expected,
            "detail": self.detail,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """Everything the gate looked at, and the retrieval metrics where there were judgments."""

    generation: str
    checks: tuple[Check, ...]
    metrics: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        return [
            f"{check.name}: found {check.found}, expected {check.expected}"
            + (f" ({check.detail})" if check.detail else "")
            for check in self.checks
            if not check.passed
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "generation": self.generation,
            "passed": self.passed,
            "checks": [check.to_json() for check in self.checks],
            "metrics": self.metrics,
        }


def verify_structure(corpus: Corpus, opened: OpenGeneration, *, watermark: int) -> list[Check]:
    """Every check that needs no judgments. Nothing is changed.

    watermark: the generation's own; documents changed later are left out of the comparison, so
    that a generation can be checked while the corpus is written to.
    """
    recipe, collection = opened.generation.recipe, opened.collection
    checks = [_check_fingerprint(recipe, opened.encoder, collection)]
    # The corpus comes last: whatever the others have already seen of a change, it has too, under a
    # seq that tells it apart.
    points = _read_points(collection)
    lexical_watermark, lexical_rows = _read_lexical(opened.lexical)
    documents, sample = _read_corpus(corpus)
    checks += _check_documents(corpus, collection, documents, points, watermark)
    checks += _check_sample(corpus, opened, sample, watermark)
    checks.append(_check_index(collection))
    checks.append(_check_recall(collection))
    checks.append(_check_lexical(corpus, lexical_watermark, lexical_rows, documents))
    return checks


# -- one vector space --------------------------------------------------------------------------


def _check_fingerprint(recipe: Recipe, encoder: Encoder, collection: DenseCollection) -> Check:
    found = {
        "model": encoder.fingerprint,
        "collection": collection.spec.fingerprint,
    }
    wrong = [name for name, value in found.items() if value != recipe.fingerprint]
    dims = {encoder.dim, collection.spec.dim, recipe.dim}
    return Check(
        name="fingerprint",
        passed=not wrong and len(dims) == 1,
        found=", ".join(f"{name} {value[:12]}" for name, value in found.items())
        + f", {'/'.join(map(str, sorted(dims)))} dimensions",
        expected=f"{recipe.fingerprint[:12]}, {recipe.dim} dimensions",
        detail=f"of another vector space: {', '.join(wrong)}" if wrong else "",
    )


# -- the same documents in corpus and collection -------------------------------------------------


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _read_corpus(corpus: Corpus) -> tuple[NDArray[Any], list[str]]:
    """Identity of every row as fixed-size numbers, and a random sample of live doc_ids."""
    rng = random.Random(_SEED)
    sample: list[str] = []
    n_live = 0
    parts: list[NDArray[Any]] = []
    rows: list[tuple[int, int, int, bool]] = []
    for row in corpus.identities():
        rows.append(
            (_hash64(row.doc_id), int(row.content_hash[:16] or "0", 16), row.seq, row.deleted)
        )
        if not row.deleted:
            n_live += 1
            if len(sample) < SAMPLE_DOCUMENTS:
                sample.append(row.doc_id)
            elif (at := rng.randrange(n_live)) < SAMPLE_DOCUMENTS:
                sample[at] = row.doc_id
        if len(rows) == 50_000:
            parts.append(np.array(rows, dtype=_CORPUS))
            rows = []
    parts.append(np.array(rows, dtype=_CORPUS))
    return np.concatenate(parts), sample


def _read_points(collection: DenseCollection) -> NDArray[Any]:
    parts = [np.empty(0, dtype=_POINTS)]
    for batch in collection.scan_points():
        parts.append(
            np.array(
                [
                    (
                        _hash64(point.doc_id),
                        int(point.content_hash[:16] or "0", 16),
                        point.seq,
                        point.number,
                        point.count,
                    )
                    for point in batch
                ],
                dtype=_POINTS,
            )
        )
    return np.concatenate(parts)


def _check_documents(
    corpus: Corpus,
    collection: DenseCollection,
    documents: NDArray[Any],
    points: NDArray[Any],
    watermark: int,
) -> list[Check]:
    expected, moving = _settled(documents, watermark)
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


def _settled(documents: NDArray[Any], watermark: int) -> tuple[NDArray[Any], NDArray[Any]]:
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
            if _hash64(doc_id) in hashes:
                found[doc_id] = None
                if len(found) == NAMED_DOCUMENTS:
                    return "such as " + ", ".join(map(repr, found))
    return "such as " + ", ".join(map(repr, found))


# -- the same vectors when encoded again ---------------------------------------------------------


def _check_sample(
    corpus: Corpus, opened: OpenGeneration, sample: Sequence[str], watermark: int
) -> list[Check]:
    changes = {
        doc_id: change
        for doc_id, change in corpus.get_many(sample).items()
        if change.seq <= watermark
    }
    splitter = Splitter(opened.generation.recipe.splitter, opened.encoder)
    passages = [
        passage
        for change in changes.values()
        if change.document is not None
        for passage in splitter.split(change.document)
    ]
    stored, vectors = opened.collection.stored(list(changes))
    row_of = {(point.doc_id, point.number): row for row, point in enumerate(stored)}
    rows, texts, names, other_text = [], [], [], []
    for passage in passages:
        row = row_of.get((passage.doc_id, passage.number))
        if row is None or stored[row].seq != changes[passage.doc_id].seq:
            continue  # seen by the checks on passages and content, or replayed this very moment
        if stored[row].text_hash != passage.text_hash:
            other_text.append(passage.doc_id)
        rows.append(row)
        texts.append(passage.text)
        names.append(passage.doc_id)
    found = vectors[rows]
    lengths = np.linalg.norm(found, axis=1) if len(rows) else np.empty(0)
    well_formed = bool(np.isfinite(found).all()) and bool((np.abs(lengths - 1) < 1e-2).all())
    again = opened.encoder.encode_documents(texts) if texts else found
    cosine = np.einsum("ij,ij->i", found, again) if texts else np.empty(0)
    far = [names[row] for row in np.flatnonzero(~(cosine >= MIN_COSINE))]
    return [
        Check(
            name="vectors",
            passed=well_formed,
            found="finite rows of length 1" if well_formed else "rows that are not of length 1",
            expected="finite rows of length 1",
        ),
        Check(
            name="sample",
            passed=not far and not other_text,
            found=f"lowest cosine {cosine.min():.4f} over {len(texts)} passages encoded again"
            if len(texts)
            else "no documents",
            expected=f"at least {MIN_COSINE} each, made from the same text",
            detail=_such_as([*far, *other_text]),
        ),
    ]


def _such_as(doc_ids: Sequence[str]) -> str:
    unique = list(dict.fromkeys(doc_ids))[:NAMED_DOCUMENTS]
    return f"{len(doc_ids)} differ, such as " + ", ".join(map(repr, unique)) if unique else ""


# -- quick and right answers ---------------------------------------------------------------------


def _check_index(collection: DenseCollection) -> Check:
    indexed = collection.indexed()
    return Check(
        name="index",
        passed=indexed >= MIN_INDEXED,
        found=f"{indexed:.1%} of the vectors indexed",
        expected=f"at least {MIN_INDEXED:.0%}",
    )


def _check_recall(collection: DenseCollection) -> Check:
    first_page = itertools.islice(collection.scan(batch=RECALL_QUERIES), 1)
    shares = []
    for query in (row for _, stored in first_page for row in queries_near(stored, seed=_SEED)):
        exact = [hit.score for hit in collection.search(query, RECALL_K, exact=True)]
        if exact:
            found = [hit.score for hit in collection.search(query, RECALL_K)]
            shares.append(share_found(found, exact))
    recall = float(np.mean(shares)) if shares else 1.0
    return Check(
        name="recall",
        passed=recall >= MIN_RECALL,
        found=f"{recall:.3f} of the exact top {RECALL_K} over {len(shares)} queries",
        expected=f"at least {MIN_RECALL}",
    )


# -- the lexical half ----------------------------------------------------------------------------


def _read_lexical(index: LexicalIndex) -> tuple[int, NDArray[Any]]:
    """The watermark, and what the index holds then or later."""
    watermark = index.watermark
    rows = np.array(
        [
            (_hash64(doc_id), int(content_hash[:16] or "0", 16), seq, False)
            for doc_id, seq, content_hash in index.scan()
        ],
        dtype=_CORPUS,
    )
    return watermark, rows


def _check_lexical(
    corpus: Corpus, watermark: int, rows: NDArray[Any], documents: NDArray[Any]
) -> Check:
    expected, moving = _settled(documents, watermark)
    rows = rows[~np.isin(rows["doc"], moving)]
    differ = np.setxor1d(expected[["doc", "content"]], rows[["doc", "content"]])
    lag = corpus.lag(watermark)
    return Check(
        name="lexical",
        passed=not len(differ),
        found=f"{len(rows):,} documents at seq {watermark} ({lag} changes behind), "
        f"{len(np.unique(differ['doc'])):,} differ",
        expected=f"the {len(expected):,} documents of the corpus at that seq",
    )
