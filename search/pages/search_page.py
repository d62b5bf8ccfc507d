"""The search page and the page of a document."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from search.answer import Answer
from search.api_limits import limits_of
from search.documents import parse_condition, parse_filter
from search.errors import (
    DocumentNotFound,
    FeedbackOff,
    InvalidFeedback,
    InvalidQuery,
    NoLiveGeneration,
    QueryNotFound,
)
from search.feedback import Feedback
from search.pages.marking import MARKED_CHARACTERS, marker
from search.pages.rendering import document_link, link, page
from search.pages.visitors import Visitor, form_of, visitor_of
from search.recipe import AnalyzerRecipe
from search.request_ids import new_id
from search.searcher import MODES, SearchRequest
from search.service import Service
from search.threads import Threads

CHOICES_OF_K = (5, 10, 20, 50)
SHOWN_CHARACTERS = 1_000_000  # of a document


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """What stands in the form, right or wrong."""

    query: str
    k: str
    mode: str
    filters: tuple[str, ...]
    generation: str

    @classmethod
    def of(cls, request: Request) -> _Asked:
        params = request.query_params
        filters = [text.strip() for text in params.getlist("filter")]
        return cls(
            query=params.get("q", "").strip(),
            k=params.get("k", "10"),
            mode=params.get("mode", "hybrid"),
            filters=tuple(dict.fromkeys(text for text in filters if text)),
            generation=params.get("generation", ""),
        )

    @property
    def here(self) -> str:
        return self.link_with(self.filters)

    def link_with(self, filters: tuple[str, ...]) -> str:
        return link(
            "/",
            q=self.query,
            k=self.k if self.k != "10" else "",
            mode=self.mode if self.mode != "hybrid" else "",
            filter=filters,
            generation=self.generation,
        )

    def request(self, service: Service) -> SearchRequest:
        """Raises InvalidQuery."""
        limits = service.limits
        if not (self.k.isascii() and self.k.isdigit() and 1 <= int(self.k[:9]) <= limits.max_k):
            raise InvalidQuery(f"{self.k!r} hits: expected a number from 1 to {limits.max_k:,}")
        if len(self.query) > limits.max_query_chars:
            raise InvalidQuery(
                f"the query has {len(self.query):,} characters, this service takes "
                f"{limits.max_query_chars:,}"
            )
        mode: Any = self.mode
        return SearchRequest(
            query=self.query,
            k=int(self.k),
            mode=mode,
            where=parse_filter(self.filters),
            explain=True,
        )


class SearchPage:
    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    async def show(self, request: Request) -> Response:
        """The form, and the hits when something was asked."""
        visitor = await visitor_of(self._service, request)
        asked = _Asked.of(request)
        until = limits_of(request).deadline
        return await self._threads.run(self._show, visitor, asked, until)

    def _show(self, visitor: Visitor, asked: _Asked, until: float | None) -> Response:
        service = self._service
        answer: Answer | None = None
        problem, status, query_id = "", 200, ""
        mark: Any = None
        if asked.query:
            try:
                wanted = asked.request(service)
                with service.manager.acquire(asked.generation or None) as searcher:
                    answer = searcher.search(wanted, until=until)
                    mark = marker(asked.query, searcher.recipe.analyzer)
            except InvalidQuery as error:
                problem, status = str(error), 422
            except NoLiveGeneration:
                pass
        if answer is not None:
            query_id = new_id()
            service.telemetry.answered(answer)
            service.feedback.record(answer, query_id=query_id, who=visitor.who)
        opened = service.manager.opened()
        choices = sorted({*CHOICES_OF_K, *([int(asked.k)] if asked.k.isdigit() else [])})
        return page(
            "search.html",
            visitor,
            at="search",
            code=status,
            asked=asked,
            answer=answer,
            mark=mark,
            problem=problem,
            query_id=query_id,
            modes=MODES,
            choices_of_k=[k for k in choices if k <= service.limits.max_k],
            live=service.manager.current,
            generations=[item.name for item in reversed(opened)],
            may_judge=service.feedback.rules.enabled,
            facts=_facts(answer, asked) if answer is not None else {},
            n_documents=service.corpus.count() if answer is None else 0,
        )

    async def document(self, request: Request, doc_id: str = "") -> Response:
        """The whole document. Coming from a hit counts as a click, once."""
        visitor = await visitor_of(self._service, request)
        params = request.query_params
        doc_id = doc_id or params.get("id", "")
        query_id, query = params.get("query_id"), params.get("q", "")
        if query_id is not None:
            if "sec-purpose" not in request.headers:  # a browser that looks ahead has not clicked
                rank = params.get("rank", "")
                click = {"query_id": query_id, "doc_id": doc_id, "position": _rank(rank)}
                await self._threads.run(self._click, click, visitor.who)
            return RedirectResponse(document_link(doc_id, q=query), 303)
        return await self._threads.run(self._document, visitor, doc_id, query)

    def _document(self, visitor: Visitor, doc_id: str, query: str) -> Response:
        service = self._service
        document = service.corpus.get(doc_id)
        if document is None:
            raise DocumentNotFound(f"there is no document {doc_id!r}, or it was deleted")
        current = service.manager.current
        recipe = current.generation.recipe.analyzer if current is not None else AnalyzerRecipe()
        return page(
            "document.html",
            visitor,
            at="search",
            document=document,
            text=document.text[:SHOWN_CHARACTERS],
            is_cut=len(document.text) > SHOWN_CHARACTERS,
            marked_characters=MARKED_CHARACTERS,
            mark=marker(query, recipe),
            query=query,
            n_words=len(document.text.split()),
        )

    def _click(self, click: dict[str, Any], who: str) -> None:
        """Somebody who reads a document is not told that the log could not take it."""
        with contextlib.suppress(FeedbackOff, InvalidFeedback, QueryNotFound):
            self._service.feedback.add([Feedback(**click)], who=who)

    async def judge(self, request: Request) -> Response:
        """A thumb, for browsers without JavaScript."""
        form = await form_of(request)
        visitor = await visitor_of(self._service, request)
        judgment = Feedback(
            query_id=form.get("query_id", ""),
            doc_id=form.get("doc_id", ""),
            kind="judgment",
            position=_rank(form.get("position", "")),
            value=1.0 if form.get("value") == "1" else 0.0,
        )
        await self._threads.run(self._service.feedback.add, [judgment], who=visitor.who)
        return page(
            "thanks.html",
            visitor,
            at="search",
            title="Thank you",
            said=f"{'Relevant' if judgment.value else 'Not relevant'}: {judgment.doc_id}",
            back=own_back(request, "/"),
        )


def _facts(answer: Answer, asked: _Asked) -> dict[str, list[tuple[str, str, str | None]]]:
    """Metadata by document: name, value, and a link that narrows the search to it."""
    return {
        hit.doc_id: [
            (name, str(item), _narrower(asked, name, item))
            for name, value in hit.metadata.items()
            for item in (value if isinstance(value, tuple) else (value,))
        ]
        for hit in answer.hits
    }


def _narrower(asked: _Asked, name: str, value: object) -> str | None:
    text = f"{name}={str(value).lower() if isinstance(value, bool) else value}"
    if text in asked.filters:
        return None
    try:
        condition = parse_condition(text)
    except InvalidQuery:
        return None
    if condition.field != name or value not in condition.any_of or len(text) > 80:
        return None  # the value has a sign in it that means something in a filter
    return asked.link_with((*asked.filters, text))


def _rank(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and 0 < len(text) < 6 else None


def own_back(request: Request, otherwise: str) -> str:
    """The page of ours that the form was on."""
    parts = urlsplit(request.headers.get("referer", ""))
    if parts.netloc != request.headers.get("host") or not parts.path.startswith("/"):
        return otherwise
    path = "/" + parts.path.lstrip("/")
    return f"{path}?{parts.query}" if parts.query else path
