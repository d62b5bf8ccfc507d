"""The piece of a document that is shown under a hit."""

from __future__ import annotations

import re
from collections.abc import Sequence

SNIPPET_CHARACTERS = 300
_LEAD_CHARACTERS = 60  # shown before the first matched word
_SCANNED_CHARACTERS = 200_000  # of a very long text: a snippet is not worth reading 10 MB for
_MAX_WORDS = 8
_MAX_OCCURRENCES = 32  # of one word
_CUT = "…"

_WORD = re.compile(r"\w+")


def query_words(query: str) -> list[str]:
    """The words of a query that are worth looking for: lower case, the longest 8."""
    words = {word for word in _WORD.findall(query.lower()) if len(word) > 2 or not word.isascii()}
    return sorted(words, key=lambda word: (-len(word), word))[:_MAX_WORDS]


def snippet(text: str, words: Sequence[str], limit: int = SNIPPET_CHARACTERS) -> str:
    """One line of at most `limit` characters, taken where most of the words are near each other;
    from the start of the text where none is. Cut ends carry an ellipsis.

    words: as `query_words` gives them.
    """
    if len(text) <= limit:
        return " ".join(text.split())
    first_match = _densest(text[:_SCANNED_CHARACTERS], words, limit - _LEAD_CHARACTERS)
    start = _after_space(text, min(first_match - _LEAD_CHARACTERS, len(text) - limit))
    end = start + 3 * limit  # runs of whitespace shrink below
    line = (_CUT if start else "") + " ".join(text[start:end].split())
    if len(line) <= limit and end >= len(text):
        return line
    end = min(len(line), limit - len(_CUT))
    space = line.rfind(" ", limit // 2, end + 1)
    return line[: space if space >= 0 and end < len(line) else end] + _CUT


def _densest(text: str, words: Sequence[str], width: int) -> int:
    """Where the window of `width` characters that holds the most of the words begins, each counted
    once and by its length; 0 where there is none at all."""
    lower = text.lower()
    found = sorted(
        (start, number) for number, word in enumerate(words) for start in _occurrences(lower, word)
    )
    inside = [0] * len(words)  # occurrences in the window
    best_start, best_worth, worth = 0, 0, 0
    n_entered = 0
    for start, first in found:
        while n_entered < len(found) and found[n_entered][0] < start + width:
            number = found[n_entered][1]
            if not inside[number]:
                worth += len(words[number])
            inside[number] += 1
            n_entered += 1
        if worth > best_worth:
            best_start, best_worth = start, worth
        inside[first] -= 1
        if not inside[first]:
            worth -= len(words[first])
    return best_start


def _occurrences(text: str, word: str) -> list[int]:
    """Where words that begin with this one are."""
    starts: list[int] = []
    at = text.find(word)
    while at >= 0 and len(starts) < _MAX_OCCURRENCES:
        # Scripts without spaces have no beginning of a word to look for.
        if at == 0 or not word.isascii() or not text[at - 1].isalnum():
            starts.append(at)
        at = text.find(word, at + len(word))
    return starts


def _after_space(text: str, start: int) -> int:
    """The beginning of the next word if one is near, so that none is shown in half."""
    if start <= 0:
        return 0
    space = text.find(" ", start - 1, start + 30)
    return space + 1 if space >= 0 else start
