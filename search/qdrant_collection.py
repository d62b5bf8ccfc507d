"""One collection of passage vectors on a Qdrant server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from qdrant_client import models

from search.dense import (
    CollectionSpec,
    DenseHit,
    FieldType,
    FloatMatrix,
    FloatVector,
    Layout,
    Point,
    TermVector,
)
from search.documents import Filter
from search.errors import StoreError, StoreUnavailable
from search.payload import (
    ACORN_BELOW,
    DOC_ID,
    EXACT_UP_TO_KB,
    HIT_FIELDS,
    INDEX_FROM_KB,
    METADATA,
    ODD,
    SEQ,
    FieldTest,
    Nearest,
    NearestDocuments,
    field_test,
    newest,
    satisfies,
    to_hit,
    to_payload,
    to_point,
    validate_points,
    validate_query,
)
from search.qdrant_calls import QdrantCalls
from search.qdrant_layout import QdrantLimits

DENSE, TERMS = "dense", "terms"  # names of the vectors, in a collection that holds both
WRITE_BYTES = 2_000_000  # vectors a request carries, about
QUERY_TIMEOUT_S = 5  # an answer from one leg now is better than one from both later
READY_LOOKS = 3  # times in a row the optimizers must look idle: they start a moment after a change


@dataclass(frozen=True, kw_only=True, slots=True)
class NearestTerms:
    """The server's answer to one request for the documents with these terms."""

    hits: list[tuple[str, float, int]]  # doc_id, score, seq; those that satisfy the filter
    lowest: float  # score of the last that the server returned
    is_all: bool  # whether there are no others, or none that it would tell of


