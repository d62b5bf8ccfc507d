"""Operating an installation: what there is, builds, the switch and the way back, and events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from search import api_operations_schema as schema
from search.access import needs
from search.api_limits import unhurried
from search.api_openapi import problems
from search.service import Service
from search.threads import Threads

N_THREADS = 4  # a switch takes one of them while it waits for other processes
EVENTS_LOOK_S = 0.5  # between two looks for new events
HEARTBEAT_S = 10.0  # a comment this often keeps proxies from closing a quiet stream
EVENTS_AT_ONCE = 100
STREAM = "text/event-stream"

BuildId = Annotated[int, Path(ge=1, le=2**31 - 1)]
EventId = Annotated[int, Query(ge=0, le=2**31 - 1, description="Only what came after this event")]


def router(service: Service) -> APIRouter:
    """Reading needs the scope `search`; events, and whatever changes something, need `operate`."""
    routes = APIRouter(tags=["operations"], default_response_class=Response)
    threads = Threads("operations", N_THREADS)
    operations = service.operations
    reads = [Depends(needs(service, "search"))]
    operator = Depends(needs(service, "operate"))
    changes = [operator, Depends(unhurried)]

    async def answer(
        work: Callable[..., Any], *args: Any, status: int = 200, **more: Any
    ) -> Response:
        found = await threads.run(work, *args, **more)
        return Response(orjson.dumps(found), status, media_type="application/json")

    # -- what there is -------------------------------------------------------------------------

    @routes.get("/status", dependencies=reads, responses={200: {"model": schema.Status}})
    async def get_status() -> Response:
        """Live, standby, builds, serving processes and workers: as `status --json`."""
        return await answer(operations.status)

    @routes.get(
        "/generations", dependencies=reads, responses={200: {"model": list[schema.Generation]}}
    )
    async def get_generations() -> Response:
        """Every copy of the corpus that still takes space, oldest first."""
        return await answer(operations.generations)

    @routes.get(
        "/generations/{name}",
        dependencies=reads,
        responses={200: {"model": schema.GenerationDetail}, **problems(404)},
    )
    async def get_generation(name: str) -> Response:
        """One generation: recipe, watermark, last verification, build."""
        return await answer(operations.generation, name)

    @routes.get("/models", dependencies=reads, responses={200: {"model": list[schema.Model]}})
    async def get_models() -> Response:
        """Registered model versions, and the generations made with each."""
        return await answer(operations.models)

    @routes.get(
        "/models/{name}",
        dependencies=reads,
        responses={200: {"model": schema.Model}, **problems(404)},
    )
    async def get_model(name: str) -> Response:
        """A version such as `support@4`, or the newest of a name."""
        return await answer(operations.model, name)

    @routes.get("/builds", dependencies=reads, responses={200: {"model": list[schema.Build]}})
    async def get_builds() -> Response:
        """Newest first."""
        return await answer(operations.builds)

    @routes.get(
        "/builds/{build_id}",
        dependencies=reads,
        responses={200: {"model": schema.Build}, **problems(404)},
    )
    async def get_build(build_id: BuildId) -> Response:
        """How far a build is, and why it waits."""
        return await answer(operations.build, build_id)

    # -- builds --------------------------------------------------------------------------------

    @routes.post(
        "/builds",
        status_code=202,
        dependencies=changes,
        responses={202: {"model": schema.Build}, **problems(404, 409)},
    )
    async def post_builds(body: schema.BuildBody, request: Request) -> Response:
        """Ask for a build of a registered model; a worker does it in a process of its own."""
        return await answer(
            operations.start_build,
            body.model,
            cut_over=body.cut_over,
            evaluation=body.evaluation,
            split=body.split,
            who=request.state.who,
            status=202,
        )

    def add(verb: str, work: Callable[..., Any], summary: str) -> None:
        async def post(build_id: BuildId, request: Request) -> Response:
            return await answer(work, build_id, who=request.state.who, status=202)

        routes.add_api_route(
            f"/builds/{{build_id}}/{verb}",
            post,
            methods=["POST"],
            name=f"post_builds_{verb}",
            summary=f"{verb.capitalize()} a build",
            description=summary,
            status_code=202,
            dependencies=changes,
            responses={202: {"model": schema.Build}, **problems(404, 409)},
        )

    add("pause", operations.pause, "Stop at the next checkpoint, until it is resumed.")
    add("resume", operations.resume, "Go on from the checkpoint.")
    add("cancel", operations.cancel, "Give it up; `prune` then drops what it made.")

    # -- the switch ----------------------------------------------------------------------------

    @routes.post(
        "/cutover",
        dependencies=changes,
        responses={200: {"model": schema.CutOver}, **problems(404, 409)},
    )
    async def post_cutover(body: schema.CutOverBody, request: Request) -> Response:
        """Prepare every serving process, then switch all of them; answers when they answer from
        the new generation."""
        return await answer(
            operations.cut_over, body.generation, override=body.override, who=request.state.who
        )

    @routes.post(
        "/rollback",
        dependencies=changes,
        responses={200: {"model": schema.CutOver}, **problems(409)},
    )
    async def post_rollback(request: Request) -> Response:
        """Go back to the standby generation; what was written since is in it."""
        return await answer(operations.rollback, who=request.state.who)

    # -- events --------------------------------------------------------------------------------

    @routes.get(
        "/events",
        dependencies=[operator],
        responses={
            200: {"model": list[schema.Event], "content": {STREAM: {"schema": {"type": "string"}}}}
        },
    )
    async def get_events(
        request: Request,
        after: EventId = 0,
        accept: Annotated[str, Header()] = "",
        last_event_id: Annotated[str, Header()] = "",
    ) -> Response:
        """What happened. With `Accept: text/event-stream` a stream that goes on: from the event in
        `Last-Event-ID` or `after`, or else from now. Otherwise the first 100 events after `after`
        as a list."""
        if STREAM not in accept:
            return await answer(operations.events, after, EVENTS_AT_ONCE)
        resumed = last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 10
        if resumed:
            begin = int(last_event_id)
        elif "after" in request.query_params:
            begin = after
        else:
            begin = await threads.run(operations.last_event)
        return StreamingResponse(
            _stream(service, threads, begin),
            media_type=STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return routes


async def _stream(service: Service, threads: Threads, after: int) -> AsyncIterator[bytes]:
    """Events as they happen; ends when the process drains. The client's leaving cancels it."""
    quiet_s = 0.0
    yield b"retry: 1000\n\n"
    while not service.drain.begun:
        found = await threads.run(service.operations.events, after, EVENTS_AT_ONCE)
        for event in found:
            after = event["id"]
            yield f"id: {after}\nevent: {event['kind']}\n".encode()
            yield b"data: " + orjson.dumps(event) + b"\n\n"
        if found:
            quiet_s = 0.0
            continue
        quiet_s += EVENTS_LOOK_S
        if quiet_s >= HEARTBEAT_S:
            quiet_s = 0.0
            yield b": still here\n\n"
        await asyncio.sleep(EVENTS_LOOK_S)
