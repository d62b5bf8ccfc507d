"""One query, or a file of them, answered by two generations, models or modes, side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from search.answer import Answer, Mode
from search.api_limits import limits_of
from search.errors import InvalidQuery
from search.pages.marking import marker
from search.pages.ranking_changes import Agreement, agreement, movements, summarize
from search.pages.rendering import link, page
from search.pages.search_page import own_back
from search.pages.visitors import Visitor, form_of, visitor_of
from search.searcher import MODES, SearchRequest
from search.service import Service
from search.threads import Threads

CHOICES_OF_K = (5, 10, 20)
MAX_QUERIES = 500  # of a file; more take longer than somebody waits for a page
ROWS_SHOWN = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A generation and how it is asked."""

    generation: str
    model: str  # that it was built with
    mode: Mode

    @property
    def value(self) -> str:
        return f"{self.generation}:{self.mode}"

    @property
    def label(self) -> str:
        return f"{self.generation} · {self.model}, {self.mode}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Row:
    """One query of a file."""

    query: str
    agreement: Agreement
    n_new: int
    link: str


class ComparePage:
    def __init__(self, service: Service, threads: Threads) -> None:
        self._service = service
        self._threads = threads

    async def show(self, request: Request) -> Response:
        """One query."""
        visitor = await visitor_of(self._service, request)
        params = dict(request.query_params)
        return await self._threads.run(self._show, visitor, params, limits_of(request).deadline)

    async def show_many(self, request: Request) -> Response:
        """A file of queries; nothing is kept of it."""
        form = await form_of(request)
        visitor = await visitor_of(self._service, request)
        until = limits_of(request).deadline
        return await self._threads.run(self._show_many, visitor, dict(form), until)

    async def vote(self, request: Request) -> Response:
        """A vote, for browsers without JavaScript."""
        form = await form_of(request)
        visitor = await visitor_of(self._service, request)
        one, other, better = form.get("one", ""), form.get("other", ""), form.get("better") or None
        query = form.get("query", "")
        await self._threads.run(
            self._service.feedback.vote, query, one, other, better=better, who=visitor.who
        )
        return page(
            "thanks.html",
            visitor,
            at="compare",
            title="Your vote is kept",
            said=f"{better or 'Neither'} for “{query}”. The next report of the gate counts it.",
            back=own_back(request, "/compare"),
        )

    # -- in threads ------------------------------------------------------------------------------

    def _show(self, visitor: Visitor, params: dict[str, str], until: float | None) -> Response:
        sides = self._sides()
        left, right = _chosen(sides, params, self._live())
        query = params.get("q", "").strip()
        shown: dict[str, Any] = {}
        problem = ""
        if query and left is not None and right is not None:
            try:
                asked = self._request(query, left.mode, params.get("k", "10"))
                before = self._ask(left, [asked], until)[0]
                asked = self._request(query, right.mode, params.get("k", "10"))
                after = self._ask(right, [asked], until)[0]
                shown = self._side_by_side(query, before, after)
            except InvalidQuery as error:
                problem = str(error)
        return self._page(visitor, params, left, right, problem=problem, query=query, shown=shown)

    def _show_many(self, visitor: Visitor, params: dict[str, str], until: float | None) -> Response:
        sides = self._sides()
        left, right = _chosen(sides, params, self._live())
        values: dict[str, Any] = {"text": params.get("queries", "")}
        if left is not None and right is not None:
            try:
                queries = read_queries(values["text"])
                k = params.get("k", "10")
                before = self._ask(left, [self._request(q, left.mode, k) for q in queries], until)
                after = self._ask(right, [self._request(q, right.mode, k) for q in queries], until)
                values |= self._over_all(left, right, k, before, after)
            except InvalidQuery as error:
                values["problem"] = str(error)
        return self._page(visitor, params, left, right, is_file=True, **values)

    def _page(
        self,
        visitor: Visitor,
        params: dict[str, str],
        left: Side | None,
        right: Side | None,
        **values: Any,
    ) -> Response:
        shown = {
            "query": "",
            "shown": {},
            "text": "",
            "problem": "",
            "summary": None,
            "rows": [],
            "n_rows": 0,
            "is_file": params.get("as") == "file",
            **values,
        }
        return page(
            "compare.html",
            visitor,
            at="compare",
            code=422 if shown["problem"] else 200,
            sides=self._sides(),
            left=left,
            right=right,
            k=params.get("k", "10"),
            choices_of_k=CHOICES_OF_K,
            max_queries=MAX_QUERIES,
            live=self._live(),
            votes=self._service.feedback.votes(),
            **shown,
        )

    def _side_by_side(self, query: str, before: Answer, after: Answer) -> dict[str, Any]:
        one = [hit.doc_id for hit in before.hits]
        other = [hit.doc_id for hit in after.hits]
        with self._service.manager.acquire(after.generation) as searcher:
            mark = marker(query, searcher.recipe.analyzer)
        return {
            "left": list(zip(before.hits, movements(one, other, is_later=False), strict=True)),
            "right": list(zip(after.hits, movements(other, one, is_later=True), strict=True)),
            "before": before,
            "after": after,
            "agreement": agreement(one, other),
            "mark": mark,
        }

    def _over_all(
        self, left: Side, right: Side, k: str, before: Sequence[Answer], after: Sequence[Answer]
    ) -> dict[str, Any]:
        rows = []
        for one, other in zip(before, after, strict=True):
            ranked = [hit.doc_id for hit in one.hits]
            ranked_later = [hit.doc_id for hit in other.hits]
            rows.append(
                _Row(
                    query=one.query,
                    agreement=agreement(ranked, ranked_later),
                    n_new=len(set(ranked_later) - set(ranked)),
                    link=link("/compare", q=one.query, left=left.value, right=right.value, k=k),
                )
            )
        summary = summarize([row.agreement for row in rows])
        rows.sort(key=lambda row: (row.agreement.overlap, row.agreement.tau or 0.0))
        return {"summary": summary, "rows": rows[:ROWS_SHOWN], "n_rows": len(rows)}

    def _ask(self, side: Side, asked: Sequence[SearchRequest], until: float | None) -> list[Answer]:
        """Raises GenerationNotFound when it was closed meanwhile. Nobody asked for these answers
        to find something, so neither the query log nor the metrics have them."""
        with self._service.manager.acquire(side.generation) as searcher:
            return searcher.search_many(asked, until=until)

    def _request(self, query: str, mode: Mode, k: str) -> SearchRequest:
        limits = self._service.limits
        if len(query) > limits.max_query_chars:
            raise InvalidQuery(
                f"a query has {len(query):,} characters, this service takes "
                f"{limits.max_query_chars:,}"
            )
        if not (k.isascii() and k.isdigit() and 1 <= int(k[:9]) <= min(100, limits.max_k)):
            raise InvalidQuery(f"{k!r} hits: expected a number from 1 to {min(100, limits.max_k)}")
        return SearchRequest(query=query, k=int(k), mode=mode)

    def _live(self) -> str | None:
        current = self._service.manager.current
        return current.name if current is not None else None

    def _sides(self) -> list[Side]:
        """Whatever this process has open, the live generation first, and what is opened when it is
        asked, in every mode."""
        manager = self._service.manager
        found = {item.name: item.generation for item in reversed(manager.opened())}
        if found:
            found |= manager.ready()
        return [
            Side(generation=name, model=generation.recipe.model, mode=mode)
            for name, generation in found.items()
            for mode in MODES
        ]