class QdrantCollection:
    """One collection of a Qdrant server; see `search.dense.DenseCollection`."""

    def __init__(
        self,
        name: str,
        physical: str,
        spec: CollectionSpec,
        calls: QdrantCalls,
        *,
        limits: QdrantLimits,
        replicas: int = 1,
        poll_s: float,
        stall_s: float,
    ) -> None:
        self._name = name
        self._physical = physical
        self._spec = spec
        self._indexed = spec.filter_fields
        self._nearest = NearestDocuments()
        self._calls = calls
        self._limits = limits
        # What is verified, reused or copied is read from more than half of the copies: one that is
        # behind must not show a passage that another acknowledged to be gone.
        self._consistency = models.ReadConsistencyType.MAJORITY if replicas > 1 else None
        self._tells_optimizations = True  # until the server says that it knows no such thing
        self._poll_s = poll_s
        self._stall_s = stall_s

    @property
    def name(self) -> str:
        return self._name

    @property
    def spec(self) -> CollectionSpec:
        return self._spec

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        validate_points(points, vectors, self._spec, self._name)
        rows = list(newest(points).items())
        # The server compares seqs in a filter, and strict mode limits that as well.
        size = max(1, min(self._limits.points_a_write, WRITE_BYTES // (4 * self._spec.dim)))
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            self._calls.run(
                "upsert",
                collection_name=self._physical,
                points=[
                    models.PointStruct(
                        id=point_id,
                        vector=self._vectors_of(points[row], vectors[row]),
                        payload=to_payload(points[row], self._indexed),
                    )
                    for point_id, row in part
                ],
                update_filter=_not_newer({point_id: points[row].seq for point_id, row in part}),
                wait=True,
            )

    def remove_older(self, seqs: Mapping[str, int]) -> None:
        doc_ids = list(seqs)
        for start in range(0, len(doc_ids), self._limits.doc_ids_a_request):
            older: list[models.Condition] = [
                models.Filter(
                    must=[
                        models.FieldCondition(key=DOC_ID, match=models.MatchValue(value=doc_id)),
                        models.FieldCondition(key=SEQ, range=models.Range(lt=seqs[doc_id])),
                    ]
                )
                for doc_id in doc_ids[start : start + self._limits.doc_ids_a_request]
            ]
            self._calls.run(
                "delete",
                collection_name=self._physical,
                points_selector=models.FilterSelector(filter=models.Filter(should=older)),
                wait=True,
            )

    def stored(self, doc_ids: Sequence[str]) -> tuple[list[Point], FloatMatrix]:
        points: list[Point] = []
        parts: list[FloatMatrix] = [self._matrix([])]
        unique = list(dict.fromkeys(doc_ids))
        for start in range(0, len(unique), self._limits.doc_ids_a_request):
            part = unique[start : start + self._limits.doc_ids_a_request]
            where = models.Filter(
                must=[models.FieldCondition(key=DOC_ID, match=models.MatchAny(any=part))]
            )
            for page in self._pages(1_000, where, vector=True):
                points.extend(map(_to_point, page))
                parts.append(self._matrix(page))
        order = sorted(range(len(points)), key=lambda i: (points[i].doc_id, points[i].number))
        return [points[i] for i in order], np.concatenate(parts)[order]

    def search(
        self, vector: FloatVector, k: int, where: Filter = (), *, exact: bool = False
    ) -> list[DenseHit]:
        validate_query(vector, k, self._spec, self._name)
        must = self._must(where)
        exact = exact or (bool(must) and self._are_few(must))

        def fetch(limit: int, leave_out: Sequence[str], exact: bool) -> Nearest:
            asked = self._near(vector, limit, must, leave_out, exact=exact)
            (scored,) = self._ask([asked], hurry=not exact)
            return _nearest(scored, where)

        return self._nearest.search(fetch, k, exact=exact)

    def nearest_terms(self, terms: TermVector, limit: int, where: Filter = ()) -> NearestTerms:
        """The documents with the highest products of their terms and these; best first."""
        asked = self._with_terms(terms, limit, self._must(where))
        (scored,) = self._ask([asked], hurry=True)
        return self._nearest_terms(scored, limit, where)

    def search_with_terms(
        self, vector: FloatVector, k: int, terms: TermVector, limit: int, where: Filter = ()
    ) -> tuple[list[DenseHit], NearestTerms]:
        """`search` and `nearest_terms`, whose first requests go to the server as one."""
        validate_query(vector, k, self._spec, self._name)
        must = self._must(where)
        exact = bool(must) and self._are_few(must)
        found: list[NearestTerms] = []

        def fetch(passages: int, leave_out: Sequence[str], exact: bool) -> Nearest:
            asked = [self._near(vector, passages, must, leave_out, exact=exact)]
            if not found:
                asked.append(self._with_terms(terms, limit, must))
            scored, *by_terms = self._ask(asked, hurry=not exact)
            found.extend(self._nearest_terms(points, limit, where) for points in by_terms)
            return _nearest(scored, where)

        return self._nearest.search(fetch, k, exact=exact), found[0]

    def scan(self, batch: int = 1_000) -> Iterator[tuple[list[Point], FloatMatrix]]:
        for page in self._pages(batch, None, vector=True):
            yield list(map(_to_point, page)), self._matrix(page)

    def scan_points(self, batch: int = 5_000) -> Iterator[list[Point]]:
        for page in self._pages(batch, None, vector=False):
            yield list(map(_to_point, page))

    def scan_documents(self, batch: int = 5_000) -> Iterator[list[Point]]:
        """The points that have terms, one a document; without their vectors."""
        has_terms = models.Filter(must=[models.HasVectorCondition(has_vector=TERMS)])
        for page in self._pages(batch, has_terms, vector=False):
            yield list(map(_to_point, page))

    def count(self) -> int:
        return int(self._calls.run("count", collection_name=self._physical, exact=True).count)

    def indexed(self) -> float:
        info = self._info()
        points = self.count()
        with_terms = self._count_terms() if self._spec.terms else 0  # always in an index
        outside = max(0, points + with_terms - (info.indexed_vectors_count or 0))
        # Every segment may keep vectors up to the threshold outside the graph.
        tolerated = INDEX_FROM_KB * 1024 * max(1, info.segments_count)
        if outside * self._spec.dim * 4 <= tolerated:
            return 1.0
        return 1.0 - outside / points

    def layout(self) -> Layout:
        info = self._info()
        vectors = info.config.params.vectors
        if isinstance(vectors, dict) and self._spec.terms:
            vectors = vectors.get(DENSE)
        metric = vectors.distance.value if isinstance(vectors, models.VectorParams) else "several"
        return Layout(
            metric=metric.lower(),
            indexed_paths=None if self._calls.is_local else frozenset(info.payload_schema),
        )

    def finish(self) -> None:
        """Let the server build the HNSW graph and wait until its optimizers have nothing to do.

        Raises StoreUnavailable when nothing moves for `ready_stall_s`.
        """
        self.restore_indexing()
        idle, seen, moved_at = 0, None, time.monotonic()
        while True:
            info = self._info()
            self._check_optimizer(info)
            waiting = self._optimizations()
            state = (info.status, info.indexed_vectors_count, info.segments_count, waiting)
            if state != seen:
                seen, moved_at = state, time.monotonic()
            if info.status == models.CollectionStatus.GREEN and not waiting:
                idle += 1
                if idle >= READY_LOOKS:
                    return
            else:
                idle = 0
            if info.status == models.CollectionStatus.GREY:
                self.restore_indexing()  # grey waits for an update before it optimizes
            if time.monotonic() - moved_at > self._stall_s:
                raise StoreUnavailable(
                    f"waiting for the HNSW index of collection {self._physical!r}: status "
                    f"{info.status.value}, {info.indexed_vectors_count or 0:,} vectors indexed, "
                    f"nothing moved for {self._stall_s:g} s; look at the server's log and load, "
                    "then run the same command again: it goes on from here"
                )
            time.sleep(self._poll_s)

    def close(self) -> None:
        """The server keeps the collection; there is nothing to give back."""

    def restore_indexing(self) -> None:
        """End bulk-load mode, and wake an optimizer that waits for an update."""
        self._calls.run(
            "update_collection",
            collection_name=self._physical,
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=INDEX_FROM_KB),
        )

    # -- parts ---------------------------------------------------------------------------------

    def _vectors_of(self, point: Point, vector: FloatVector) -> Any:
        if not self._spec.terms:
            return vector.tolist()
        if point.terms is None:
            return {DENSE: vector.tolist()}
        numbers, weights = point.terms
        terms = models.SparseVector(indices=list(numbers), values=list(weights))
        return {DENSE: vector.tolist(), TERMS: terms}

    def _must(self, where: Filter) -> list[models.Condition]:
        return [_any_of(field_test(condition, self._indexed)) for condition in where]

    def _near(
        self,
        vector: FloatVector,
        limit: int,
        must: list[models.Condition],
        leave_out: Sequence[str],
        *,
        exact: bool,
    ) -> models.QueryRequest:
        return models.QueryRequest(
            query=vector.tolist(),
            using=DENSE if self._spec.terms else None,
            limit=min(limit, self._limits.points_a_page),
            filter=_filter(must, leave_out),
            with_payload=_fields(must),
            params=self._search_params(exact=exact, filtered=bool(must or leave_out)),
        )

    def _with_terms(
        self, terms: TermVector, limit: int, must: list[models.Condition]
    ) -> models.QueryRequest:
        return models.QueryRequest(
            query=models.SparseVector(indices=list(terms.numbers), values=list(terms.weights)),
            using=TERMS,
            limit=min(limit, self._limits.points_a_page),
            filter=_filter(must, ()),
            with_payload=_fields(must),
        )

    def _ask(
        self, asked: Sequence[models.QueryRequest], *, hurry: bool
    ) -> list[list[models.ScoredPoint]]:
        """The points of each request, best first; several go to the server as one."""
        settings: dict[str, Any] = {
            "hurry": hurry,
            "timeout": QUERY_TIMEOUT_S if hurry else None,
            "collection_name": self._physical,
        }
        if len(asked) > 1:
            answers = self._calls.run("query_batch_points", requests=list(asked), **settings)
            return [answer.points for answer in answers]
        (one,) = asked
        answer = self._calls.run(
            "query_points",
            query=one.query,
            using=one.using,
            limit=one.limit,
            query_filter=one.filter,
            with_payload=one.with_payload,
            search_params=one.params,
            **settings,
        )
        return [answer.points]

    def _nearest_terms(
        self, scored: Sequence[models.ScoredPoint], limit: int, where: Filter
    ) -> NearestTerms:
        return NearestTerms(
            hits=[
                (hit.doc_id, hit.score, hit.seq)
                for point in scored
                if not where or satisfies(point.payload, where)
                for hit in (to_hit(point.payload, point.score),)
            ],
            lowest=scored[-1].score if scored else 0.0,
            is_all=len(scored) < limit,
        )

    def _count_terms(self) -> int:
        has_terms = models.Filter(must=[models.HasVectorCondition(has_vector=TERMS)])
        found = self._calls.run(
            "count", collection_name=self._physical, count_filter=has_terms, exact=True
        )
        return int(found.count)

    def _info(self) -> models.CollectionInfo:
        info: models.CollectionInfo = self._calls.run(
            "get_collection", collection_name=self._physical
        )
        return info

    def _optimizations(self) -> int:
        """Running and queued, as newer servers tell: a green status may come before the last of
        them has begun. 0 from a server that does not tell."""
        if not self._tells_optimizations:
            return 0
        try:
            found = self._calls.run("get_optimizations", collection_name=self._physical)
        except StoreUnavailable:
            raise
        except StoreError:
            self._tells_optimizations = False
            return 0
        return len(found.running) + int(found.summary.queued_optimizations)

    def _check_optimizer(self, info: models.CollectionInfo) -> None:
        failure = getattr(info.optimizer_status, "error", None)
        if failure or info.status == models.CollectionStatus.RED:
            raise StoreError(
                f"the server cannot optimize collection {self._physical!r}: "
                f"{failure or 'its status is red'}; look at the server's log and its disk, then "
                "run the same command again"
            )

    def _pages(
        self, batch: int, where: models.Filter | None, *, vector: bool
    ) -> Iterator[list[models.Record]]:
        """Records in the order of their ids, page by page."""
        offset: Any = None
        while True:
            records, offset = self._calls.run(
                "scroll",
                collection_name=self._physical,
                scroll_filter=where,
                limit=min(batch, self._limits.points_a_page),
                offset=offset,
                with_payload=True,
                with_vectors=vector,
                consistency=self._consistency,
            )
            if records:
                yield records
            if offset is None:
                return

    def _matrix(self, records: Sequence[models.Record]) -> FloatMatrix:
        rows = [
            record.vector.get(DENSE) if isinstance(record.vector, dict) else record.vector
            for record in records
        ]
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), self._spec.dim)

    def _are_few(self, must: list[models.Condition]) -> bool:
        """By the server's estimate."""
        passing = self._calls.run(
            "count",
            hurry=True,
            timeout=QUERY_TIMEOUT_S,
            collection_name=self._physical,
            count_filter=models.Filter(must=must),
            exact=False,
        ).count
        return int(passing) * self._spec.dim * 4 <= EXACT_UP_TO_KB * 1024

    def _search_params(self, *, exact: bool, filtered: bool) -> models.SearchParams:
        return models.SearchParams(
            exact=exact and self._limits.exact,
            hnsw_ef=self._limits.hnsw_ef,
            acorn=models.AcornSearchParams(enable=True, max_selectivity=ACORN_BELOW)
            if filtered
            else None,
            quantization=models.QuantizationSearchParams(
                ignore=exact, rescore=True, oversampling=self._limits.oversampling
            )
            if self._spec.quantization != "none"
            else None,
        )


