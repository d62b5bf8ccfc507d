"""More hits of one query, page by page, all from the generation that gave the first page."""

from __future__ import annotations

from search.client import calls
from search.client.calls import Call, SearchOptions
from search.client.values import Answer, Hit

MAX_HITS = 1_000  # what a service gives unless its serve.max_k says otherwise


class Paging:
    """Which call comes next, and which hits of its answer are new.

    The API has no offset: a page is asked for with a larger k, so a hit that moves between two
    pages because of a write is told once, and none is told twice.
    """

    def __init__(self, query: str, *, page: int, max_hits: int, options: SearchOptions) -> None:
        self._query = query
        self._page = max(1, page)
        self._max_hits = max_hits
        self._options = options
        self._k = 0
        self._told: set[str] = set()
        self._is_over = max_hits < 1

    def next_call(self) -> Call[Answer] | None:
        if self._is_over:
            return None
        # Doubled, so that n hits cost about 2 n and not the square.
        self._k = min(self._max_hits, max(self._page, 2 * self._k))
        options: SearchOptions = {**self._options, "k": self._k}
        return calls.search(self._query, options)

    def take(self, answer: Answer) -> list[Hit]:
        self._options = {**self._options, "generation": answer.generation}
        self._is_over = len(answer.hits) < self._k or self._k >= self._max_hits
        new = [hit for hit in answer.hits if hit.doc_id not in self._told]
        self._told.update(hit.doc_id for hit in new)
        return new
