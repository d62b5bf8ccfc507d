"""The data directory: opens corpus, catalog, journal, stores and models as the settings say."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from reindexer.journal import Journal
from reindexer.settings import Settings
from search.corpus import Corpus
from search.database import open_database
from search.dense import DenseStore
from search.disk_room import keep_spare
from search.errors import LexicalDamaged, SpaceMismatch
from search.generations import Catalog, Generation
from search.recipe import AnalyzerRecipe
from training.errors import HostRefused, ModelChanged, TransferFailed
from training.model_version import ModelVersion
from training.outgoing import allow_only
from training.registry import ModelRegistry
from training.remote_ref import RemoteAccess

if TYPE_CHECKING:
    from search.lexical import LexicalIndex
    from search.lexical_publishing import PublishedIndex
    from training.version_encoder import VersionEncoder

log = logging.getLogger(__name__)


class DataDirectory:
    """Everything one installation consists of. Parts are opened when they are first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._on_store_wait: Callable[[str], None] | None = None
        self.path = settings.data_dir
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.database = open_database(
            settings.sql_url,
            pool_size=settings.database_pool_size,
            statement_timeout_s=settings.database_statement_timeout_s,
        )
        self.corpus = Corpus(self.database)
        self.catalog = Catalog(self.database)
        self.journal = Journal(self.database)
        self.registry = ModelRegistry(self.path / "models")
        keep_spare(self.path)

    def wait_for_store(self, on_wait: Callable[[str], None]) -> None:
        """From its first use on, wait up to `store.patience_s` for a server that does not answer
        instead of giving up at once. on_wait: told why, every half second; raises to end the wait.
        """
        self._on_store_wait = on_wait

    @cached_property
    def store(self) -> DenseStore:
        if self.settings.store_kind == "qdrant":
            from search.dense_qdrant import QdrantStore
            from search.qdrant_layout import QdrantLayout

            return QdrantStore(
                url=self.settings.store_url,
                api_key=self.settings.store_api_key,
                prefix=self.settings.store_prefix,
                layout=QdrantLayout(
                    shards=self.settings.store_shards,
                    replicas=self.settings.store_replicas,
                    write_consistency=self.settings.store_write_consistency,
                    on_disk_vectors=self.settings.store_on_disk_vectors,
                    oversampling=self.settings.store_oversampling,
                ),
                grpc=self.settings.store_grpc,
                grpc_port=self.settings.store_grpc_port,
                patience_s=self.settings.store_patience_s if self._on_store_wait else 0.0,
                on_wait=self._on_store_wait or (lambda _reason: None),
            )
        from search.dense_edge import EdgeStore

        return EdgeStore(self.path / "collections")

    def encoder(self, generation: Generation) -> VersionEncoder:
        """The generation's own model version, in integers where the generation is, whatever the
        settings say now. Raises what load_encoder raises."""
        recipe, dtype = generation.recipe, self.settings.dtype
        version = self.registry.resolve(recipe.model)
        if recipe.fingerprint != version.fingerprint_in(dtype):
            dtype = "int8" if version.is_int8(recipe.fingerprint) else "auto"
        return self._open_encoder(version, dtype)

    def load_encoder(self, model: str) -> VersionEncoder:
        """Raises SpaceMismatch when a remote model is not the one that was registered."""
        return self._open_encoder(self.registry.resolve(model), self.settings.dtype)

    def _open_encoder(self, version: ModelVersion, dtype: str) -> VersionEncoder:
        from training.encoder_opening import open_encoder

        try:
            return open_encoder(version, **{**self.encoder_options(), "dtype": dtype})
        except ModelChanged as error:
            raise SpaceMismatch(str(error)) from error

    def encoder_options(self) -> dict[str, Any]:
        """What the settings say about encoders, as keyword arguments of open_encoder."""
        return {
            "device": self.settings.device,
            "dtype": self.settings.dtype,
            "max_batch_tokens": self.settings.max_batch_tokens,
            "cache_dir": self.path / "cache",
            "remote": self.remote_access(),
        }

    def remote_access(self) -> RemoteAccess:
        """How models are asked that are loaded elsewhere."""
        return RemoteAccess(
            api_key=self.settings.encoder_api_key,
            url=self.settings.encoder_url,
            timeout_s=self.settings.encoder_timeout_s,
            concurrency=self.settings.encoder_concurrency,
        )

    def lexical_path(self, analyzer: AnalyzerRecipe) -> Path:
        return self.path / "lexical" / analyzer.id

    def open_lexical(self, analyzer: AnalyzerRecipe, *, writable: bool) -> LexicalIndex:
        """The lexical index that this analyzer's generations share. A damaged one is set aside and
        starts empty, so that replay rebuilds it from the corpus."""
        from search.lexical import LexicalIndex

        path = self.lexical_path(analyzer)
        self._fetch_lexical(analyzer)
        try:
            return LexicalIndex.open(path, analyzer, writable=writable)
        except LexicalDamaged as error:
            log.warning("%s; it is rebuilt from the corpus now", error)
            if writable:
                LexicalIndex.discard(path)
                return LexicalIndex.open(path, analyzer, writable=True)
            return LexicalIndex.empty(analyzer)

    def publish_lexical(self, analyzer: AnalyzerRecipe) -> None:
        """What was saved, for other search nodes to start from; a place that cannot be reached now
        is tried again after the next save."""
        try:
            published = self._published_lexical(analyzer.id)
            if published is not None and published.publish(self.lexical_path(analyzer)):
                log.info("the lexical index %s was published", analyzer.id)
        except (TransferFailed, HostRefused, LexicalDamaged) as error:
            log.warning("the lexical index was not published: %s", error)

    def unpublish_lexicals(self, analyzer_ids: Iterable[str]) -> None:
        """They are of another corpus in a moment: these, and those of all generations. Raises
        TransferFailed."""
        known = {generation.recipe.analyzer.id for generation in self.catalog.all()}
        for analyzer_id in sorted(known.union(analyzer_ids)):
            published = self._published_lexical(analyzer_id)
            if published is not None:
                published.remove()

    def _fetch_lexical(self, analyzer: AnalyzerRecipe) -> None:
        try:
            published = self._published_lexical(analyzer.id)
            path = self.lexical_path(analyzer)
            if published is not None and published.fetch_newer(path, until=self.corpus.head()):
                log.info("the lexical index %s was fetched", analyzer.id)
        except (TransferFailed, HostRefused) as error:
            log.warning("%s; the lexical index comes from the corpus instead", error)

    def _published_lexical(self, analyzer_id: str) -> PublishedIndex | None:
        if self.settings.lexical_publish_url is None:
            return None
        from search.analyzer import ANALYZER_VERSION
        from search.lexical_publishing import PublishedIndex
        from training.remote_folder import RemoteFolder

        url = self.settings.lexical_publish_url.rstrip("/")
        return PublishedIndex(RemoteFolder(f"{url}/{analyzer_id}-{ANALYZER_VERSION}"))

    def free_disk_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        if "store" in self.__dict__:
            self.store.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_data_directory(settings: Settings) -> DataDirectory:
    """Open (and make, or migrate) the data directory the settings name."""
    os.umask(os.umask(0) | 0o077)  # what we write is readable by the user alone
    allow_only(settings.reachable)
    return DataDirectory(settings)
