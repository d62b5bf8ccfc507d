"""The demo's training set: pairs from docstrings, tested on modules that were not trained on."""

from __future__ import annotations

from pathlib import Path

from reindexer.demo_training import BODY_CHARACTERS, docstring_pairs, write_training_set
from search.documents import Document
from training.judgments import read_documents, read_judgments
from training.pairs import read_pairs

BODY = "It reads the whole file into memory, line after line, and gives back a list of them. " * 2


def _docstring(number: int, text: str) -> Document:
    return Document(
        doc_id=f"m{number // 3}.f{number}",
        title=f"m{number // 3}.f{number}",
        text=text,
        metadata={"module": f"m{number // 3}"},
    )


def test_the_first_paragraph_asks_for_the_rest() -> None:
    document = _docstring(0, f"Read a file\n line by line.\n\n{BODY}")

    (pair,) = docstring_pairs([document])

    assert pair.anchor == "Read a file line by line."
    assert pair.positive == f"m0.f0 {BODY.strip()}"
    assert (pair.doc_id, pair.group) == ("m0.f0", "m0")


def test_docstrings_that_say_too_little_make_no_pair() -> None:
    texts = ["Read a file line by line.", f"Read.\n\n{BODY}", "Read a file line by line.\n\nShort."]

    assert list(docstring_pairs([_docstring(0, text) for text in texts])) == []


def test_long_bodies_are_cut() -> None:
    (pair,) = docstring_pairs([_docstring(0, f"Read a file line by line.\n\n{BODY * 20}")])

    assert len(pair.positive) <= len("m0.f0 ") + BODY_CHARACTERS.stop


def test_no_module_is_both_trained_on_and_tested(tmp_path: Path) -> None:
    documents = [
        _docstring(number, f"Read file number {number} line by line.\n\nFile {number}. {BODY}")
        for number in range(60)
    ]

    pairs = read_pairs(write_training_set(documents, tmp_path))
    judgments = read_judgments(tmp_path, "test")

    trained = {pair.group for pair in pairs}
    tested = {doc_id.split(".")[0] for grades in judgments.qrels.values() for doc_id in grades}
    assert len(pairs) + len(judgments.queries) == 60
    assert tested
    assert trained.isdisjoint(tested)
    assert len(list(read_documents(tmp_path))) == 60  # tested among all that were trained on
