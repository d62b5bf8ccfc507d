"""Marking the words of a query in a text that somebody else wrote."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from markupsafe import Markup, escape

from search.analyzer import Analyzer
from search.lexical import stop_words
from search.recipe import AnalyzerRecipe

MARKED_CHARACTERS = 200_000  # of a very long text; the rest is shown without marks

_WORD = re.compile(r"[\w'\u2019]+")


def marker(query: str, recipe: AnalyzerRecipe) -> Callable[[str], Markup]:
    """What marks the words of the query, as the lexical leg understands words: by their stems and
    without stop words. The text is escaped whatever is in it."""
    analyzer = _analyzer(recipe)
    wanted = frozenset(term for term in analyzer.terms(query) if len(term) > 1 or term.isdigit())

    def mark(text: str) -> Markup:
        parts: list[Markup] = []
        end = 0
        for found in _WORD.finditer(text, 0, MARKED_CHARACTERS) if wanted else ():
            for start, stop in _places(found[0], wanted, analyzer):
                parts.append(escape(text[end : found.start() + start]))
                end = found.start() + stop
                word = text[found.start() + start : end]
                parts.append(Markup("<mark>{}</mark>").format(word))
        parts.append(escape(text[end:]))
        return Markup("").join(parts)

    return mark


def _places(word: str, wanted: frozenset[str], analyzer: Analyzer) -> list[tuple[int, int]]:
    """(start, end) of what matches: the whole word, or pieces where words are not spaced."""
    terms = analyzer.terms(word)
    if not wanted.intersection(terms):
        return []
    if word.isascii() or len(terms) == 1:
        return [(0, len(word))]
    folded = word.casefold()
    if len(folded) != len(word):
        return [(0, len(word))]
    pieces = [term for term in wanted if term in folded]
    if not pieces:
        return [(0, len(word))]
    inside = re.compile("(?:" + "|".join(map(re.escape, pieces)) + ")")
    covered = [False] * len(word)
    for start in range(len(word)):
        if found := inside.match(folded, start):
            covered[start : found.end()] = [True] * (found.end() - start)
    return _runs(covered)


def _runs(covered: list[bool]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for place, is_covered in enumerate(covered):
        if not is_covered:
            continue
        if runs and runs[-1][1] == place:
            runs[-1] = (runs[-1][0], place + 1)
        else:
            runs.append((place, place + 1))
    return runs


@lru_cache(maxsize=8)
def _analyzer(recipe: AnalyzerRecipe) -> Analyzer:
    return Analyzer(recipe, stop_words(recipe))
