"""BM25 as a product of two sparse vectors, for a store that keeps such vectors and knows the idf.

A document's vector has count / (count + k1 · (1 - b + b · length / average length)) for each of its
terms, a query's the number of times that it names the term, and the store multiplies with
ln(1 + (N - n + 0.5) / (n + 0.5)) of its own documents. The sum is what the BM25 of
`search/lexical_state.py` gives, but for the average length: that is fixed when the generation is
made, since every vector depends on it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Self

from search.analyzer import ANALYZER_VERSION, Analyzer
from search.dense import TermVector
from search.documents import Document
from search.errors import LexicalDamaged
from search.lexical import stop_words
from search.recipe import AnalyzerRecipe, LexicalRecipe, Recipe

MAX_NUMBERED_TERMS = 500_000  # remembered; about 60 MB


class TermWeights:
    """What one generation makes of the terms of documents and queries. Safe for several threads."""

    def __init__(self, analyzer: AnalyzerRecipe, average_length: float) -> None:
        """average_length: of a document, in terms."""
        self._analyzer = Analyzer(analyzer, stop_words(analyzer))
        self._base = analyzer.k1 * (1 - analyzer.b)
        self._slope = analyzer.k1 * analyzer.b / max(average_length, 1.0)

    @classmethod
    def of(cls, recipe: Recipe) -> Self | None:
        """None for a generation whose lexical leg is an index of its own.

        Raises LexicalDamaged for vectors of an analyzer that this release no longer has.
        """
        lexical = recipe.lexical
        if lexical.kind == "bm25s":
            return None
        if lexical.analyzer_version != ANALYZER_VERSION:
            raise LexicalDamaged(
                f"the terms of this generation were made by version {lexical.analyzer_version} of "
                f"the analyzer, this release has version {ANALYZER_VERSION}; run `reindexer "
                f"upgrade {recipe.model}` to make them again"
            )
        return cls(recipe.analyzer, lexical.average_length)

    def document(self, document: Document) -> TermVector:
        """The side that is stored; empty for a document without terms."""
        terms = self._analyzer.terms(document.full_text)
        norm = self._base + self._slope * len(terms)
        weights: dict[int, float] = {}
        for term, count in Counter(terms).items():
            number = term_number(term)
            weights[number] = weights.get(number, 0.0) + count / (count + norm)
        return _vector(weights)

    def query(self, text: str) -> TermVector:
        """The side that is asked with."""
        return _vector(Counter(map(term_number, self._analyzer.terms(text))))


def fitted_lexical(analyzer: AnalyzerRecipe, documents: Iterable[Document]) -> LexicalRecipe:
    """A recipe for vectors of terms, with the average length of these documents."""
    read = Analyzer(analyzer, stop_words(analyzer))
    lengths = [len(read.terms(document.full_text)) for document in documents]
    return LexicalRecipe(
        kind="qdrant",
        analyzer_version=ANALYZER_VERSION,
        average_length=sum(lengths) / len(lengths) if lengths else 1.0,
    )


@lru_cache(maxsize=MAX_NUMBERED_TERMS)
def term_number(term: str) -> int:
    """32 bits of its hash: nobody has to keep a vocabulary. Of a million terms, about 120 share a
    number with another."""
    return int.from_bytes(blake2b(term.encode("utf-8"), digest_size=4).digest(), "little")


def _vector(weights: dict[int, float] | Counter[int]) -> TermVector:
    numbers = sorted(weights)
    return TermVector(tuple(numbers), tuple(float(weights[number]) for number in numbers))
