"""The HTTP API over one process's searcher and corpus."""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

from fastapi import Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from search.answer import RunMode
from search.corpus import Corpus
from search.documents import (
    DEFAULT_SOURCE,
    Document,
    Filter,
    filter_from_json,
    parse_filter,
    validate_filter,
)
from search.errors import (
    DatabaseUnavailable,
    GenerationNotFound,
    InvalidDocument,
    InvalidQuery,
    NoLiveGeneration,
    SearchError,
    SpaceMismatch,
    StoreUnavailable,
    WrongState,
)
from search.searcher import MAX_K, Searcher, SearchRequest
from search.serving import SearcherManager
from training.errors import TrainingError

log = logging.getLogger(__name__)

Mode = Literal["hybrid", "dense", "lexical"]
MAX_RUN_QUERIES = 256
MAX_DOCUMENTS = 1_000
WAIT_VISIBLE_S = 30.0

# Which status code an error becomes; the first class that fits counts.
STATUS: tuple[tuple[type[Exception], int, str], ...] = (
    (InvalidQuery, 422, "The query cannot be answered"),
    (InvalidDocument, 422, "The document cannot be stored"),
    (GenerationNotFound, 404, "No such generation"),
    (WrongState, 409, "The state does not allow this"),
    (NoLiveGeneration, 503, "Nothing is live yet"),
    (SpaceMismatch, 503, "Encoder and collection do not match"),
    (StoreUnavailable, 503, "The store does not answer"),
    (DatabaseUnavailable, 503, "The database does not answer"),
    (SearchError, 500, "The request failed"),
    (TrainingError, 500, "The model failed"),
)


class Service(Protocol):
    """What the API needs of the process it runs in."""

    manager: SearcherManager
    corpus: Corpus
    token: str  # of this process; knows it who may read the data directory

    def wrote(self, seq: int) -> None:
        """The corpus has a new head; replay soon."""
        ...

    def wait_until_visible(self, seq: int, timeout_s: float) -> bool:
        """True when both legs of the live generation have applied the corpus up to seq."""
        ...

    def info(self) -> Mapping[str, Any]: ...

    def verify(self, generation: str) -> Mapping[str, Any]: ...


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SearchBody(_Body):
    """A query."""

    query: str
    k: int = Field(default=10, ge=1, le=MAX_K)
    mode: Mode = "hybrid"
    filter: dict[str, Any] | list[dict[str, Any]] | None = Field(
        default=None,
        description='Conditions that must all hold: {"field": value | [any, of] | {"gte": 1}}; '
        "a list of such objects where one field has several conditions",
    )
    depth: int | None = Field(default=None, ge=1, le=MAX_K)
    explain: bool = False
    generation: str | None = Field(
        default=None, description="Ask this generation, if this process has it open; else live"
    )


class RunsBody(_Body):
    """Many queries against one generation, for evaluation: ids only."""

    queries: list[str] = Field(max_length=MAX_RUN_QUERIES)
    mode: RunMode = "hybrid"
    depth: int = Field(default=100, ge=1, le=MAX_K)
    generation: str | None = None


class LegsBody(_Body):
    """Many queries against both legs of one generation, for fitting its fusion: ids and scores."""

    queries: list[str] = Field(max_length=MAX_RUN_QUERIES)
    depth: int = Field(default=100, ge=1, le=MAX_K)
    generation: str | None = None


class DocumentBody(_Body):
    """A document to put."""

    doc_id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsBody(_Body):
    """Documents to put, all or none."""

    documents: list[DocumentBody] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    source: str = DEFAULT_SOURCE


class VerifyBody(_Body):
    generation: str


