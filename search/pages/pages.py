"""The pages of a service, put together."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from starlette.exceptions import HTTPException

from search.api_limits import unhurried
from search.pages import api_page, problem_pages, visitors
from search.pages.browser_routes import BrowserRoute
from search.pages.compare_page import ComparePage
from search.pages.models_page import ModelsPage
from search.pages.operations_page import OperationsPage
from search.pages.rendering import static_file
from search.pages.search_page import SearchPage
from search.pages.sign_in_page import SignInPage
from search.service import Service
from search.threads import Threads

N_THREADS = 4


def install(app: FastAPI, service: Service) -> None:
    """What wraps requests; installed before api_problem."""
    visitors.install(app, service)


def install_problem_pages(app: FastAPI) -> None:
    """Installed after api_problem."""
    problem_pages.install(app)


def router(service: Service) -> APIRouter:
    """The pages. Included before the API, which answers programs on some of the same paths."""
    routes = APIRouter(include_in_schema=False, default_response_class=Response)
    threads = Threads("pages", N_THREADS)

    search = SearchPage(service, threads)
    routes.add_api_route("/", search.show, methods=["GET"])
    routes.add_api_route("/document", search.document, methods=["GET"])
    routes.add_api_route("/document/{doc_id:path}", search.document, methods=["GET"])
    routes.add_api_route("/pages/feedback", search.judge, methods=["POST"])

    compare = ComparePage(service, threads)
    routes.add_api_route("/compare", compare.show, methods=["GET"])
    routes.add_api_route("/compare", compare.show_many, methods=["POST"])
    routes.add_api_route("/pages/vote", compare.vote, methods=["POST"])

    operations = OperationsPage(service, threads)
    slow = [Depends(unhurried)]
    routes.add_api_route("/operations", operations.show, methods=["GET"])
    routes.add_api_route("/operations/confirm", operations.confirm, methods=["GET"])
    routes.add_api_route("/operations/do", operations.do, methods=["POST"], dependencies=slow)
    routes.add_api_route("/operations/start", operations.start, methods=["POST"])

    models = ModelsPage(service, threads)
    routes.add_api_route("/models/{name}/report", models.report, methods=["GET"])
    of_both = APIRouter(include_in_schema=False, route_class=BrowserRoute)
    of_both.add_api_route("/models", models.show, methods=["GET"])
    of_both.add_api_route("/models/{name}", models.show_one, methods=["GET"])
    routes.include_router(of_both)

    routes.add_api_route("/docs", api_page.show, methods=["GET"])

    sign_in = SignInPage(service)
    routes.add_api_route("/sign-in", sign_in.show, methods=["GET"])
    routes.add_api_route("/sign-in", sign_in.sign_in, methods=["POST"])
    routes.add_api_route("/sign-out", sign_in.sign_out, methods=["POST"])

    async def get_static(name: str, request: Request) -> Response:
        found = static_file(name, request)
        if found is None:
            raise HTTPException(404)
        return found

    routes.add_api_route("/static/{name}", get_static, methods=["GET"])
    return routes
