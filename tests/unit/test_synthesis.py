"""What is read from a language model's answers, which documents are asked about, and which queries
lead back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.errors import TrainingError
from training.judgments import JudgedDocument
from training.llm_answers import AnswerFile, find_queries
from training.llm_calls import Completion
from training.pairs import Pair
from training.round_trip import round_trip
from training.synthesis import SynthesisTask, choose_documents


@pytest.mark.parametrize(
    "answer",
    [
        '["one two", "three"]',
        'Here you are:\n["one two", "three"]\nAnything else?',
        '```json\n["one two",\n "three"]\n```',
        '```\n["one two", "three"]',
        '{"queries": ["one two", "three"]}',
        '[{"query": "one two"}, {"query": "three", "kind": "keywords"}]',
        '{"query": "one two"}\n{"query": "three"}',
        '[{"query": "one two"}, {"question": "three"}, {"que',
        '["one two", "three", "cut of',
        '["one two", "three"',
        'As asked [1]: ["one two", "three"]',
        "1. one two\n2. three",
        "1) one two\n2) three\n",
        'Sure!\n\n- "one two"\n- three',
        "* one two\n* three",
        '<think>["a draft"] is too short</think>["one two", "three"]',
    ],
)
def test_queries_are_found_however_the_model_wraps_them(answer: str) -> None:
    assert find_queries(answer) == ["one two", "three"]


@pytest.mark.parametrize(
    "answer",
    ["", "I cannot help with that.", "[]", "[1, 2]", "{}", '["cut', "<think>[", "{" * 200, "null"],
)
def test_no_queries_are_made_up(answer: str) -> None:
    assert find_queries(answer) == []


@given(st.text())
def test_any_answer_is_read_without_failing(answer: str) -> None:
    assert all(isinstance(query, str) for query in find_queries(answer))


@given(st.lists(st.text(), min_size=1))
def test_a_list_of_texts_comes_back_as_it_was(queries: list[str]) -> None:
    assert find_queries(json.dumps(queries)) == queries


@given(st.lists(st.text(min_size=1), min_size=2), st.data())
def test_a_cut_list_gives_only_whole_queries(queries: list[str], data: st.DataObject) -> None:
    answer = json.dumps(queries)
    cut = answer[: data.draw(st.integers(0, len(answer) - 1))]
    found = find_queries(cut)
    assert found == queries[: len(found)]


def test_answers_are_kept_across_runs_and_a_torn_line_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    kept, other = Completion(text="[1]\n", whole=False), Completion(text="é", whole=True)
    with AnswerFile(path) as file:
        file.put("a", kept)
    with path.open("ab") as torn:
        torn.write(b'{"key": "b", "te')
    with AnswerFile(path) as file:
        assert file.get("a") == kept
        assert file.get("b") is None
        file.put("c", other)
    with AnswerFile(path) as file:
        assert (file.get("a"), file.get("c")) == (kept, other)
    assert path.stat().st_mode & 0o077 == 0


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="cannot be used"):
        AnswerFile(tmp_path)


def test_a_larger_choice_contains_the_smaller_and_order_does_not_matter() -> None:
    documents = [JudgedDocument(f"d{at}", "", f"text {at}") for at in range(100)]
    few = choose_documents(documents, without=set(), limit=10)
    many = choose_documents(reversed(documents), without=set(), limit=30)
    assert len(few) == 10
    assert {item.doc_id for item in few} < {item.doc_id for item in many}
    assert few != documents[:10]


def test_documents_with_queries_and_empty_ones_are_passed_over() -> None:
    documents = [
        JudgedDocument("a", "", "x"),
        JudgedDocument("b", "", " "),
        JudgedDocument("c", "t", ""),
    ]
    assert choose_documents(documents, without={"a"}, limit=None) == documents[2:]
    assert choose_documents(documents, without=frozenset(), limit=9) == [documents[0], documents[2]]


def test_own_instructions_keep_the_form_of_the_answer_and_long_documents_are_cut() -> None:
    task = SynthesisTask(documents=(), n_queries=5, instructions="Ask like a plumber, {n} times.")
    system, user = task.messages(JudgedDocument("a", "Title", "word " * 10_000))
    assert system["content"].startswith("Ask like a plumber, 5 times.")
    assert "JSON list of 5 strings" in system["content"]
    assert user["content"].startswith("Document:\n\nTitle\n\nword")
    assert len(user["content"]) < 6_100


class Letters:
    """Rows that count letters: a query finds the documents it shares letters with."""

    def encode_queries(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        return self._rows(texts)

    def encode_documents(self, texts: Sequence[str], /) -> NDArray[np.float32]:
        return self._rows(texts)

    def _rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.array([[text.count(c) + 0.01 for c in "abcdefgh"] for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_query_that_does_not_find_its_document_is_dropped() -> None:
    documents = [JudgedDocument(letter, "", letter * 4 + "h") for letter in "abcdefg"]
    pairs = [
        Pair(anchor="aa", positive="aaaah", doc_id="a"),
        Pair(anchor="bbb c", positive="cccch", doc_id="c"),  # its second nearest
        Pair(anchor="bb cc", positive="gggh", doc_id="g"),
    ]
    first = round_trip(pairs, documents, Letters(), k=1)
    assert (first.kept, first.dropped) == ((pairs[0],), (pairs[1], pairs[2]))
    second = round_trip(pairs, documents, Letters(), k=2)
    assert (second.kept, second.dropped) == ((pairs[0], pairs[1]), (pairs[2],))
    assert (second.k, second.documents) == (2, 7)


class Long(Letters):
    """Rows long enough for two ways to add them up to differ in the last digits."""

    def _rows(self, texts: Sequence[str]) -> NDArray[np.float32]:
        seeds = [len(text) for text in texts]
        rows = np.array([np.random.default_rng(seed).normal(size=384) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_documents_that_read_the_same_do_not_push_each_other_out() -> None:
    documents = [JudgedDocument(f"d{at}", "", "aab") for at in range(1_500)]
    pairs = [Pair(anchor="x" * n, positive="aab", doc_id="d1499") for n in range(1, 20)]
    assert round_trip(pairs, documents, Long(), k=1).dropped == ()
    assert round_trip([], [], Long(), k=1).kept == ()
