"""The HTTP API of one serving process, put together from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from search import (
    api_access,
    api_documents,
    api_evaluation,
    api_feedback,
    api_health,
    api_limits,
    api_metrics,
    api_openapi,
    api_operations,
    api_points,
    api_problem,
    api_schema,
    api_search,
    api_straight,
)
from search.pages import pages
from search.request_ids import HEADER
from search.service import Service


def create_app(
    service: Service,
    *,
    problems: api_problem.Table = MappingProxyType({}),
    cors_origins: Sequence[str] = (),
) -> FastAPI:
    """The API of one serving process.

    problems: status code and title of errors that are not known here.
    cors_origins: whose pages a browser lets read the answers; nobody's unless given.
    """
    app = FastAPI(
        title="reindexer",
        description="Hybrid search over exactly one generation of the corpus.",
        docs_url=None,  # a page of ours: FastAPI's loads scripts from another host
        redoc_url=None,
    )
    searches, links = api_search.routers(service)
    # What wraps every request; the last one installed is the outermost.
    api_straight.install(app, searches)
    api_limits.install(app, service)
    api_access.install(app, service)
    pages.install(app, service)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=[HEADER, "Retry-After"],
        )
    api_problem.install(app, service, more=problems)
    pages.install_problem_pages(app)
    api_metrics.install(app, service)
    # What answers, in the order of the OpenAPI document: the first that fits is taken. Browsers are
    # served pages, on paths where programs are answered by the API too.
    app.include_router(searches)
    app.include_router(pages.router(service))
    app.include_router(links)
    app.include_router(api_documents.router(service))
    app.include_router(api_feedback.router(service))
    app.include_router(api_evaluation.router(service))
    app.include_router(api_operations.router(service))
    app.include_router(api_health.router(service))
    app.include_router(api_metrics.router(service))
    app.include_router(api_points.router(service))
    api_openapi.install(app, api_schema.DocumentBody)
    return app
