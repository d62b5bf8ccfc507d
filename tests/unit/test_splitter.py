"""The splitter: nothing is cut off, nothing is too long, and time grows with the text."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.documents import Document, Passage
from search.recipe import SplitterRecipe
from search.splitter import Splitter, default_splitter_recipe
from tests.tiny_models import byte_pair_tokenizer, wordpiece_tokenizer
from training.tokenizer import TextTokenizer, TokenizedTexts

TOKENIZERS = {"wordpiece": wordpiece_tokenizer(), "byte pairs": byte_pair_tokenizer()}
PROSE = (
    "The river was warm in the summer. We walk to the market, and buy bread, milk and corn! "
    "Is it far? Not on a good day.\n\nIn winter the road is under snow. The old woman tells a "
    "story about a bear; the children hear it every year, and ask for one more.\n"
)


class DocumentTokens:
    """What an encoder gives a splitter."""

    def __init__(self, kind: str, *, prompt: str = "") -> None:
        self._tokenizer = TextTokenizer(
            TOKENIZERS[kind], prompt=prompt, max_tokens=512, special_tokens=True
        )

    def tokenize_documents(self, texts: Sequence[str], /) -> TokenizedTexts:
        return self._tokenizer.tokenize(texts)


def splitter(
    kind: str = "wordpiece", *, max_tokens: int = 64, overlap_tokens: int = 8, prompt: str = ""
) -> Splitter:
    recipe = SplitterRecipe(max_tokens=max_tokens, overlap_tokens=overlap_tokens)
    return Splitter(recipe, DocumentTokens(kind, prompt=prompt))


def document(text: str, title: str = "") -> Document:
    return Document.of(doc_id="d", text=text, title=title)


def assert_whole(split: Splitter, given: Document, kind: str, prompt: str = "") -> list[Passage]:
    """Every promise a splitter makes about one document."""
    passages, tokenized = split.split_all([given])
    assert passages
    assert [passage.number for passage in passages] == list(range(len(passages)))
    assert {(passage.doc_id, passage.count) for passage in passages} == {("d", len(passages))}
    expected = DocumentTokens(kind, prompt=prompt).tokenize_documents([p.text for p in passages])
    assert tokenized.ids.tolist() == expected.ids.tolist()
    assert tokenized.offsets.tolist() == expected.offsets.tolist()
    assert tokenized.lengths.max() <= split.max_tokens
    covered = bytearray(len(given.text))
    for passage in passages:
        assert 0 <= passage.start <= passage.end <= len(given.text)
        assert passage.text.endswith(given.text[passage.start : passage.end])
        covered[passage.start : passage.end] = b"\1" * (passage.end - passage.start)
    missed = [c for c, seen in zip(given.text, covered, strict=True) if not seen]
    assert not "".join(missed).strip()
    assert [p.start for p in passages] == sorted(p.start for p in passages)
    return passages


ODD = st.text(
    alphabet=st.one_of(
        st.sampled_from(" \n\t.a9東é\N{GRINNING FACE}\u0301\u200d\u3000\x1c\u2028"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"),
    ),
    max_size=400,
)


@settings(max_examples=150, deadline=None)
@given(
    text=st.one_of(ODD, ODD.map(lambda text: text * 9)),
    title=st.one_of(st.just(""), ODD),
    kind=st.sampled_from(sorted(TOKENIZERS)),
    max_tokens=st.integers(24, 80),
    overlap_tokens=st.integers(0, 40),
    prompt=st.sampled_from(["", "page: "]),
)
def test_no_character_is_lost_and_no_passage_is_too_long(
    text: str, title: str, kind: str, max_tokens: int, overlap_tokens: int, prompt: str
) -> None:
    if not text.strip() and not title.strip():
        title = "empty"
    split = splitter(kind, max_tokens=max_tokens, overlap_tokens=overlap_tokens, prompt=prompt)
    assert_whole(split, document(text, title), kind, prompt)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("word" * 5_000, "no spaces"),
        ("東京都" * 2_000, "no spaces either"),
        ("\N{FAMILY}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}" * 900, "emoji"),
        ("e" + "\u0301" * 4_000, "one character with thousands of accents"),
        ("[SEP] [CLS] " * 800, "special tokens as text"),
        ("a" * 3_000 + " the old house" * 3_000, "uneven"),
        (PROSE * 20, "long title " * 200),
        ("", "only a title " * 200),
        (" \n" * 4_000, "only a title"),
    ],
)
def test_odd_documents_are_split_whole(kind: str, text: str, title: str) -> None:
    assert_whole(splitter(kind), document(text, title), kind)


def test_a_short_document_is_one_passage() -> None:
    passages = splitter().split(document(PROSE[:60], "Summer"))
    assert [(p.number, p.count, p.start, p.end, p.text) for p in passages] == [
        (0, 1, 0, 60, "Summer " + PROSE[:60])
    ]


def test_every_passage_carries_the_title() -> None:
    passages = assert_whole(splitter(), document(PROSE * 5, "Summer and winter"), "wordpiece")
    assert len(passages) > 3
    assert all(passage.text.startswith("Summer and winter ") for passage in passages)


def test_all_of_a_long_title_is_in_the_passages() -> None:
    title = " ".join(f"part {number}" for number in range(200))
    passages = assert_whole(splitter(), document(PROSE, title), "wordpiece")
    joined = " ".join(passage.text for passage in passages)
    assert all(f"part {number}" in joined for number in range(200))


def test_a_title_alone_is_a_document() -> None:
    passages = splitter().split(document("", "Summer and winter"))
    assert [(p.start, p.end, p.text) for p in passages] == [(0, 0, "Summer and winter")]


def test_text_without_sentences_shares_words_between_neighbours() -> None:
    text = "the old house by the river was cold in winter and warm in summer and " * 40
    passages = assert_whole(splitter(overlap_tokens=16), document(text), "wordpiece")
    shared = [text[b.start : a.end].split() for a, b in itertools.pairwise(passages)]
    assert all(8 <= len(words) <= 20 for words in shared)
    apart = assert_whole(splitter(overlap_tokens=0), document(text), "wordpiece")
    assert all(a.end < b.start for a, b in itertools.pairwise(apart))


def test_passages_end_at_sentences_and_are_filled() -> None:
    text = PROSE * 60
    passages, tokenized = splitter(max_tokens=96, overlap_tokens=0).split_all([document(text)])
    assert all(passage.text[-1] in ".!?" for passage in passages)
    assert tokenized.lengths.min() > 0.3 * 96
    assert tokenized.lengths.mean() > 0.7 * 96


def test_documents_keep_their_order_among_others() -> None:
    documents = [
        Document.of(doc_id=str(number), text=PROSE * (number % 4), title=f"number {number}")
        for number in range(12)
    ]
    split = splitter()
    passages, tokenized = split.split_all(documents)
    assert passages == [passage for given in documents for passage in split.split(given)]
    assert len(tokenized) == len(passages)
    assert split.split_all([])[0] == []


def test_the_default_is_the_models_length_within_reason() -> None:
    assert default_splitter_recipe(256) == SplitterRecipe(max_tokens=256, overlap_tokens=32)
    assert default_splitter_recipe(32_768).max_tokens == 512


@pytest.mark.parametrize(
    "unit", [PROSE, "東京", "word", "ab\n", "a.-/+"], ids=["prose", "cjk", "word", "lines", "signs"]
)
def test_time_grows_with_the_text_and_not_with_its_square(unit: str) -> None:
    split = splitter("byte pairs", max_tokens=256, overlap_tokens=32)

    def seconds(n_characters: int) -> float:
        text = (unit * (n_characters // len(unit) + 1))[:n_characters]
        began = time.process_time()
        split.split(document(text))
        return time.process_time() - began

    small = min(seconds(12_500) for _ in range(3))
    assert seconds(100_000) < 8 * 3 * small + 0.05
