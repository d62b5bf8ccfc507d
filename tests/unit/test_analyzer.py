"""What counts as a term."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.analyzer import MAX_TERM_LENGTH, Analyzer
from search.errors import SearchError
from search.recipe import AnalyzerRecipe

ENGLISH = Analyzer(AnalyzerRecipe(), ["the", "of", "and", "a"])
PLAIN = Analyzer(AnalyzerRecipe(language="none"))


def finds(query: str, text: str, analyzer: Analyzer = PLAIN) -> bool:
    """Every term of the query is among the terms of the text."""
    wanted = analyzer.terms(query)
    return bool(wanted) and set(wanted) <= set(analyzer.terms(text))


def test_english_words_are_stemmed_and_stop_words_left_out() -> None:
    assert ENGLISH.terms("The running of the horses") == ["run", "hors"]


def test_stop_words_can_be_kept() -> None:
    analyzer = Analyzer(AnalyzerRecipe(stop_words=False), ["the"])
    assert analyzer.terms("the horses") == ["the", "hors"]


def test_without_a_language_words_stay_whole() -> None:
    assert PLAIN.terms("The running Horses") == ["the", "running", "horses"]


def test_an_unknown_language_is_refused_with_the_ones_that_are_known() -> None:
    with pytest.raises(SearchError, match=r"'klingon'.*none.*english.*spanish"):
        Analyzer(AnalyzerRecipe(language="klingon"))


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("join", "call os.path.join(a, b)"),
        ("os.path.join", "call os.path.join(a, b)"),
        ("bar", "the foo_bar option"),
        ("foo_bar", "the foo_bar option"),
        ("user name", "getUserName()"),
        ("getusername", "getUserName()"),
        ("http server", "class HTTPServer"),
        ("init", "def __init__(self)"),
        ("sha256", "a SHA256 digest"),
    ],
)
def test_identifiers_are_found_whole_and_by_their_parts(query: str, text: str) -> None:
    assert finds(query, text)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("東京", "私は東京に住んでいます"),
        ("京", "私は東京に住んでいます"),
        ("コンピュータ", "新しいコンピュータを買う"),
        ("手机", "iPhone手机壳"),
        ("iphone", "iPhone手机壳"),
        ("ภาษา", "ฉันพูดภาษาไทย"),
        ("학교", "학교에서 공부한다"),
        ("हिन्दी", "मुझे हिन्दी आती है"),
        ("шёл", "Он ШЁЛ домой"),
        ("शब्द", "एक शब्द"),
    ],
)
def test_every_script_is_found(query: str, text: str) -> None:
    assert finds(query, text)


def test_a_pair_of_characters_is_more_than_its_two_characters() -> None:
    assert not finds("京東", "私は東京に住んでいます")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("cafe", "un café noir"),
        ("CAFÉ", "un cafe\u0301 noir"),  # composed or not
        ("strasse", "die Straße"),
        ("ﬁle", "a file"),  # a ligature
        ("istanbul", "İSTANBUL"),  # its dot becomes a mark when folded
        ("eau", "l\u2019eau"),
        ("author", "the author's copy"),
        ("hyphen", "a hy\u00adphen"),  # a soft hyphen is not part of the word
    ],
)
def test_spelling_that_looks_the_same_is_the_same(query: str, text: str) -> None:
    assert finds(query, text)


def test_marks_that_make_another_letter_are_kept() -> None:
    assert not finds("か", "が")
    assert not finds("и", "й")


def test_a_run_of_characters_without_end_gives_one_short_term() -> None:
    assert [len(term) for term in PLAIN.terms("x" * 1_000_000)] == [MAX_TERM_LENGTH]


def test_a_long_text_without_spaces_is_found_to_its_end() -> None:
    assert finds("終了", "文" * 10_000 + "終了")


@given(st.text())
def test_any_text_has_terms_that_give_themselves(text: str) -> None:
    for term in PLAIN.terms(text):
        assert term
        assert "\n" not in term
        assert term in PLAIN.terms(term)


def test_threads_that_share_an_analyzer_get_the_same_terms() -> None:
    texts = [f"running{n} nationalities{n} ponies relational{n % 7}" for n in range(2_000)]
    expected = [Analyzer(AnalyzerRecipe()).terms(text) for text in texts]
    shared, start = Analyzer(AnalyzerRecipe()), threading.Barrier(8)

    def read(_: int) -> list[list[str]]:
        start.wait()
        return [shared.terms(text) for text in texts]

    with ThreadPoolExecutor(8) as threads:
        assert all(found == expected for found in threads.map(read, range(8)))
