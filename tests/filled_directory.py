"""A data directory with two generations, what it holds, and what it answers."""

from __future__ import annotations

import contextlib
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.journal import SYNC_LEASE
from reindexer.opening import Opener
from reindexer.sync import sync_once
from search.documents import Document
from search.searcher import SearchRequest
from search.stored_points import PointDigest
from tests.word_directory import WordDirectory

WORDS = ["river", "mountain", "bread", "window", "horse", "winter", "engine", "garden"]


def fill(directory: WordDirectory) -> WordDirectory:
    """121 documents, docs@1 standby, docs@2 live."""
    directory.corpus.put(
        [
            Document.of(doc_id=f"d{number}", text=f"{WORDS[number % 8]} {WORDS[number % 7]}")
            for number in range(120)
        ]
    )
    for model in ("word@1", "word@2"):
        directory.go_live(directory.build(model))
    directory.put("last", "the last word")
    sync(directory)
    return directory


def sync(directory: DataDirectory) -> int:
    """Replay to the head; how many passages were encoded."""
    with directory.journal.lease(SYNC_LEASE) as lease:
        return sync_once(directory, lease).encoded


def state(directory: DataDirectory) -> dict[str, Any]:
    """What there is: documents, generations, and what their collections hold."""
    found: dict[str, Any] = {
        "head": directory.corpus.head(),
        "documents": list(directory.corpus.identities()),
        "generations": {},
    }
    for generation in directory.catalog.all({"live", "standby", "ready"}):
        collection = directory.store.open(generation.collection, generation.recipe.fingerprint)
        with contextlib.closing(collection):
            digest = PointDigest()
            for points in collection.scan_points():
                digest.add(points)
        found["generations"][generation.name] = (
            generation.state,
            generation.recipe,
            generation.watermark,
            digest.value,
        )
    return found


def answers(directory: WordDirectory) -> list[list[tuple[str, float]]]:
    live = directory.catalog.live()
    assert live is not None
    opened = Opener(directory, writable=False, warm=False).open(live.name)
    with contextlib.closing(opened):
        return [
            [
                (hit.doc_id, round(hit.score, 5))
                for hit in opened.searcher.search(SearchRequest(query=word, k=5)).hits
            ]
            for word in WORDS
        ]
