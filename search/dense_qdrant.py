"""Dense collections on a Qdrant server or cluster, through qdrant-client.

The server's name of a collection is the store's prefix and the collection's own name. Its spec lies
in the collection's metadata (Qdrant ≥ 1.16).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

from qdrant_client import QdrantClient, models

from search.dense import CollectionSpec, FieldType, Metric
from search.errors import CollectionDamaged, CollectionMissing, StoreError
from search.payload import (
    DOC_ID,
    INDEX_FROM_KB,
    ODD,
    SEQ,
    check_fingerprint,
    check_same_spec,
    field_path,
)
from search.qdrant_calls import QdrantCalls
from search.qdrant_collection import DENSE, TERMS, QdrantCollection
from search.qdrant_layout import QdrantLayout, QdrantLimits

SPEC = "reindexer"  # key of the spec in the collection's metadata
REST_PORT, GRPC_PORT = 6333, 6334  # a server's own choice
MIN_SERVER = (1, 16)  # collection metadata, conditional upserts, ACORN
BULK_LOAD = 0  # indexing threshold of a collection that is being filled: build no HNSW graph

_INDEX_TYPES: dict[FieldType, models.PayloadSchemaType] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "number": models.PayloadSchemaType.FLOAT,
    "boolean": models.PayloadSchemaType.BOOL,
}


class QdrantStore:
    """Collections of a Qdrant server; see `search.dense.DenseStore`."""

    shared = True
    metric: Metric = "cosine"

    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        client: QdrantClient | None = None,
        prefix: str = "",
        alias: str = "docs-live",
        layout: QdrantLayout | None = None,
        grpc: Literal["auto", "on", "off"] = "auto",
        grpc_port: int = GRPC_PORT,
        timeout_s: int = 60,
        patience_s: float = 0.0,
        on_wait: Callable[[str], None] = lambda _reason: None,
        ready_poll_s: float = 0.5,
        ready_stall_s: float = 600.0,
    ) -> None:
        """url: of the server's REST port. client: used as it is and left open, url and api_key are
        then not read. prefix: put before every collection's name and the alias, so that several
        installations can share a server. layout: of the collections that it makes. grpc: auto uses
        gRPC, which is quicker, when the REST port is the usual one; else the server at grpc_port
        may be another one. patience_s, on_wait: see `QdrantCalls`. Nothing is sent yet.
        """
        self._owns_client = client is None
        self._client = client or QdrantClient(
            url=url,
            api_key=api_key,
            grpc_port=grpc_port,
            prefer_grpc=grpc == "on" or (grpc == "auto" and _has_usual_port(url)),
            timeout=timeout_s,
            check_compatibility=False,  # a request and a warning; _check_version does better
        )
        self._calls = QdrantCalls(
            self._client,
            url or "the given client",
            api_key,
            patience_s=patience_s,
            on_wait=on_wait,
        )
        self._prefix = prefix
        self._layout = layout or QdrantLayout()
        self._alias = prefix + alias
        self._poll_s = ready_poll_s
        self._stall_s = ready_stall_s
        self._version_checked = False

    def create(self, name: str, spec: CollectionSpec) -> QdrantCollection:
        self._check_version()
        if not self._exists(name):
            self._create(name, spec)
        collection, info = self._opened(name)
        check_same_spec(collection.spec, spec, name)
        for path, schema in _payload_indexes(spec).items():
            if path not in info.payload_schema:  # all of them, or those a killed process left out
                self._calls.run(
                    "create_payload_index",
                    collection_name=self._physical(name),
                    field_name=path,
                    field_schema=schema,
                    wait=True,
                )
        return collection

    def create_apart(self, name: str, spec: CollectionSpec) -> QdrantCollection:
        """A server is a process of its own already."""
        return self.create(name, spec)

    def open_apart(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> QdrantCollection:
        """A server is a process of its own already."""
        return self.open(name, fingerprint, wait_s=wait_s)

    def open(self, name: str, fingerprint: str, *, wait_s: float = 5.0) -> QdrantCollection:
        """Also ends bulk-load mode if a crash left the collection in it. wait_s is for embedded
        collections: a server has no owner to wait for."""
        del wait_s
        self._check_version()
        collection, info = self._opened(name)
        check_fingerprint(collection.spec, fingerprint, name)
        if info.config.optimizer_config.indexing_threshold == BULK_LOAD:
            collection.restore_indexing()
        return collection

    def names(self) -> list[str]:
        found = self._calls.run("get_collections").collections
        return sorted(
            item.name.removeprefix(self._prefix)
            for item in found
            if item.name.startswith(self._prefix)
        )

    def drop(self, name: str) -> None:
        """Raises StoreError when an alias points at it: the server would drop the alias as well."""
        if not self._exists(name):
            return
        physical = self._physical(name)
        aliases = self._calls.run("get_collection_aliases", collection_name=physical).aliases
        if aliases:
            raise StoreError(
                f"collection {physical!r} is what the alias {aliases[0].alias_name!r} points at; "
                "it is not dropped. Run `reindexer sync` to move the alias to the live generation"
            )
        self._calls.run("delete_collection", collection_name=physical)

    def alias(self) -> str | None:
        for item in self._calls.run("get_aliases").aliases:
            if item.alias_name == self._alias:
                return str(item.collection_name).removeprefix(self._prefix)
        return None

    def set_alias(self, name: str) -> None:
        if not self._exists(name):
            raise self._missing(name)
        create = models.CreateAliasOperation(
            create_alias=models.CreateAlias(
                collection_name=self._physical(name), alias_name=self._alias
            )
        )
        delete = models.DeleteAliasOperation(
            delete_alias=models.DeleteAlias(alias_name=self._alias)
        )
        self._calls.run(  # one request: nobody sees the alias missing
            "update_collection_aliases",
            change_aliases_operations=[delete, create] if self.alias() else [create],
        )

    def clear_alias(self) -> None:
        if self.alias() is not None:
            delete = models.DeleteAlias(alias_name=self._alias)
            self._calls.run(
                "update_collection_aliases",
                change_aliases_operations=[models.DeleteAliasOperation(delete_alias=delete)],
            )

    def version(self) -> str:
        version = str(self._calls.run("info").version)
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < MIN_SERVER:
            raise StoreError(
                f"the Qdrant server at {self._calls.where} is version {version}; "
                f"{MIN_SERVER[0]}.{MIN_SERVER[1]} or newer is needed (collection metadata and "
                "conditional upserts): update the server"
            )
        return version

    def disk_bytes(self, name: str) -> int | None:
        """The server does not tell."""
        del name
        return None

    def close(self) -> None:
        if self._owns_client:
            self._client.close()

    # -- parts ---------------------------------------------------------------------------------

    def _physical(self, name: str) -> str:
        return self._prefix + name

    def _exists(self, name: str) -> bool:
        """A collection of that name; the server's own `exists` says yes to an alias as well."""
        physical = self._physical(name)
        return any(item.name == physical for item in self._calls.run("get_collections").collections)

    def _missing(self, name: str) -> CollectionMissing:
        return CollectionMissing(
            f"collection {self._physical(name)!r} is not at {self._calls.where}; run `reindexer "
            "doctor` to see what is there, or build the generation again with `reindexer upgrade "
            "MODEL --anew`"
        )

    def _opened(self, name: str) -> tuple[QdrantCollection, models.CollectionInfo]:
        if not self._exists(name):
            raise self._missing(name)
        physical = self._physical(name)
        info: models.CollectionInfo = self._calls.run("get_collection", collection_name=physical)
        stored: Any = (info.config.metadata or {}).get(SPEC)
        try:
            spec = CollectionSpec.from_json(stored)
        except TypeError as error:
            raise CollectionDamaged(
                f"collection {physical!r} at {self._calls.where} does not say which encoder its "
                f"vectors are from ({SPEC!r} in its metadata is {stored!r}): reindexer did not "
                "make it; set another store.prefix"
            ) from error
        collection = QdrantCollection(
            name,
            physical,
            spec,
            self._calls,
            limits=QdrantLimits.of(info.config.strict_mode_config, self._layout.oversampling),
            replicas=info.config.params.replication_factor or self._layout.replicas,
            poll_s=self._poll_s,
            stall_s=self._stall_s,
        )
        return collection, info

    def _create(self, name: str, spec: CollectionSpec) -> None:
        vectors = models.VectorParams(
            size=spec.dim,
            distance=models.Distance(self.metric.capitalize()),
            on_disk=self._layout.on_disk_vectors or None,
        )
        self._calls.run(
            "create_collection",
            collection_name=self._physical(name),
            vectors_config={DENSE: vectors} if spec.terms else vectors,
            sparse_vectors_config={TERMS: _terms_config(self._layout)} if spec.terms else None,
            shard_number=self._layout.shards,
            replication_factor=self._layout.replicas,
            write_consistency_factor=self._layout.acknowledging,
            hnsw_config=models.HnswConfigDiff(
                m=spec.hnsw_m,
                ef_construct=spec.hnsw_ef_construct,
                full_scan_threshold=INDEX_FROM_KB,
                on_disk=self._layout.on_disk_vectors or None,
            ),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=BULK_LOAD),
            quantization_config=_quantization(spec),
            metadata={SPEC: spec.to_json()},
        )

    def _check_version(self) -> None:
        """Once a store. An older server takes what it does not know and ignores it, silently."""
        if self._version_checked:
            return
        self.version()
        self._version_checked = True