# -- the server's words ----------------------------------------------------------------------------


def _to_point(record: models.Record) -> Point:
    point = to_point(record.payload)
    stored = record.vector.get(TERMS) if isinstance(record.vector, dict) else None
    if not isinstance(stored, models.SparseVector):
        return point
    return replace(point, terms=TermVector(tuple(stored.indices), tuple(stored.values)))


def _nearest(scored: Sequence[models.ScoredPoint], where: Filter) -> Nearest:
    return Nearest(
        hits=[
            to_hit(point.payload, point.score)
            for point in scored
            if not where or satisfies(point.payload, where)
        ],
        found=len(scored),
        lowest=scored[-1].score if scored else 0.0,
    )


def _fields(must: list[models.Condition]) -> list[str]:
    return [*HIT_FIELDS, METADATA] if must else HIT_FIELDS


def _not_newer(seqs: Mapping[str, int]) -> models.Filter:
    """Which stored points may be replaced: those whose own seq is not above the coming one.

    The points of one request differ in seq, hence one clause for each seq.
    """
    ids: dict[int, list[str]] = {}
    for point_id, seq in seqs.items():
        ids.setdefault(seq, []).append(point_id)
    clauses: list[models.Condition] = [
        models.Filter(
            must=[
                models.HasIdCondition(has_id=list(of_seq)),
                models.FieldCondition(key=SEQ, range=models.Range(lte=seq)),
            ]
        )
        for seq, of_seq in ids.items()
    ]
    return models.Filter(should=clauses)


