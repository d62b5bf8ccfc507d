"""What an installation holds, so that two of them can be compared to the last row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from reindexer.data_directory import DataDirectory
from reindexer.opening import sync_lexical
from search.dense import FloatMatrix, Point
from search.documents import metadata_json
from search.generations import Generation
from search.recipe import AnalyzerRecipe

VECTOR_TOLERANCE = 1e-5  # of a component: engines round as they bring vectors to length 1
NAMED = 3  # differing rows that a message names

Rows = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectionDigest:
    """What is stored of one generation."""

    about: tuple[Any, ...]  # state, model, fingerprint of the catalog and of the collection
    watermark: int
    points: Rows  # point id → everything that is stored with a vector
    vectors: FloatMatrix  # (n_points, dim), in the order of the point ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """Everything that must be the same whether or not anybody was killed on the way."""

    head: int
    documents: Rows  # doc_id → seq, content hash, deleted
    collections: Mapping[str, CollectionDigest]  # by generation: live, standby and ready
    lexical: Mapping[str, Rows]  # by analyzer: doc_id → seq, content hash
    models: tuple[str, ...]
    alias: str | None


def take_digest(data: DataDirectory) -> Digest:
    """Nobody may have the collections open."""
    kept = data.catalog.all({"live", "standby", "ready"})
    return Digest(
        head=data.corpus.head(),
        documents={
            row.doc_id: (row.seq, row.content_hash, row.deleted) for row in data.corpus.identities()
        },
        collections={generation.name: _of_collection(data, generation) for generation in kept},
        lexical={analyzer.id: _of_lexical(data, analyzer) for analyzer in lexical_files(kept)},
        models=tuple(f"{version} {version.fingerprint}" for version in data.registry.list()),
        alias=data.store.alias(),
    )


def _of_collection(data: DataDirectory, generation: Generation) -> CollectionDigest:
    collection = data.store.open(generation.collection, generation.recipe.fingerprint)
    try:
        points: dict[str, Any] = {}
        rows: dict[str, FloatMatrix] = {}
        for page, vectors in collection.scan():
            for point, vector in zip(page, vectors, strict=True):
                points[point.id] = (point.doc_id, point.number, *said_of(point))
                rows[point.id] = vector
        stacked = [rows[point_id] for point_id in sorted(rows)]
        return CollectionDigest(
            about=(
                generation.state,
                generation.recipe.model,
                generation.recipe.fingerprint,
                collection.spec.fingerprint,
            ),
            watermark=generation.watermark,
            points=points,
            vectors=np.array(stacked, np.float32).reshape(len(rows), generation.recipe.dim),
        )
    finally:
        collection.close()


def said_of(point: Point) -> tuple[Any, ...]:
    """Everything that is stored beside a vector, but for whose it is."""
    return (
        point.count,
        point.seq,
        point.content_hash,
        point.text_hash,
        (point.start, point.end),
        metadata_json(point.metadata),
    )


def lexical_files(generations: Iterable[Generation]) -> list[AnalyzerRecipe]:
    """What the lexical indexes on disk are for; where the terms are beside the vectors, none is."""
    recipes = [item.recipe for item in generations if item.recipe.lexical.kind == "bm25s"]
    return list({recipe.analyzer.id: recipe.analyzer for recipe in recipes}.values())


def _of_lexical(data: DataDirectory, analyzer: AnalyzerRecipe) -> Rows:
    """As the next process would see it: one that was killed may have left it behind."""
    with closing(data.open_lexical(analyzer, writable=False)) as index:
        sync_lexical(data.corpus, index)
        return {doc_id: (seq, content_hash) for doc_id, seq, content_hash in index.scan()}


def differences(found: Digest, expected: Digest) -> list[str]:
    """Both ways: what is missing, what is too much, and what is not the same."""
    result = _compared("corpus", found.documents, expected.documents)
    for analyzer in sorted(found.lexical.keys() | expected.lexical.keys()):
        there, wanted = found.lexical.get(analyzer, {}), expected.lexical.get(analyzer, {})
        result += _compared(f"lexical index {analyzer}", there, wanted)
    for what in ("head", "models", "alias"):
        result += _same(what, getattr(found, what), getattr(expected, what))
    result += _same("generations", sorted(found.collections), sorted(expected.collections))
    for name in found.collections.keys() & expected.collections.keys():
        one, other = found.collections[name], expected.collections[name]
        result += _same(f"{name}", one.about, other.about)
        result += _same(f"watermark of {name}", one.watermark, other.watermark)
        different = _compared(name, one.points, other.points)
        if not different and len(one.vectors):
            furthest = float(np.abs(one.vectors - other.vectors).max())
            if not furthest <= VECTOR_TOLERANCE:
                different = [f"{name}: a vector is off by {furthest:.1e} in one component"]
        result += different
    return result


def _same(what: str, found: Any, expected: Any) -> list[str]:
    return [] if found == expected else [f"{what}: found {found!r}, expected {expected!r}"]


def _compared(what: str, found: Rows, expected: Rows) -> list[str]:
    result = []
    for kind, keys in (
        ("missing", expected.keys() - found.keys()),
        ("not expected", found.keys() - expected.keys()),
        (
            "different",
            {key for key in found.keys() & expected.keys() if found[key] != expected[key]},
        ),
    ):
        if keys:
            named = ", ".join(
                f"{key} ({found.get(key)!r}, expected {expected.get(key)!r})"
                for key in sorted(keys)[:NAMED]
            )
            result.append(f"{what}: {len(keys):,} {kind}, such as {named}")
    return result
