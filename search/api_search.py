"""Questions to the generations this process has open."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from search.answer import RunMode
from search.api_problem import Forbidden, problem
from search.documents import Filter, filter_from_json, parse_filter, validate_filter
from search.errors import GenerationNotFound
from search.searcher import MAX_K, Searcher, SearchRequest
from search.service import Service

Mode = Literal["hybrid", "dense", "lexical"]
MAX_RUN_QUERIES = 256


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


class VerifyBody(_Body):
    generation: str


def router(service: Service) -> APIRouter:
    """Search, and what evaluation asks."""
    routes = APIRouter()

    def own_token(x_reindexer_token: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(x_reindexer_token.encode(), service.token.encode()):
            raise Forbidden

    @routes.post("/search")
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

    @routes.get("/search")
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

    @routes.post("/runs", dependencies=[Depends(own_token)])
    def post_runs(body: RunsBody) -> dict[str, Any]:
        with _searcher(service, body.generation) as searcher:
            return searcher.runs(body.queries, mode=body.mode, depth=body.depth)

    @routes.post("/legs", dependencies=[Depends(own_token)])
    def post_legs(body: LegsBody) -> dict[str, Any]:
        with _searcher(service, body.generation) as searcher:
            return searcher.legs(body.queries, depth=body.depth)

    @routes.post("/verify", dependencies=[Depends(own_token)])
    def post_verify(body: VerifyBody) -> Mapping[str, Any]:
        return service.verify(body.generation)

    @routes.get("/info")
    def get_info() -> Mapping[str, Any]:
        return {**service.info(), "open": [opened.name for opened in service.manager.opened()]}

    @routes.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @routes.get("/readyz")
    def readyz() -> Response:
        current = service.manager.current
        if current is None:
            return problem(503, "Nothing is live yet", "no generation is open in this process")
        return JSONResponse({"status": "ready", "generation": current.name})

    return routes


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
