"""How a Qdrant server lays a collection out, and what it lets a request ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.payload import HNSW_EF, OVERSAMPLING

POINTS_A_WRITE = 256
DOC_IDS_A_REQUEST = 256
POINTS_A_PAGE = 5_000
CONDITIONS_A_POINT = 2  # of a write that replaces nothing newer: its id and its seq


@dataclass(frozen=True, kw_only=True, slots=True)
class QdrantLayout:
    """What new collections are made with; those that are there keep theirs."""

    shards: int | None = None  # None: one a node
    replicas: int = 1  # copies of each shard
    write_consistency: int | None = None  # copies a write waits for; None: more than half
    on_disk_vectors: bool = False  # full vectors and graph; quantized ones stay in memory
    oversampling: float = OVERSAMPLING  # quantized candidates looked at again, for each hit

    @property
    def acknowledging(self) -> int:
        """Copies that have a write when it is acknowledged: with more than half of them, any two
        acknowledged writes meet in one."""
        return min(self.replicas, self.write_consistency or self.replicas // 2 + 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class QdrantLimits:
    """What strict mode leaves a request. Without strict mode: what is good for us."""

    points_a_write: int = POINTS_A_WRITE
    doc_ids_a_request: int = DOC_IDS_A_REQUEST
    points_a_page: int = POINTS_A_PAGE  # of a scroll, and hits of a query
    hnsw_ef: int = HNSW_EF
    oversampling: float = OVERSAMPLING
    exact: bool = True  # whether a search may compare with every vector

    @classmethod
    def of(cls, strict: Any, oversampling: float = OVERSAMPLING) -> QdrantLimits:
        """strict: a collection's strict mode as the server tells it; None when it has none."""
        if strict is None or not strict.enabled:
            return cls(oversampling=oversampling)
        conditions = _lowest(strict.filter_max_conditions, 2**31)
        items = _lowest(strict.condition_max_size, 2**31)  # values in one condition
        by_filter = max(1, conditions // CONDITIONS_A_POINT)
        return cls(
            points_a_write=min(_lowest(strict.upsert_max_batchsize, POINTS_A_WRITE), by_filter),
            doc_ids_a_request=min(DOC_IDS_A_REQUEST, items, by_filter),
            points_a_page=_lowest(strict.max_query_limit, POINTS_A_PAGE),
            hnsw_ef=_lowest(strict.search_max_hnsw_ef, HNSW_EF),
            oversampling=min(oversampling, strict.search_max_oversampling or oversampling),
            exact=strict.search_allow_exact is not False,
        )


def _lowest(limit: int | None, ours: int) -> int:
    return ours if limit is None else max(1, min(limit, ours))
