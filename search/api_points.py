"""The points of a collection that this process owns, for a backup made by another process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fastapi import APIRouter, Depends
from fastapi.responses import StreamingResponse

from search.access import needs
from search.api_openapi import problems
from search.errors import GenerationNotFound
from search.service import Service
from search.stored_points import to_frame

POINTS_A_FRAME = 500
MEDIA_TYPE = "application/vnd.reindexer.points"


def router(service: Service) -> APIRouter:
    """Everything that a collection holds, as frames of `search.stored_points`."""
    routes = APIRouter(tags=["operations"])

    @routes.get(
        "/generations/{name}/points",
        dependencies=[Depends(needs(service, "operate"))],
        response_class=StreamingResponse,
        responses={200: {"content": {MEDIA_TYPE: {}}}, **problems(404, 503)},
    )
    def get_points(name: str) -> StreamingResponse:
        """Every point with its vector, while queries and writes go on."""
        if name not in {opened.name for opened in service.manager.opened()}:
            raise GenerationNotFound(f"{name} is not open in this process")
        frames = _frames(service, name)
        first = next(frames, b"")  # a store that is down is told, not an answer that breaks off
        return StreamingResponse(itertools.chain((first,), frames), media_type=MEDIA_TYPE)

    return routes


def _frames(service: Service, name: str) -> Iterator[bytes]:
    with service.manager.acquire_named(name) as held:
        opened = {one.name: one for one in service.manager.opened()}.get(name)
        if held is None or opened is None:
            raise GenerationNotFound(f"{name} was closed in this moment; ask again")
        for points, vectors in opened.collection.scan(POINTS_A_FRAME):
            yield to_frame(points, vectors)
