"""Search: one query, or many of them from one generation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query, Request, Response

from search import api_schema as schema
from search.access import needs
from search.answer import Answer, Mode
from search.api_limits import ApiLimits, limits_of
from search.api_openapi import problems
from search.api_schema import Depth, K, Text
from search.documents import filter_from_json, parse_filter, validate_filter
from search.errors import InvalidQuery
from search.request_ids import new_id
from search.searcher import SearchRequest
from search.service import Service
from search.threads import Threads

# More than there are cores, since queries that wait for a server, or for their turn in a batch of
# the encoder, need no core.
N_THREADS = 8


def routers(service: Service) -> tuple[APIRouter, APIRouter]:
    """POST /search and /search/batch, for `search.api_straight`; GET /search, which comes after a
    page for people."""
    dependencies = [Depends(needs(service, "search"))]
    routes = APIRouter(tags=["search"], dependencies=dependencies)
    links = APIRouter(tags=["search"], dependencies=dependencies)
    threads = Threads("search", N_THREADS)
    answers = _Answers(service)

    @routes.post(
        "/search",
        responses={200: {"model": schema.Answer}, **problems(404)},
        response_class=Response,
    )
    async def post_search(request: Request, body: schema.SearchBody) -> Response:
        """The k best documents for a query."""
        asked = _asked(body, service.limits)
        until = limits_of(request).deadline
        who = request.state.who
        return _json(await threads.run(answers.one, asked, body.generation, until, who))

    @links.get(
        "/search",
        responses={200: {"model": schema.Answer}, **problems(404)},
        response_class=Response,
    )
    async def get_search(
        request: Request,
        q: Annotated[Text, Query(description="The query", examples=["how do vaccines work"])],
        k: K = 10,
        mode: Mode = "hybrid",
        filter: Annotated[
            Sequence[str],
            Query(description="field=value, field=a|b, field>=3, field=1..5; all must hold"),
        ] = (),
        depth: Depth = None,
        explain: bool = False,
        generation: str | None = None,
    ) -> Response:
        """The same as a link."""
        _check(service.limits, q, k)
        where = parse_filter(filter)
        asked = SearchRequest(query=q, k=k, mode=mode, where=where, depth=depth, explain=explain)
        until = limits_of(request).deadline
        who = request.state.who
        return _json(await threads.run(answers.one, asked, generation, until, who))

    @routes.post(
        "/search/batch",
        responses={200: {"model": schema.Answers}, **problems(404)},
        response_class=Response,
    )
    async def post_search_batch(request: Request, body: schema.BatchBody) -> Response:
        """Many queries, encoded together and all answered from one generation."""
        check_batch(service.limits, len(body.queries), "queries")
        asked = []
        for number, item in enumerate(body.queries):
            try:
                asked.append(_asked(item, service.limits))
            except InvalidQuery as error:
                raise InvalidQuery(f"queries[{number}]: {error}") from None
        until = limits_of(request).deadline
        who = request.state.who
        return _json(await threads.run(answers.many, asked, body.generation, until, who))

    return routes, links


def check_batch(limits: ApiLimits, n_items: int, what: str) -> None:
    """Raises InvalidQuery when there are more in one request than the service takes."""
    if n_items > limits.max_batch:
        raise InvalidQuery(
            f"{n_items:,} {what} in one request, at most {limits.max_batch:,} are allowed "
            "(serve.max_batch); send several requests"
        )


@dataclass(frozen=True, slots=True)
class _Answers:
    """Answers as JSON; called in threads."""

    service: Service

    def one(
        self, asked: SearchRequest, generation: str | None, until: float | None, who: str
    ) -> bytes:
        with self.service.manager.acquire(generation) as searcher:
            answer = searcher.search(asked, until=until)
        return orjson.dumps(self._told(answer, who))

    def many(
        self, asked: Sequence[SearchRequest], generation: str | None, until: float | None, who: str
    ) -> bytes:
        began = time.perf_counter()
        with self.service.manager.acquire(generation) as searcher:
            answers = searcher.search_many(asked, until=until)
            value = {
                "generation": searcher.generation,
                "model": searcher.model,
                "took_ms": round((time.perf_counter() - began) * 1e3, 3),
                "answers": [self._told(answer, who) for answer in answers],
            }
        return orjson.dumps(value)

    def _told(self, answer: Answer, who: str) -> dict[str, Any]:
        query_id = new_id()
        self.service.telemetry.answered(answer)
        self.service.feedback.record(answer, query_id=query_id, who=who)
        return {"query_id": query_id, **answer.to_json()}


def _asked(body: schema.QueryBody, limits: ApiLimits) -> SearchRequest:
    _check(limits, body.query, body.k)
    parts: list[dict[str, Any] | None]
    parts = list(body.filter) if isinstance(body.filter, list) else [body.filter]
    return SearchRequest(
        query=body.query,
        k=body.k,
        mode=body.mode,
        where=validate_filter(tuple(item for part in parts for item in filter_from_json(part))),
        depth=body.depth,
        explain=body.explain,
    )


def _check(limits: ApiLimits, query: str, k: int) -> None:
    """What a SearchRequest allows, this service need not."""
    if len(query) > limits.max_query_chars:
        raise InvalidQuery(
            f"the query has {len(query):,} characters, this service takes "
            f"{limits.max_query_chars:,} (serve.max_query_chars)"
        )
    if k > limits.max_k:
        raise InvalidQuery(f"k is {k}, this service gives up to {limits.max_k:,} (serve.max_k)")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
