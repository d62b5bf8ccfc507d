"""The gate: is a generation whole, in its own vector space, quick to search, and good enough?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reindexer.check import Check, Verification
from reindexer.stored_vectors import (
    StoredVectors,
    content64,
    hash64,
    look_through,
    such_as,
    well_formed,
)
from reindexer.verify_documents import CORPUS, check_documents, read_corpus, settled
from reindexer.verify_metadata import check_metadata
from search.corpus import Corpus
from search.dense import DenseCollection, FloatMatrix
from search.payload import indexed_paths
from search.recall import queries_near, share_found
from search.recipe import Recipe
from search.serving import LexicalHalf, OpenGeneration
from search.splitter import Splitter

if TYPE_CHECKING:
    from training.version_encoder import VersionEncoder

__all__ = ["Check", "Verification", "verify_stored", "verify_structure"]

SAMPLE_DOCUMENTS = 200  # encoded again and compared
MIN_COSINE = 0.99  # of a vector and the same passage encoded again; bf16 against fp32 gives 0.998
RECALL_QUERIES = 50
RECALL_K = 10
MIN_RECALL = 0.95  # of the ANN index against exact search
MIN_INDEXED = 0.99
SCORE_TOLERANCE = 1e-3  # of a cosine, between the engine's and ours; int8 is compared again exactly
_SEED = 20_080_729


def verify_structure(
    corpus: Corpus, opened: OpenGeneration, *, watermark: int, sample: int = SAMPLE_DOCUMENTS
) -> list[Check]:
    """Every check that needs no judgments. Nothing is changed.

    watermark: the generation's own; documents changed later are left out of the comparison, so
    that a generation can be checked while the corpus is written to. sample: documents that are
    encoded again.
    """
    recipe, collection = opened.generation.recipe, opened.collection
    checks = [_check_fingerprint(recipe, opened.encoder, collection)]
    if not opened.encoder.dim == collection.spec.dim == recipe.dim:
        return checks  # nothing else can be compared
    # The corpus comes last: whatever the others have already seen of a change, it has too, under a
    # seq that tells it apart.
    stored = look_through(collection, recipe.fingerprint)
    lexical_watermark, lexical_rows = _read_lexical(opened.lexical)
    documents, doc_ids = read_corpus(corpus, sample)
    again = _encode_again(corpus, opened, doc_ids, watermark)
    checks += check_documents(corpus, collection, documents, stored.points, watermark)
    checks += [_check_shape(stored, again.fresh), _check_marks(stored), _check_sample(again)]
    checks.append(_check_filters(recipe, collection))
    checks.append(check_metadata(corpus, collection, documents, stored.points, watermark))
    checks.append(_check_index(collection))
    checks += _check_answers(collection)
    checks.append(_check_lexical(corpus, lexical_watermark, lexical_rows, documents, watermark))
    return checks


def verify_stored(
    corpus: Corpus,
    collection: DenseCollection,
    recipe: Recipe,
    *,
    watermark: int,
    on_progress: Callable[[int], None] = lambda _n: None,
) -> list[Check]:
    """The checks that need no model: every point and every vector, and nothing is encoded."""
    stored = look_through(collection, recipe.fingerprint, on_progress)
    documents, _ = read_corpus(corpus, 0)
    return [
        *check_documents(corpus, collection, documents, stored.points, watermark),
        _check_shape(stored),
        _check_marks(stored),
        _check_filters(recipe, collection),
        check_metadata(corpus, collection, documents, stored.points, watermark),
    ]


# -- one vector space --------------------------------------------------------------------------


def _check_fingerprint(
    recipe: Recipe, encoder: VersionEncoder, collection: DenseCollection
) -> Check:
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


# -- vectors of this model and these texts -----------------------------------------------------


def _check_shape(stored: StoredVectors, fresh: FloatMatrix | None = None) -> Check:
    """fresh: (n, dim) what the model gives now, if it was asked."""
    faults = [f"{stored.misshapen.count:,} rows that are not"] if stored.misshapen.count else []
    if fresh is not None and not well_formed(fresh).all():
        faults.append("the model itself gives others")
    return Check(
        name="vectors",
        passed=not faults,
        found="; ".join(faults) or "finite rows of length 1",
        expected="finite rows of length 1",
        detail=str(stored.misshapen),
    )


def _check_marks(stored: StoredVectors) -> Check:
    unfit = stored.foreign.count + stored.unmarked.count
    return Check(
        name="marks",
        passed=not unfit,
        found=f"{stored.n - unfit:,} of {stored.n:,} vectors fit their text and model"
        + (f", {stored.unmarked.count:,} have no mark" if stored.unmarked.count else ""),
        expected="all of them",
        detail=str(stored.foreign) or str(stored.unmarked),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _EncodedAgain:
    doc_ids: list[str]  # of each passage
    fresh: FloatMatrix  # (n, dim)
    cosine: NDArray[np.float32]  # (n,) with what is stored
    other_texts: list[str]  # doc_ids of passages that were made from another text


def _check_sample(again: _EncodedAgain) -> Check:
    far = [again.doc_ids[row] for row in np.flatnonzero(~(again.cosine >= MIN_COSINE))]
    differ = [*far, *again.other_texts]
    return Check(
        name="sample",
        passed=not differ,
        found=f"lowest cosine {again.cosine.min():.4f} over {len(again.cosine)} passages "
        "encoded again"
        if len(again.cosine)
        else "no documents",
        expected=f"at least {MIN_COSINE} each, made from the same text",
        detail=such_as(len(differ), differ),
        value=float(again.cosine.min()) if len(again.cosine) else None,
        at_least=MIN_COSINE,
    )


def _encode_again(
    corpus: Corpus, opened: OpenGeneration, sample: Sequence[str], watermark: int
) -> _EncodedAgain:
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
    rows, texts, doc_ids, other_texts = [], [], [], []
    for passage in passages:
        row = row_of.get((passage.doc_id, passage.number))
        if row is None or stored[row].seq != changes[passage.doc_id].seq:
            continue  # seen by the checks on passages and content, or replayed this very moment
        if (stored[row].text_hash, stored[row].count) != (passage.text_hash, passage.count):
            other_texts.append(passage.doc_id)
        rows.append(row)
        texts.append(passage.text)
        doc_ids.append(passage.doc_id)
    found = vectors[rows]
    fresh = opened.encoder.encode_documents(texts) if texts else found
    cosine = np.einsum("ij,ij->i", _normalized(found), _normalized(fresh))
    return _EncodedAgain(doc_ids=doc_ids, fresh=fresh, cosine=cosine, other_texts=other_texts)


def _normalized(vectors: FloatMatrix) -> FloatMatrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


# -- quick and right answers ---------------------------------------------------------------------


def _check_filters(recipe: Recipe, collection: DenseCollection) -> Check:
    layout = collection.layout()
    needed = indexed_paths(recipe.filter_fields)
    lost = sorted(needed - layout.indexed_paths) if layout.indexed_paths is not None else []
    return Check(
        name="filters",
        passed=not lost,
        found=f"no payload index for {', '.join(lost)}"
        if lost
        else "the store keeps no payload indexes"
        if layout.indexed_paths is None
        else f"{len(needed)} payload indexes",
        expected=f"an index for each of {', '.join(sorted(needed))}",
        detail="filters and replay would read every payload" if lost else "",
    )


def _check_index(collection: DenseCollection) -> Check:
    indexed = collection.indexed()
    return Check(
        name="index",
        passed=indexed >= MIN_INDEXED,
        found=f"{indexed:.1%} of the vectors indexed",
        expected=f"at least {MIN_INDEXED:.0%}",
        value=indexed,
        at_least=MIN_INDEXED,
    )


def _check_answers(collection: DenseCollection) -> list[Check]:
    """Search for what is there: are the scores cosines, and is the best really found?"""
    first_page = itertools.islice(collection.scan(batch=RECALL_QUERIES), 1)
    shares: list[float] = []
    off = 0.0
    for all_points, all_stored in first_page:
        rows = np.flatnonzero(well_formed(all_stored))  # others cannot be asked for
        points, stored = [all_points[row] for row in rows], all_stored[rows]
        row_of = {(point.doc_id, point.number): row for row, point in enumerate(points)}
        for query in queries_near(stored, seed=_SEED):
            exact = collection.search(query, RECALL_K, exact=True)
            if not exact:
                continue
            for hit in exact:
                if (row := row_of.get((hit.doc_id, hit.number))) is not None:
                    cosine = float(query @ stored[row] / np.linalg.norm(stored[row]))
                    off = max(off, abs(hit.score - cosine))
            found = [hit.score for hit in collection.search(query, RECALL_K)]
            shares.append(share_found(found, [hit.score for hit in exact]))
    metric = collection.layout().metric
    recall = float(np.mean(shares)) if shares else 1.0
    return [
        Check(
            name="metric",
            passed=metric == "cosine" and off <= SCORE_TOLERANCE,
            found=f"{metric}; scores differ from cosines by up to {off:.1e}",
            expected=f"cosine, scores within {SCORE_TOLERANCE}",
        ),
        Check(
            name="recall",
            passed=recall >= MIN_RECALL,
            found=f"{recall:.3f} of the exact top {RECALL_K} over {len(shares)} queries",
            expected=f"at least {MIN_RECALL}",
            value=recall,
            at_least=MIN_RECALL,
        ),
    ]


# -- the lexical half ----------------------------------------------------------------------------


def _read_lexical(index: LexicalHalf) -> tuple[int, NDArray[Any]]:
    """The watermark, and what the index holds then or later."""
    watermark = index.watermark
    rows = np.array(
        [
            (hash64(doc_id), content64(content_hash), 0, seq, False)
            for doc_id, seq, content_hash in index.scan()
        ],
        dtype=CORPUS,
    )
    return watermark, rows


def _check_lexical(
    corpus: Corpus,
    watermark: int,
    rows: NDArray[Any],
    documents: NDArray[Any],
    dense_watermark: int,
) -> Check:
    expected, moving = settled(documents, watermark)
    rows = rows[~np.isin(rows["doc"], moving)]
    differ = np.setxor1d(expected[["doc", "content"]], rows[["doc", "content"]])
    lag = corpus.lag(watermark)
    # What the other half has seen and this one has not; documents that changed since do not count.
    old = (documents["seq"] > watermark) & (documents["seq"] <= dense_watermark)
    return Check(
        name="lexical",
        passed=not len(differ) and not old.any(),
        found=f"{len(rows):,} documents at seq {watermark} ({lag} changes behind), "
        f"{len(np.unique(differ['doc'])):,} differ",
        expected=f"the {len(expected):,} documents of the corpus at that seq, and no fewer changes "
        "than the vectors have seen",
        detail=f"{int(old.sum()):,} changes behind the vectors at seq {dense_watermark}"
        if old.any()
        else "",
    )
