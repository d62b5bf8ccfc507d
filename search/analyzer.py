"""Text to BM25 terms: Unicode words, identifiers and their parts, stop words, stems."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable
from itertools import chain, pairwise

import regex
import Stemmer

from search.errors import SearchError
from search.recipe import AnalyzerRecipe

ANALYZER_VERSION = 1  # raise it when the same text would give other terms: indexes are rebuilt
MAX_TERM_LENGTH = 64  # characters; what follows in a longer run (base64, hashes) is left out
MAX_CACHED_WORDS = 200_000  # about 40 MB

# Scripts written without spaces between words, and Hangul, whose words carry their particles.
_UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}ー々\p{Script=Hangul}"
    r"\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}"
)
_ASCII_WORDS = re.compile(r"[A-Za-z0-9_]+(?:'[A-Za-z]+)*")
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}_]+(?:['\u2019][\p{L}\p{M}]+)*")
_RUNS = regex.compile(rf"([{_UNSPACED}][{_UNSPACED}\p{{M}}]*)|([^{_UNSPACED}]+)")
_CHARACTERS = regex.compile(r"\X")
_CAMEL_CASE = regex.compile(r"(?<=[\p{Ll}\p{N}])(?=\p{Lu})|(?<=\p{Lu})(?=\p{Lu}\p{Ll}{2})")
_ACCENTED = regex.compile(r"([\p{Script=Latin}\p{Script=Greek}])\p{Mn}+")
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ё": "е"}  # noqa: RUF001
)
_SOFT_HYPHEN = "\u00ad"


class _Words(dict[str, tuple[str, ...]]):
    """word as written → its terms; a word that was not seen before is worked out once."""

    def __init__(self, analyzer: Analyzer) -> None:
        super().__init__()
        self._analyzer = analyzer

    def __missing__(self, word: str) -> tuple[str, ...]:
        terms = self._analyzer._word_terms(word)
        if len(word) <= MAX_TERM_LENGTH:
            if len(self) >= MAX_CACHED_WORDS:
                self.clear()
            self[word] = terms
        return terms


class Analyzer:
    """What an AnalyzerRecipe does to text. Safe to use from several threads.

    Words are runs of letters, marks and digits of any script, compared after NFKC and case folding.
    `foo_bar` and `fooBar` give their parts and the whole; `os.path.join` gives three words. Scripts
    without spaces give characters and pairs of neighbours. Stems come from Snowball; accents on
    Latin and Greek letters are dropped after stemming, so text typed without them is found.

    stop_words: of the recipe's language; used when the recipe asks for it.
    Raises SearchError for a language that Snowball does not know.
    """

    def __init__(self, recipe: AnalyzerRecipe, stop_words: Iterable[str] = ()) -> None:
        self.recipe = recipe
        self._stemmer = None
        if recipe.language != "none":
            if recipe.language not in Stemmer.algorithms():
                raise SearchError(
                    f"the analyzer's language is {recipe.language!r}, expected none or one of "
                    f"{', '.join(Stemmer.algorithms())}"
                )
            self._stemmer = Stemmer.Stemmer(recipe.language, 0)
        drops = recipe.stop_words and recipe.language != "none"
        self._stop_words = frozenset(stop_words) if drops else frozenset()
        self._stemming = threading.Lock()  # a Snowball stemmer is not safe to share
        self._words = _Words(self)

    def terms(self, text: str) -> list[str]:
        """The terms of a text in order, repeated as often as they occur."""
        if text.isascii():
            words = _ASCII_WORDS.findall(text)
        else:
            words = _WORDS.findall(unicodedata.normalize("NFKC", text).replace(_SOFT_HYPHEN, ""))
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def _word_terms(self, word: str) -> tuple[str, ...]:
        if word.isascii():
            return tuple(self._spaced_terms(word))
        terms: list[str] = []
        for unspaced, spaced in _RUNS.findall(word):
            if unspaced:
                characters = _CHARACTERS.findall(unspaced.casefold())
                terms += characters
                terms += map("".join, pairwise(characters))
            else:
                terms += self._spaced_terms(spaced)
        return tuple(terms)

    def _spaced_terms(self, word: str) -> list[str]:
        terms: list[str] = []
        pieces = word.replace("\u2019", "'").split("'")
        for piece in pieces:
            if len(pieces) > 1 and len(piece) == 1:
                continue  # the s of "author's", the l of "l'eau"
            identifier = piece.strip("_")
            parts = [
                part for name in identifier.split("_") for part in _CAMEL_CASE.split(name) if part
            ]
            if len(parts) > 1:
                terms += self._stems(identifier[:MAX_TERM_LENGTH])
            for part in parts:
                terms += self._stems(part[:MAX_TERM_LENGTH])
        return terms

    def _stems(self, word: str) -> list[str]:
        folded = word.casefold()
        if folded in self._stop_words:
            return []
        if not folded.isascii():
            folded = unicodedata.normalize("NFKC", folded)
        if self._stemmer is not None:
            with self._stemming:
                folded = self._stemmer.stemWord(folded)
        if not folded.isascii():
            bare = _ACCENTED.sub(r"\1", unicodedata.normalize("NFD", folded))
            folded = unicodedata.normalize("NFC", bare).translate(_LETTERS)
        return [folded] if folded else []
