"""Collections of a Qdrant cluster: how they are made, and what strict mode leaves a request."""

from __future__ import annotations

from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from search.dense import CollectionSpec, Quantization
from search.dense_qdrant import BULK_LOAD, QdrantStore
from search.payload import HNSW_EF, INDEX_FROM_KB
from search.qdrant_layout import POINTS_A_WRITE, QdrantLayout, QdrantLimits
from tests.plain_points import points, vectors

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode performs exact:UserWarning"),
]

SPEC = CollectionSpec(generation="docs@1", fingerprint="f", dim=8)
STRICT = models.StrictModeConfigOutput(
    enabled=True,
    upsert_max_batchsize=50,
    filter_max_conditions=40,
    condition_max_size=10,
    max_query_limit=30,
    search_max_hnsw_ef=64,
    search_max_oversampling=1.5,
    search_allow_exact=False,
)


class Server(QdrantClient):
    """The engine in memory, which also remembers what it was asked and can be strict."""

    def __init__(self, strict: models.StrictModeConfigOutput | None = None) -> None:
        super().__init__(":memory:")
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._strict = strict
        self.optimizations: list[int] = []  # queued, look after look; empty: not known to it

    def create_collection(self, *_: Any, **arguments: Any) -> bool:
        self.asked.append(("create_collection", arguments))
        return super().create_collection(**arguments)

    def get_collection(self, collection_name: str, **more: Any) -> models.CollectionInfo:
        info = super().get_collection(collection_name, **more)
        info.config.strict_mode_config = self._strict
        return info

    def get_optimizations(self, *_: Any, **__: Any) -> models.OptimizationsResponse:
        self.asked.append(("get_optimizations", {}))
        if not self.optimizations:
            raise NotImplementedError
        queued = self.optimizations.pop(0) if len(self.optimizations) > 1 else 0
        return models.OptimizationsResponse(
            running=[],
            summary=models.OptimizationsSummary(
                queued_optimizations=queued, queued_segments=0, queued_points=0, idle_segments=0
            ),
        )

    def upsert(self, *_: Any, **arguments: Any) -> models.UpdateResult:
        self.asked.append(("upsert", arguments))
        return super().upsert(**arguments)

    def scroll(self, *_: Any, **arguments: Any) -> Any:
        self.asked.append(("scroll", arguments))
        return super().scroll(**arguments)

    def of(self, method: str) -> list[dict[str, Any]]:
        return [arguments for name, arguments in self.asked if name == method]


def test_a_collection_is_made_with_the_layout_of_the_settings() -> None:
    server = Server()
    layout = QdrantLayout(shards=6, replicas=3, on_disk_vectors=True)

    QdrantStore(client=server, layout=layout).create("docs-1", SPEC)

    (made,) = server.of("create_collection")
    assert (made["shard_number"], made["replication_factor"]) == (6, 3)
    assert made["write_consistency_factor"] == 2  # more than half
    assert made["vectors_config"].on_disk is True
    assert made["hnsw_config"].on_disk is True


@pytest.mark.parametrize(
    ("replicas", "wanted", "acknowledging"), [(1, None, 1), (3, None, 2), (3, 1, 1), (2, 5, 2)]
)
def test_a_write_waits_for_more_than_half_of_the_copies_unless_told(
    replicas: int, wanted: int | None, acknowledging: int
) -> None:
    layout = QdrantLayout(replicas=replicas, write_consistency=wanted)
    assert layout.acknowledging == acknowledging


@pytest.mark.parametrize(
    ("quantization", "kind"),
    [
        ("int8", models.ScalarQuantization),
        ("product", models.ProductQuantization),
        ("binary", models.BinaryQuantization),
    ],
)
def test_quantized_vectors_are_kept_in_memory(quantization: Quantization, kind: type) -> None:
    server = Server()
    spec = CollectionSpec(generation="docs@1", fingerprint="f", dim=8, quantization=quantization)

    collection = QdrantStore(client=server, layout=QdrantLayout(oversampling=3.0)).create("x", spec)

    config = server.of("create_collection")[0]["quantization_config"]
    assert isinstance(config, kind)
    assert "always_ram=True" in repr(config)
    collection.upsert(points(20), vectors(20, SPEC.dim))
    assert collection.search(vectors(20, SPEC.dim)[3], 1)[0].doc_id == "d3"