def _has_usual_port(url: str | None) -> bool:
    return (urlsplit(url or "").port or REST_PORT) == REST_PORT


def _terms_config(layout: QdrantLayout) -> models.SparseVectorParams:
    return models.SparseVectorParams(
        modifier=models.Modifier.IDF,
        index=models.SparseIndexParams(on_disk=layout.on_disk_vectors or None),
    )


def _quantization(spec: CollectionSpec) -> models.QuantizationConfig | None:
    """In memory, also where the full vectors are on disk."""
    match spec.quantization:
        case "int8":
            return models.ScalarQuantization(
                scalar=models.ScalarQuantizationConfig(
                    type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                )
            )
        case "product":
            return models.ProductQuantization(
                product=models.ProductQuantizationConfig(
                    compression=models.CompressionRatio.X16, always_ram=True
                )
            )
        case "binary":
            return models.BinaryQuantization(
                binary=models.BinaryQuantizationConfig(always_ram=True)
            )
    return None


def _payload_indexes(spec: CollectionSpec) -> dict[str, Any]:
    """enable_hnsw adds links among the points of each value, which only a filter can use."""
    return {
        DOC_ID: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, enable_hnsw=False),
        SEQ: models.IntegerIndexParams(
            type=models.IntegerIndexType.INTEGER, lookup=False, range=True, enable_hnsw=False
        ),
        ODD: models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, enable_hnsw=False),
    } | {field_path(field): _INDEX_TYPES[kind] for field, kind in spec.filter_fields.items()}
