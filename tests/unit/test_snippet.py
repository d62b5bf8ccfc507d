from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from search.snippet import SNIPPET_CHARACTERS, query_words, snippet

FILLER = "Words about nothing in particular go on and on. " * 40


def test_a_short_text_is_shown_whole_on_one_line() -> None:
    assert snippet("One\n\n  two\tthree. ", ["two"]) == "One two three."


def test_a_long_text_is_shown_around_the_words_of_the_query() -> None:
    text = FILLER + "A zebra crossed the river. " + FILLER
    shown = snippet(text, query_words("Where do zebras cross? The ZEBRA!"))
    assert "A zebra crossed the river." in shown
    assert shown.startswith("…")
    assert shown.endswith("…")


def test_the_place_with_most_different_words_wins() -> None:
    text = "zebra zebra zebra. " + FILLER + "The zebra crossed the river." + FILLER
    assert "crossed" in snippet(text, query_words("zebra crossed river"))


def test_without_a_match_the_text_is_shown_from_its_start() -> None:
    assert snippet("The start. " + FILLER, query_words("zebra")).startswith("The start.")
    assert snippet("The start. " + FILLER, []).startswith("The start.")


def test_words_are_not_cut_in_half() -> None:
    text = FILLER + "A zebra crossed the river. " + FILLER
    words = set(text.split())
    shown = snippet(text, ["zebra"]).strip("…")
    assert set(shown.split()) <= words


def test_a_word_is_found_at_its_beginning_only() -> None:
    text = "heart " * 3 + FILLER + "modern art." + FILLER
    assert "modern art" in snippet(text, query_words("art"))


def test_scripts_without_spaces_are_found_too() -> None:
    text = "検索エンジン" * 100 + "機械学習の再構築" + "検索エンジン" * 100
    assert "機械学習" in snippet(text, query_words("機械学習"))


def test_whitespace_does_not_eat_the_room() -> None:
    text = "start " + "word      \n" * 200
    assert len(snippet(text, [])) > SNIPPET_CHARACTERS * 0.8


@given(text=st.text(max_size=2_000), query=st.text(max_size=50), n=st.integers(1, 5))
def test_whatever_the_text_it_is_one_line_within_the_limit(text: str, query: str, n: int) -> None:
    shown = snippet(text * n, query_words(query))
    assert len(shown) <= SNIPPET_CHARACTERS
    assert shown.strip("…") == " ".join(shown.strip("…").split()) or "…" in text


def test_a_query_of_many_words_is_searched_for_its_longest() -> None:
    query = " ".join(f"{'w' * length}" for length in range(1, 100))
    words = query_words(query)
    assert len(words) == 8
    assert words[0] == "w" * 99
