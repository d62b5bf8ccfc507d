"""What this process is, whether it lives, and whether it should get queries."""

from __future__ import annotations

import asyncio

import orjson
from fastapi import APIRouter, Depends, Response

from search import api_schema as schema
from search.access import needs
from search.api_openapi import problems
from search.errors import NotReady
from search.service import Service
from search.threads import Threads

N_THREADS = 2
PROBE_S = 2.0  # a part that has not answered by then does not answer


def router(service: Service) -> APIRouter:
    """GET /info, /healthz and /readyz."""
    routes = APIRouter(tags=["service"], default_response_class=Response)
    threads = Threads("health", N_THREADS)

    @routes.get(
        "/info",
        dependencies=[Depends(needs(service, "search"))],
        responses={200: {"model": schema.Info}},
    )
    async def get_info() -> Response:
        """The exact model version, its fingerprint, the generation and how far it has come."""
        found = await threads.run(service.info)
        names = [opened.name for opened in service.manager.opened()]
        return _json({**found, "open": names})

    @routes.get("/healthz", responses={200: {"model": schema.Alive}})
    async def healthz() -> Response:
        """Whether the process runs at all; asks nothing of anybody."""
        return _json({"status": "alive"})

    @routes.get("/readyz", responses={200: {"model": schema.Ready}, **problems(503)})
    async def readyz() -> Response:
        """Whether queries should be sent here; if not, why."""
        current = service.manager.current
        if service.drain.begun:
            raise NotReady("this process is on its way out")
        if current is None:
            raise NotReady("no generation is open in this process yet")
        try:
            async with asyncio.timeout(PROBE_S):
                reason = await threads.run(service.not_ready)
        except TimeoutError:
            reason = f"the database or the store has not answered within {PROBE_S:g} s"
        if reason is not None:
            raise NotReady(reason)
        return _json({"status": "ready", "generation": current.name})

    return routes


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