def test_strict_mode_is_read_and_no_request_goes_beyond_it() -> None:
    server = Server(STRICT)
    collection = QdrantStore(client=server).create("docs-1", SPEC)

    collection.upsert(points(120), vectors(120, SPEC.dim))
    collection.remove_older({f"d{number}": 2 for number in range(60)})
    stored, _ = collection.stored([f"d{number}" for number in range(60)])

    assert max(len(asked["points"]) for asked in server.of("upsert")) == 20  # 40 conditions
    assert {asked["limit"] for asked in server.of("scroll")} == {30}
    assert all(len(_doc_ids(asked)) <= 10 for asked in server.of("scroll"))
    assert len(stored) == 59  # d0 was older
    hits = collection.search(
        vectors(120, SPEC.dim)[7], 5, exact=True
    )  # as exactly as it is allowed
    assert hits[0].doc_id == "d7"


def _doc_ids(scroll: dict[str, Any]) -> list[str]:
    return list(scroll["scroll_filter"].must[0].match.any)


def test_without_strict_mode_requests_are_as_large_as_is_good() -> None:
    assert QdrantLimits.of(None).points_a_write == POINTS_A_WRITE
    off = models.StrictModeConfigOutput(enabled=False, upsert_max_batchsize=1)
    assert QdrantLimits.of(off) == QdrantLimits.of(None)
    assert QdrantLimits.of(STRICT).hnsw_ef == 64 < HNSW_EF


def test_finish_waits_for_queued_optimizations_although_the_status_is_green() -> None:
    server = Server()
    collection = QdrantStore(client=server, ready_poll_s=0.0).create("docs-1", SPEC)
    server.optimizations = [2, 1, 1, 0, 0]

    collection.finish()

    assert server.optimizations == [0]  # every look was taken


def test_a_server_that_does_not_tell_its_optimizations_is_asked_once() -> None:
    server = Server()
    collection = QdrantStore(client=server, ready_poll_s=0.0).create("docs-1", SPEC)

    collection.finish()

    assert len(server.of("get_optimizations")) == 1


def test_bulk_load_mode_ends_with_the_build_and_also_after_its_death() -> None:
    server = Server()
    changes: list[int] = []
    update = server.update_collection

    def remember(*_: Any, **arguments: Any) -> bool:
        changes.append(arguments["optimizers_config"].indexing_threshold)
        return update(**arguments)

    server.update_collection = remember  # type: ignore[method-assign]
    store = QdrantStore(client=server, ready_poll_s=0.0)
    store.create("docs-1", SPEC)
    made = server.of("create_collection")[0]["optimizers_config"]
    assert made.indexing_threshold == BULK_LOAD

    store.create("docs-1", SPEC)  # by an actor, or by the next run: it stays in bulk-load mode
    assert changes == []
    store.create("docs-1", SPEC).finish()
    assert changes == [INDEX_FROM_KB]


@pytest.mark.parametrize(
    ("replicas", "consistency"), [(1, None), (3, models.ReadConsistencyType.MAJORITY)]
)
def test_what_is_verified_is_read_from_more_than_half_of_the_copies(
    replicas: int, consistency: models.ReadConsistencyType | None
) -> None:
    """One copy may be behind when the switch is decided on."""
    server = Server()
    collection = QdrantStore(client=server, layout=QdrantLayout(replicas=replicas)).create(
        "d", SPEC
    )
    list(collection.scan())
    collection.stored(["d1"])
    assert [asked["consistency"] for asked in server.of("scroll")] == [consistency] * 2