def _chosen(
    sides: Sequence[Side], params: dict[str, str], live: str | None
) -> tuple[Side | None, Side | None]:
    """Live beside another generation if there is one, the older on the left, so that what the
    newer brings reads as new; else two modes of the same."""
    by_value = {side.value: side for side in sides}
    of_live = [side for side in sides if side.generation == live]
    others = [side for side in sides if side.generation != live]
    first, second = [*of_live[:1], *others[:1], *of_live[1:2], None, None][:2]
    if first is not None and second is not None and _number(second) < _number(first):
        first, second = second, first
    return (
        by_value.get(params.get("left", ""), first),
        by_value.get(params.get("right", ""), second),
    )


def _number(side: Side) -> int:
    """7 of docs@7."""
    return int(side.generation.rpartition("@")[2])


def read_queries(text: str) -> list[str]:
    """One query a line, or JSON Lines with `text` or `query`, as BEIR's queries.jsonl has them.
    Each once, in the order they come. Raises InvalidQuery."""
    queries: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        query: Any = line.strip()
        if query.startswith("{"):
            try:
                value = json.loads(query)
            except ValueError as error:
                raise InvalidQuery(f"line {number} is not JSON ({error})") from None
            query = value.get("text", value.get("query"))
            if not isinstance(query, str) or not query.strip():
                raise InvalidQuery(f"line {number} has no `text` and no `query`")
        queries.append(query.strip())
    queries = list(dict.fromkeys(queries))
    if not queries:
        raise InvalidQuery("there are no queries; write one a line, or choose a file")
    if len(queries) > MAX_QUERIES:
        raise InvalidQuery(
            f"{len(queries):,} queries; a page compares up to {MAX_QUERIES}. For more, and with "
            "judgments, run `reindexer evaluate`"
        )
    return queries
