"""The cheapest way to a new generation: vectors that are there already, copied instead of encoded.

Quantization, the HNSW graph and the lexical half follow from the vectors and the corpus; a shorter
row of a Matryoshka model is the beginning of the longer one. So a generation that differs from the
live or the standby one in nothing else gets their vectors, and replays what has changed since.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reindexer.data_directory import DataDirectory
from reindexer.journal import BUILD_LEASE, Build, Lease
from reindexer.live import points_of
from reindexer.recipes import same_recipe
from search.corpus import Corpus
from search.dense import FloatMatrix, Point
from search.generations import Generation
from search.recipe import Recipe
from search.vector_mark import fits, vector_marks
from training.errors import TrainingError
from training.model_version import ModelVersion, fingerprint, int8_fingerprint

if TYPE_CHECKING:
    from search.term_weights import TermWeights

COPY_POINTS = 2_000  # written at a time


def copy_source(
    data: DataDirectory, recipe: Recipe, version: ModelVersion | None = None
) -> Generation | None:
    """The live or the standby generation that holds the vectors of this recipe, or longer ones that
    begin with them. None: they have to be encoded. One of this very recipe is none of these: who
    builds it again does so because what is there is damaged.

    version: of the recipe's model, where it is not in the registry.
    """
    for generation in (data.catalog.live(), data.catalog.standby()):
        if generation is None or generation.recipe.splitter != recipe.splitter:
            continue
        if same_recipe(generation.recipe, recipe):
            continue
        if generation.recipe.fingerprint == recipe.fingerprint:
            return generation
        if generation.recipe.dim > recipe.dim and _begins(data, generation.recipe, recipe, version):
            return generation
    return None


def copy_vectors(
    data: DataDirectory,
    source: Generation,
    generation: Generation,
    build: Build,
    lease: Lease,
    on_wait: Callable[[str], None] = lambda _message: None,
) -> Build:
    """Fill the collection of a generation from another's, and put it where that one stands.

    A killed copy is made again over what is there. Raises StoreError, StoreLocked, LeaseLost, and
    what on_wait raises to end it.
    """
    from search.term_weights import TermWeights  # brings the analyzer in

    # Everything up to here is copied. What changes while the copy is made has a higher seq, and is
    # replayed: that a part of it may be in the copy already does no harm.
    watermark = min(source.watermark, build.start_head)
    recipe = generation.recipe
    weights = TermWeights.of(recipe)
    passages = 0
    with (
        points_of(data, source) as pages,
        contextlib.closing(
            data.store.create(generation.collection, recipe.collection_spec(generation.name))
        ) as collection,
    ):
        for points, vectors in pages:
            lease.check()
            for start in range(0, len(points), COPY_POINTS):
                part = slice(start, start + COPY_POINTS)
                copied, rows = _as_in(recipe, source.recipe, points[part], vectors[part])
                collection.upsert(_described(copied, weights, data.corpus), rows)
            passages += len(points)
            on_wait(f"copying the vectors of {source.name}: {passages:,} passages")
    # From here on documents may be there in an older version, so replay has to look.
    data.journal.update_build(build.build_id, start_head=watermark)
    data.journal.checkpoint(
        build,
        watermark,
        lease=BUILD_LEASE,
        token=lease.token,
        docs_done=data.corpus.count(watermark),
        passages=passages,
        reused=passages,
    )
    return data.journal.build_of(generation.name)


def _begins(
    data: DataDirectory, longer: Recipe, recipe: Recipe, version: ModelVersion | None
) -> bool:
    """Whether the model differs in nothing but how much of a row it keeps."""
    if version is None:
        try:
            version = data.registry.resolve(recipe.model)
        except TrainingError:
            return False
    if version.is_remote:  # what a server makes of a wish for fewer dimensions is its own business
        return False
    whole = fingerprint(replace(version, dim=longer.dim))
    in_floats = recipe.fingerprint == version.fingerprint
    return longer.fingerprint == (whole if in_floats else int8_fingerprint(whole))


def _as_in(
    recipe: Recipe, source: Recipe, points: Sequence[Point], vectors: FloatMatrix
) -> tuple[list[Point], FloatMatrix]:
    """The points with rows of the recipe's length. A mark that did not fit is no mark afterwards:
    a new one would vouch for whatever is stored."""
    if recipe.dim == source.dim:
        return list(points), vectors
    text_hashes = [point.text_hash for point in points]
    stored = np.array([np.nan if p.mark is None else p.mark for p in points], np.float32)
    right = fits(stored, vector_marks(source.fingerprint, text_hashes, vectors)).tolist()
    rows = vectors[:, : recipe.dim]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.ascontiguousarray(rows / np.where(lengths > 0, lengths, 1), dtype=np.float32)
    marks = vector_marks(recipe.fingerprint, text_hashes, rows).tolist()
    return [
        replace(point, mark=mark if is_right else None)
        for point, mark, is_right in zip(points, marks, right, strict=True)
    ], rows


def _described(
    points: Sequence[Point], weights: TermWeights | None, corpus: Corpus
) -> Sequence[Point]:
    """With the metadata that the corpus has, and the terms as this generation counts them, so that
    nothing but vectors is taken over from the source. A document that has changed since is
    replayed, and gets them then."""
    changes = corpus.get_many(list({point.doc_id for point in points}))
    described = []
    for point in points:
        change = changes.get(point.doc_id)
        document = change.document if change is not None and change.seq == point.seq else None
        if document is not None:
            terms = weights.document(document) if weights and point.number == 0 else None
            point = replace(point, metadata=document.metadata, terms=terms)
        described.append(point)
    return described
