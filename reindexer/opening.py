"""Opens a generation with all that belongs to it: model, collection, lexical index, searcher."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from reindexer.data_directory import DataDirectory
from search.corpus import Corpus
from search.dense import DenseCollection
from search.errors import SearchError
from search.generations import Generation
from search.lexical import LexicalIndex
from search.lexical import warm as warm_lexical
from search.query_batches import QueryBatches
from search.recipe import AnalyzerRecipe
from search.searcher import Searcher
from search.serving import LexicalHalf, OpenGeneration

if TYPE_CHECKING:
    from training.version_encoder import VersionEncoder

LEXICAL_PAGE = 2_000  # changes applied at a time


class Opener:
    """Opens generations of one process; models and lexical indexes are shared between them."""

    def __init__(
        self,
        data: DataDirectory,
        *,
        writable: bool,
        wait_s: float = 5.0,
        apart: bool = False,
        warm: bool = True,
    ) -> None:
        """writable: this process holds the sync lease, so it may save lexical indexes.
        wait_s: how long to wait for an embedded collection that another process has open.
        apart: embedded collections get a process of their own, for one that answers queries.
        warm: queries are to come, and the first of them should not wait."""
        self._data = data
        self._writable = writable
        self._warm = warm
        self._wait_s = wait_s
        self._apart = apart
        # Hears how many queries were encoded together.
        self.on_query_batch: Callable[[int], None] = lambda _size: None
        self._aside = ThreadPoolExecutor(2, thread_name_prefix="open")
        self._begun: dict[str, Future[DenseCollection]] = {}
        self._lock = threading.Lock()
        self._lexical: dict[str, LexicalIndex] = {}
        self._analyzers: dict[str, AnalyzerRecipe] = {}
        self._encoders: dict[str, VersionEncoder] = {}
        self.lexical_changes = 0  # applied while opening

    def begin(self, generation: Generation) -> None:
        """Have its collection opened while this process does something else; `open` is to come."""
        self._begun[generation.collection] = self._aside.submit(
            self._data.store.open_apart,
            generation.collection,
            generation.recipe.fingerprint,
            wait_s=self._wait_s,
        )
        if self._warm and generation.recipe.lexical.kind == "bm25s":
            self._aside.submit(warm_lexical)  # while checksums are made, which need no lock

    def open(self, name: str) -> OpenGeneration:
        """Load, check that encoder and collection share one vector space, warm up if wanted.

        Raises SpaceMismatch, StoreError, ModelDamaged, ModelNotFound, GenerationNotFound.
        """
        data = self._data
        generation = data.catalog.get(name)
        encoder, collection = self._loaded(generation)
        try:
            lexical = self.half(generation, collection)
            searcher = Searcher(
                generation=generation.name,
                recipe=generation.recipe,
                encoder=QueryBatches(encoder, on_batch=self.on_query_batch),
                collection=collection,
                lexical=lexical,
                corpus=data.corpus,
            )
            if self._warm:
                if generation.recipe.lexical.kind == "bm25s":
                    warm_lexical()
                searcher.warm()
        except BaseException:
            collection.close()
            raise
        return OpenGeneration(
            generation=generation,
            encoder=encoder,
            collection=collection,
            lexical=lexical,
            searcher=searcher,
        )

    def _loaded(self, generation: Generation) -> tuple[VersionEncoder, DenseCollection]:
        """A collection in a process of its own is opened while this one loads the rest."""
        store, recipe = self._data.store, generation.recipe
        name, fingerprint = generation.collection, recipe.fingerprint
        if not self._apart:
            encoder = self.encoder(generation)
            return encoder, store.open(name, fingerprint, wait_s=self._wait_s)
        if name not in self._begun:
            self.begin(generation)
        opening = self._begun.pop(name)
        try:
            encoder = self.encoder(generation)
            if recipe.lexical.kind == "bm25s":
                self.lexical(recipe.analyzer)
        except BaseException:
            _close(opening)
            raise
        return encoder, opening.result()

    def encoder(self, generation: Generation) -> VersionEncoder:
        fingerprint = generation.recipe.fingerprint
        with self._lock:
            if fingerprint not in self._encoders:
                self._encoders[fingerprint] = self._data.encoder(generation)
            return self._encoders[fingerprint]

    def half(self, generation: Generation, collection: DenseCollection) -> LexicalHalf:
        """The lexical half of a generation whose collection is open, in step with the corpus, or
        with that collection."""
        if generation.recipe.lexical.kind == "bm25s":
            return self.lexical(generation.recipe.analyzer)
        from search.lexical_qdrant import QdrantLexical  # brings qdrant-client in
        from search.qdrant_collection import QdrantCollection
        from search.term_weights import TermWeights

        weights = TermWeights.of(generation.recipe)
        assert isinstance(collection, QdrantCollection)
        assert weights is not None
        catalog, name = self._data.catalog, generation.name
        return QdrantLexical(collection, weights, lambda: catalog.watermark(name))

    def lexical(self, analyzer: AnalyzerRecipe) -> LexicalIndex:
        """Open, and in step with the corpus as of now."""
        with self._lock:
            if analyzer.id not in self._lexical:
                index = self._data.open_lexical(analyzer, writable=self._writable)
                self.lexical_changes += sync_lexical(self._data.corpus, index)
                self._lexical[analyzer.id] = index
                self._analyzers[analyzer.id] = analyzer
            return self._lexical[analyzer.id]

    def lexicals(self) -> list[LexicalIndex]:
        with self._lock:
            return list(self._lexical.values())

    def sync_lexicals(self, until: int | None = None) -> None:
        """Bring all that are open to a seq, by default the head of the corpus; compact the ones
        that are due."""
        for index in self.lexicals():
            sync_lexical(self._data.corpus, index, until)
            if index.should_compact():
                index.compact()

    def save_lexicals(self) -> None:
        """For the process that replays: on its own disk, and where other nodes start from."""
        with self._lock:
            indexes = list(self._lexical.items())
        for analyzer_id, index in indexes:
            index.save()
            self._data.publish_lexical(self._analyzers[analyzer_id])

    def forget_encoders(self, keep: set[str]) -> None:
        """Let go of models that no open generation needs (fingerprints in keep stay)."""
        with self._lock:
            for fingerprint in set(self._encoders) - keep:
                del self._encoders[fingerprint]

    def close(self) -> None:
        while self._begun:  # and nobody came for it
            _close(self._begun.popitem()[1])
        self._aside.shutdown()
        for index in self.lexicals():
            index.close()


def _close(opening: Future[DenseCollection]) -> None:
    with contextlib.suppress(SearchError):
        opening.result().close()


def sync_lexical(corpus: Corpus, index: LexicalIndex, until: int | None = None) -> int:
    """Apply what the index has not seen, up to a seq or else to the head of the corpus; returns how
    many changes that were."""
    head, applied = corpus.head() if until is None else until, 0
    while index.watermark < head:
        changes = corpus.changes(index.watermark, LEXICAL_PAGE, until=head)
        if not changes:
            break
        index.apply(changes)
        applied += len(changes)
    return applied