def _filter(must: list[models.Condition], leave_out: Sequence[str]) -> models.Filter | None:
    if not must and not leave_out:
        return None
    without: list[models.Condition] = [
        models.FieldCondition(key=DOC_ID, match=models.MatchAny(any=list(leave_out)))
    ]
    return models.Filter(must=must or None, must_not=without if leave_out else None)


def _any_of(test: FieldTest) -> models.Condition:
    conditions: list[models.Condition] = []

    def add(kind: FieldType, condition: models.FieldCondition) -> None:
        odd = models.FieldCondition(key=ODD, match=models.MatchValue(value=test.field))
        conditions.append(models.Filter(must=[odd, condition]) if test.is_odd(kind) else condition)

    if test.texts:
        texts = models.MatchAny(any=list(test.texts))
        add("keyword", models.FieldCondition(key=test.path, match=texts))
    for value in test.booleans:
        add("boolean", models.FieldCondition(key=test.path, match=models.MatchValue(value=value)))
    for bounds in test.ranges:
        numbers = models.Range(gt=bounds.gt, gte=bounds.gte, lt=bounds.lt, lte=bounds.lte)
        add("number", models.FieldCondition(key=test.path, range=numbers))
    return conditions[0] if len(conditions) == 1 else models.Filter(should=conditions)
