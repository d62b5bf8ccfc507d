"""The lexical half of a generation inside its own Qdrant collection, for corpora past one machine.

The first passage of each document carries the sparse vector of the whole document
(`search/term_weights.py`). It is written in the same request as the passage, so one watermark, one
alias and one rollback hold for both halves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from search.dense import DenseHit, FloatVector
from search.documents import Filter
from search.errors import InvalidQuery
from search.lexical import SPARE_HITS, LexicalHit
from search.qdrant_collection import NearestTerms, QdrantCollection
from search.term_weights import TermWeights

MAX_TIES = 1_000  # documents looked at beyond k because they score exactly as much as the k-th


class QdrantLexical:
    """The documents of one collection, ranked by BM25 on the server."""

    def __init__(
        self, collection: QdrantCollection, weights: TermWeights, watermark: Callable[[], int]
    ) -> None:
        """watermark: of the generation, as the catalog has it."""
        self._collection = collection
        self._weights = weights
        self._watermark = watermark

    @property
    def watermark(self) -> int:
        return self._watermark()

    def search(self, query: str, k: int, where: Filter = ()) -> list[LexicalHit]:
        """The k best documents that satisfy the filter and hold a term of the query, best first,
        ties by doc_id. Raises InvalidQuery for k < 1, StoreError."""
        if k < 1:
            raise InvalidQuery(f"k is {k}, expected at least 1")
        terms = self._weights.query(query)
        if not terms.numbers:
            return []
        return self._ranked(
            lambda limit: self._collection.nearest_terms(terms, limit, where), k, k + SPARE_HITS
        )

    def search_both(
        self, query: str, vector: FloatVector, k: int, where: Filter = ()
    ) -> tuple[list[LexicalHit], list[DenseHit]]:
        """What both legs answer, as a rule from one request to the server."""
        terms = self._weights.query(query)
        if not terms.numbers:
            return [], self._collection.search(vector, k, where)
        limit = k + SPARE_HITS
        dense, first = self._collection.search_with_terms(vector, k, terms, limit, where)
        answers = iter([first])

        def fetch(limit: int) -> NearestTerms:
            return next(answers, None) or self._collection.nearest_terms(terms, limit, where)

        return self._ranked(fetch, k, limit), dense

    def scan(self) -> Iterator[tuple[str, int, str]]:
        """(doc_id, seq, content_hash) of every document, in the store's own order."""
        for points in self._collection.scan_documents():
            for point in points:
                yield point.doc_id, point.seq, point.content_hash

    @staticmethod
    def _ranked(fetch: Callable[[int], NearestTerms], k: int, limit: int) -> list[LexicalHit]:
        while True:
            answer = fetch(limit)
            hits = _by_rank(answer.hits)
            if answer.is_all or (
                len(hits) >= k and (answer.lowest < hits[k - 1].score or len(hits) >= k + MAX_TIES)
            ):
                return hits[:k]
            limit *= 2


def _by_rank(hits: Sequence[tuple[str, float, int]]) -> list[LexicalHit]:
    return sorted(map(LexicalHit._make, hits), key=lambda hit: (-hit.score, hit.doc_id))
