"""What evaluation, fitting and verification ask of a generation that is open here."""

from __future__ import annotations

import orjson
from fastapi import APIRouter, Depends, Response

from search import api_schema as schema
from search.access import needs
from search.api_limits import unhurried
from search.api_openapi import problems
from search.errors import InvalidQuery
from search.service import Service
from search.threads import Threads

N_THREADS = 2  # evaluations are long; queries have threads of their own
MAX_QUERIES = 256  # of one request: what is asked for next has to wait for it


def router(service: Service) -> APIRouter:
    """POST /runs, /legs and /verify: without a deadline, and for operators alone."""
    routes = APIRouter(
        tags=["operations"],
        dependencies=[Depends(needs(service, "operate")), Depends(unhurried)],
        default_response_class=Response,
    )
    threads = Threads("evaluation", N_THREADS)

    @routes.post("/runs", responses={200: {"model": schema.Runs}, **problems(404)})
    async def post_runs(body: schema.RunsBody) -> Response:
        """The ids that many queries find."""
        _check(body.queries)

        def work() -> bytes:
            with service.manager.acquire(body.generation) as searcher:
                return orjson.dumps(searcher.runs(body.queries, mode=body.mode, depth=body.depth))

        return _json(await threads.run(work))

    @routes.post("/legs", responses={200: {"model": schema.Legs}, **problems(404)})
    async def post_legs(body: schema.LegsBody) -> Response:
        """The ids and scores that many queries find in each leg."""
        _check(body.queries)

        def work() -> bytes:
            with service.manager.acquire(body.generation) as searcher:
                return orjson.dumps(searcher.legs(body.queries, depth=body.depth))

        return _json(await threads.run(work))

    @routes.post("/verify", responses={200: {"model": schema.Verification}, **problems(404, 409)})
    async def post_verify(body: schema.VerifyBody) -> Response:
        """The structural checks of a generation: counts, digests, vectors."""
        return _json(orjson.dumps(await threads.run(service.verify, body.generation)))

    return routes


def _check(queries: list[str]) -> None:
    if len(queries) > MAX_QUERIES:
        raise InvalidQuery(f"{len(queries)} queries, at most {MAX_QUERIES} are allowed at once")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")
