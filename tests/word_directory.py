"""A whole data directory with models that need no torch: `word@3` is the word encoder of seed 3."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from reindexer.journal import BUILD_LEASE
from reindexer.replay import Replay
from reindexer.selftest import word_directory as words
from reindexer.settings import Settings
from search.documents import Document
from search.splitter import Splitter
from search.term_weights import TermWeights


class WordDirectory(words.WordDirectory):
    """Everything is real but the models."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        super().__init__(Settings(data_dir=folder, **settings))

    def put(self, doc_id: str, text: str, **fields: Any) -> int:
        """The seq of the change."""
        return self.corpus.put([Document.of(doc_id=doc_id, text=text, **fields)]).head_seq

    def put_many(self, doc_ids: Iterable[str]) -> None:
        self.corpus.put([Document.of(doc_id=doc_id, text=f"all of {doc_id}") for doc_id in doc_ids])

    def build(self, model: str) -> str:
        """The name of a new generation that is in step with the corpus and ready to go live."""
        generation = self.record(model)
        name, recipe = generation.name, generation.recipe
        encoder = self.load_encoder(model)
        collection = self.store.create(generation.collection, recipe.collection_spec(name))
        head = self.corpus.head()
        with self.journal.lease(BUILD_LEASE) as lease:
            Replay(
                corpus=self.corpus,
                collection=collection,
                encoder=cast(Any, encoder),
                splitter=Splitter(recipe.splitter, encoder),
                window=64,
                weights=TermWeights.of(recipe),
                checkpoint=lambda progress: self.catalog.advance(
                    name, progress.watermark, lease=BUILD_LEASE, token=lease.token
                ),
            ).run(0, head, fresh_until=head)
        collection.close()
        for state in ("catching_up", "verifying", "ready"):
            self.catalog.move(name, state)
        self.catalog.keep_verification(name, {"passed": True})
        return name

    def go_live(self, name: str) -> None:
        """Nobody serves: the pointer alone."""
        live = self.catalog.pointers().live
        self.catalog.request_cut_over(name, live, token=1, seconds=60)
        self.catalog.cut_over(name, expected_live=live, kind="cut_over", token=1)
