"""The HTTP API of one serving process, put together from its parts."""

from __future__ import annotations

from fastapi import FastAPI

from search import api_access, api_documents, api_problem, api_search
from search.service import Service


def create_app(service: Service) -> FastAPI:
    """The API of one serving process."""
    app = FastAPI(
        title="reindexer",
        description="Hybrid search over exactly one generation of the corpus.",
        docs_url="/docs",
        redoc_url=None,
    )
    # What wraps every request; the last one installed is the outermost.
    api_access.install(app, service)
    api_problem.install(app, service)
    # What answers, in the order of the OpenAPI document.
    app.include_router(api_search.router(service))
    app.include_router(api_documents.router(service))
    return app