def create_app(service: Service) -> FastAPI:
    """The API of one serving process."""
    app = FastAPI(
        title="reindexer",
        description="Hybrid search over exactly one generation of the corpus.",
        docs_url="/docs",
        redoc_url=None,
    )
    _map_errors(app)

    def own_token(x_reindexer_token: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(x_reindexer_token.encode(), service.token.encode()):
            raise _Forbidden

    @app.post("/search")
    def post_search(body: SearchBody) -> dict[str, Any]:
        request = SearchRequest(
            query=body.query,
            k=body.k,
            mode=body.mode,
            where=_filter(body.filter),
            depth=body.depth,
            explain=body.explain,
        )
        return _search(service, request, body.generation)

    @app.get("/search")
    def get_search(
        q: str,
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        mode: Mode = "hybrid",
        filter: Annotated[Sequence[str], Query()] = (),
        explain: bool = False,
    ) -> dict[str, Any]:
        where = parse_filter(filter)
        request = SearchRequest(query=q, k=k, mode=mode, where=where, explain=explain)
        return _search(service, request)

    @app.post("/runs", dependencies=[Depends(own_token)])
    def post_runs(body: RunsBody) -> dict[str, Any]:
        with _searcher(service, body.generation) as searcher:
            return searcher.runs(body.queries, mode=body.mode, depth=body.depth)

    @app.post("/legs", dependencies=[Depends(own_token)])
    def post_legs(body: LegsBody) -> dict[str, Any]:
        with _searcher(service, body.generation) as searcher:
            return searcher.legs(body.queries, depth=body.depth)

    @app.post("/verify", dependencies=[Depends(own_token)])
    def post_verify(body: VerifyBody) -> Mapping[str, Any]:
        return service.verify(body.generation)

    @app.put("/documents")
    def put_documents(body: DocumentsBody, wait: Literal["visible"] | None = None) -> Any:
        documents = [
            Document.of(
                doc_id=item.doc_id,
                text=item.text,
                title=item.title,
                metadata=item.metadata,
                source=body.source,
            )
            for item in body.documents
        ]
        result = service.corpus.put(documents)
        if result.refused:
            doc_id, owner = next(iter(result.refused.items()))
            raise WrongState(
                f"document {doc_id!r} belongs to source {owner!r}, not {body.source!r}; "
                f"{len(result.refused)} of {len(documents)} documents were not stored"
            )
        return _written(
            service,
            wait,
            result.head_seq,
            {
                "added": result.added,
                "changed": result.changed,
                "unchanged": result.unchanged,
            },
        )

    @app.delete("/documents/{doc_id:path}")
    def delete_document(doc_id: str, wait: Literal["visible"] | None = None) -> Any:
        result = service.corpus.delete([doc_id])
        return _written(service, wait, result.head_seq, {"deleted": result.deleted})

    @app.get("/documents/{doc_id:path}")
    def get_document(doc_id: str) -> Any:
        change = service.corpus.get_many([doc_id]).get(doc_id)
        if change is None or change.document is None:
            return problem(404, "No such document", f"no document {doc_id!r}")
        document = change.document
        return {
            "doc_id": document.doc_id,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
            "source": document.source,
            "seq": change.seq,
        }

    @app.get("/info")
    def get_info() -> Mapping[str, Any]:
        return {**service.info(), "open": [opened.name for opened in service.manager.opened()]}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> Response:
        current = service.manager.current
        if current is None:
            return problem(503, "Nothing is live yet", "no generation is open in this process")
        return JSONResponse({"status": "ready", "generation": current.name})

    return app


def _search(
    service: Service, request: SearchRequest, generation: str | None = None
) -> dict[str, Any]:
    with _searcher(service, generation) as searcher:
        return searcher.search(request).to_json()


@contextlib.contextmanager
def _searcher(service: Service, generation: str | None) -> Iterator[Searcher]:
    """The live generation's searcher, or that of another generation this process has open."""
    if generation is None:
        with service.manager.acquire() as searcher:
            yield searcher
        return
    with service.manager.acquire_named(generation) as named:
        if named is None:
            raise GenerationNotFound(f"{generation} is not open in this process")
        yield named


def _filter(value: dict[str, Any] | list[dict[str, Any]] | None) -> Filter:
    parts = value if isinstance(value, list) else [value]
    return validate_filter(tuple(item for part in parts for item in filter_from_json(part)))


def _written(service: Service, wait: str | None, seq: int, counts: dict[str, Any]) -> Any:
    service.wrote(seq)
    answer = {**counts, "seq": seq}
    if wait == "visible":
        answer["visible"] = service.wait_until_visible(seq, WAIT_VISIBLE_S)
    return answer


class _Forbidden(Exception):
    """The token of this process was not given."""


def problem(status: int, title: str, detail: str, **more: Any) -> JSONResponse:
    """RFC 9457 problem details."""
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, **more},
        status_code=status,
        media_type="application/problem+json",
    )


def _map_errors(app: FastAPI) -> None:
    @app.exception_handler(_Forbidden)
    def forbidden(_request: Request, _error: Exception) -> JSONResponse:
        return problem(
            403, "Not allowed", "this endpoint needs the token in the data directory's service.json"
        )

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        found = [
            {"where": ".".join(map(str, item["loc"])), "reason": item["msg"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['where']}: {item['reason']}" for item in found[:3])
        return problem(422, "The request is not understood", detail, errors=found)

    def known(_request: Request, error: Exception) -> JSONResponse:
        status, title = next(
            (status, title) for kind, status, title in STATUS if isinstance(error, kind)
        )
        if status >= 500:
            log.warning("%s: %s", type(error).__name__, error)
        return problem(status, title, str(error))

    for kind in (SearchError, TrainingError):
        app.add_exception_handler(kind, known)
