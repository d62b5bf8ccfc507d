"""The REST API of a Qdrant server over qdrant-client's own local mode: what a request does, and the
status code and JSON it is answered with.

Local mode forgets the settings of a collection and the payload indexes; they are kept here, because
the store reads them back. It searches exactly, and one thread at a time.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from qdrant_client import QdrantClient, models

Body = Any
Answer = tuple[int, Any]
Endpoint = Callable[..., Any]

_POINTS: TypeAdapter[Any] = TypeAdapter(models.PointInsertOperations)
_SELECTOR: TypeAdapter[Any] = TypeAdapter(models.PointsSelector)


class QdrantRest:
    """All collections of one server. Safe to use from several threads."""

    def __init__(self) -> None:
        self._client = QdrantClient(":memory:")
        self.version = str(self._client.info().version)
        self._lock = threading.Lock()
        self._settings: dict[str, dict[str, Any]] = {}  # of each collection, as they were sent
        self._indexes: dict[str, dict[str, Any]] = {}  # field -> schema, of each collection
        self._routes: list[tuple[str, re.Pattern[str], Endpoint]] = [
            (method, re.compile(path.replace("{}", "([^/]+)")), endpoint)
            for method, path, endpoint in (
                ("POST", "/collections/{}/points/query", self._query),
                ("PUT", "/collections/{}/points", self._upsert),
                ("POST", "/collections/{}/points/delete", self._delete),
                ("POST", "/collections/{}/points/count", self._count),
                ("POST", "/collections/{}/points/scroll", self._scroll),
                ("POST", "/collections/{}/points/query/batch", self._query_batch),
                ("POST", "/collections/{}/points", self._retrieve),
                ("GET", "/collections", self._names),
                ("GET", "/collections/{}", self._info),
                ("PUT", "/collections/{}", self._create),
                ("PATCH", "/collections/{}", self._update),
                ("DELETE", "/collections/{}", self._drop),
                ("GET", "/collections/{}/exists", self._exists),
                ("PUT", "/collections/{}/index", self._create_index),
                ("DELETE", "/collections/{}/index/{}", self._drop_index),
                ("GET", "/collections/{}/aliases", self._aliases_of),
                ("POST", "/collections/aliases", self._change_aliases),
                ("GET", "/aliases", self._aliases),
                ("GET", "/collections/{}/optimizations", self._optimizations),
                ("GET", "/collections/{}/cluster", self._cluster_of),
                ("GET", "/cluster", lambda: {"status": "disabled"}),
                ("GET", "/issues", lambda: {"issues": []}),
            )
        ]

    def answer(self, method: str, path: str, content: bytes) -> tuple[int, bytes]:
        """Status code and body."""
        began = time.perf_counter()
        if path in ("/healthz", "/livez", "/readyz"):
            return 200, b"healthz check passed"
        if path == "/":
            return 200, _json(models.VersionInfo(title="qdrant", version=self.version))
        status, result = self._result(method, path, content)
        took_s = time.perf_counter() - began
        if status != 200:
            return status, _json({"status": {"error": result}, "time": took_s})
        return status, _json({"result": result, "status": "ok", "time": took_s})

    def _result(self, method: str, path: str, content: bytes) -> Answer:
        for known, pattern, endpoint in self._routes:
            match = pattern.fullmatch(path)
            if known != method or match is None:
                continue
            arguments: list[Any] = [unquote(part) for part in match.groups()]
            try:
                if method in ("PUT", "POST", "PATCH"):
                    arguments.append(orjson.loads(content or b"{}"))
                return 200, endpoint(*arguments)
            except (ValidationError, orjson.JSONDecodeError) as error:
                return 400, f"Format error in JSON body: {error}"
            except ValueError as error:
                return _refused(str(error))
        return 404, f"no such endpoint: {method} {path}"

    # -- points --------------------------------------------------------------------------------

    def _query(self, name: str, body: Body) -> Any:
        request = models.QueryRequest.model_validate(body)
        with self._lock:
            return self._client.query_points(name, **_query_arguments(request))

    def _query_batch(self, name: str, body: Body) -> Any:
        requests = models.QueryRequestBatch.model_validate(body).searches
        with self._lock:
            return [self._client.query_points(name, **_query_arguments(one)) for one in requests]

    def _upsert(self, name: str, body: Body) -> Any:
        given = _POINTS.validate_python(body)
        points = given.batch if isinstance(given, models.PointsBatch) else given.points
        with self._lock:
            return self._client.upsert(
                name,
                points,
                update_filter=given.update_filter,
                update_mode=given.update_mode,
            )

    def _delete(self, name: str, body: Body) -> Any:
        selector = _SELECTOR.validate_python(body)
        with self._lock:
            return self._client.delete(name, selector)

    def _count(self, name: str, body: Body) -> Any:
        request = models.CountRequest.model_validate(body)
        with self._lock:
            return self._client.count(name, request.filter, exact=True)

    def _scroll(self, name: str, body: Body) -> Any:
        request = models.ScrollRequest.model_validate(body)
        with self._lock:
            points, following = self._client.scroll(
                name,
                request.filter,
                limit=request.limit or 10,
                order_by=request.order_by,
                offset=request.offset,
                with_payload=_or_yes(request.with_payload),
                with_vectors=request.with_vector or False,
            )
        return {"points": points, "next_page_offset": following}

    def _retrieve(self, name: str, body: Body) -> Any:
        request = models.PointRequest.model_validate(body)
        with self._lock:
            return self._client.retrieve(
                name,
                request.ids,
                with_payload=_or_yes(request.with_payload),
                with_vectors=request.with_vector or False,
            )

    # -- collections ---------------------------------------------------------------------------

    def _names(self) -> Any:
        with self._lock:
            return self._client.get_collections()

    def _exists(self, name: str) -> Any:
        with self._lock:
            return {"exists": self._client.collection_exists(name)}

    def _create(self, name: str, body: Body) -> Any:
        request = models.CreateCollection.model_validate(body)
        with self._lock:
            done = self._client.create_collection(
                name,
                vectors_config=request.vectors,
                sparse_vectors_config=request.sparse_vectors,
                metadata=request.metadata,
            )
            self._settings[name] = body
            self._indexes[name] = {}
        return done

    def _update(self, name: str, body: Body) -> Any:
        request = models.UpdateCollection.model_validate(body)
        with self._lock:
            name = self._physical(name)
            self._client.update_collection(name, metadata=request.metadata)
            settings = self._settings[name]
            for key, value in body.items():
                if isinstance(value, dict):
                    changed = {field: item for field, item in value.items() if item is not None}
                    settings[key] = {**(settings.get(key) or {}), **changed}
        return True

    def _drop(self, name: str) -> Any:
        with self._lock:
            self._settings.pop(name, None)
            self._indexes.pop(name, None)
            return self._client.delete_collection(name)

    def _info(self, name: str) -> Any:
        with self._lock:
            info = self._client.get_collection(name)
            name = self._physical(name)
            settings, indexes = self._settings[name], dict(self._indexes[name])
        config = info.config
        config.hnsw_config = _changed(config.hnsw_config, settings.get("hnsw_config"))
        config.optimizer_config = _changed(
            config.optimizer_config, settings.get("optimizers_config")
        )
        strict = settings.get("strict_mode_config")
        if strict is not None:
            config.strict_mode_config = models.StrictModeConfigOutput.model_validate(strict)
        value = {**dict(info), "config": dict(config)}
        value["config"]["quantization_config"] = settings.get("quantization_config")
        threshold_kb = config.optimizer_config.indexing_threshold or 0
        vectors = config.params.vectors
        if isinstance(vectors, dict):
            (vectors,) = vectors.values()  # the sparse ones are told of elsewhere
        assert isinstance(vectors, models.VectorParams)
        stored_kb = (info.points_count or 0) * vectors.size * 4 / 1024
        is_indexed = 0 < threshold_kb <= stored_kb  # 0: a bulk load, which builds no graph
        value["indexed_vectors_count"] = info.points_count if is_indexed else 0
        value["payload_schema"] = {
            field: _index_info(schema, info.points_count or 0) for field, schema in indexes.items()
        }
        return value

    def _create_index(self, name: str, body: Body) -> Any:
        request = models.CreateFieldIndex.model_validate(body)
        with self._lock:
            done = self._client.create_payload_index(name, request.field_name, request.field_schema)
            self._indexes[self._physical(name)][request.field_name] = body["field_schema"]
        return done

    def _drop_index(self, name: str, field: str) -> Any:
        with self._lock:
            self._indexes[self._physical(name)].pop(field, None)
            return self._client.delete_payload_index(name, field)

    def _optimizations(self, name: str) -> Any:
        with self._lock:
            segments = self._client.get_collection(name).segments_count
        nothing = {"queued_optimizations": 0, "queued_segments": 0, "queued_points": 0}
        return {"summary": {**nothing, "idle_segments": segments}, "running": []}

    def _cluster_of(self, name: str) -> Any:
        with self._lock:
            points = self._client.count(name).count
        shard = {"shard_id": 0, "points_count": points, "state": "Active"}
        return {
            "peer_id": 1,
            "shard_count": 1,
            "local_shards": [shard],
            "remote_shards": [],
            "shard_transfers": [],
        }

    # -- aliases -------------------------------------------------------------------------------

    def _aliases(self) -> Any:
        with self._lock:
            return self._client.get_aliases()

    def _aliases_of(self, name: str) -> Any:
        with self._lock:
            return self._client.get_collection_aliases(name)

    def _change_aliases(self, body: Body) -> Any:
        """An alias that is there already is pointed elsewhere, without a word."""
        actions = models.ChangeAliasesOperation.model_validate(body).actions
        with self._lock:
            return self._client.update_collection_aliases(actions)

    def _physical(self, name: str) -> str:
        for item in self._client.get_aliases().aliases:
            if item.alias_name == name:
                return str(item.collection_name)
        return name


def _query_arguments(request: models.QueryRequest) -> dict[str, Any]:
    return {
        "query": request.query,
        "prefetch": request.prefetch,
        "using": request.using,
        "query_filter": request.filter,
        "search_params": request.params,
        "score_threshold": request.score_threshold,
        "limit": request.limit or 10,
        "offset": request.offset,
        "with_vectors": request.with_vector or False,
        "with_payload": request.with_payload or False,
    }


def _or_yes(with_payload: Any) -> Any:
    return True if with_payload is None else with_payload


def _refused(message: str) -> Answer:
    missing = re.fullmatch(r"Collection (.+) not found", message)
    if missing:
        return 404, f"Not found: Collection `{missing[1]}` doesn't exist!"
    if message.endswith("already exists"):
        return 409, f"Wrong input: {message}!"
    return 400, f"Wrong input: {message}"


def _changed(config: BaseModel, changes: dict[str, Any] | None) -> Any:
    given = {name: value for name, value in (changes or {}).items() if value is not None}
    return config.model_copy(update=given)


def _index_info(schema: Any, points: int) -> dict[str, Any]:
    if isinstance(schema, dict):
        return {"data_type": schema["type"], "params": schema, "points": points}
    return {"data_type": schema, "points": points}


def _json(value: Any) -> bytes:
    return orjson.dumps(value, default=_fields, option=orjson.OPT_SERIALIZE_NUMPY)


def _fields(value: Any) -> Any:
    """A model without what it leaves empty; the payload of a point keeps its nulls."""
    if isinstance(value, BaseModel):
        return {name: item for name, item in value if item is not None}
    return str(value)
