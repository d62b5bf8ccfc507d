from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import training.evaluation
from training.errors import JudgmentsInvalid
from training.evaluation import dense_run, evaluate_encoder
from training.judgments import JudgedDocument, read_documents, read_judgments, splits

CORPUS = [
    {"_id": "1", "title": "Cats", "text": "They sleep."},
    {"_id": "2", "title": "", "text": "Dogs bark."},
    {"_id": "3", "title": "Birds", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "who sleeps"},
    {"_id": "q2", "text": "who barks"},
    {"_id": "unjudged", "text": "who asks"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\t1\t2\nq1\t3\t0\nq2\t2\t1\n"


def beir_folder(
    folder: Path,
    *,
    corpus: Sequence[object] = CORPUS,
    queries: Sequence[object] = QUERIES,
    qrels: Mapping[str, str] | None = None,
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", corpus), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for split, text in ({"test": QRELS} if qrels is None else qrels).items():
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


class HashEncoder:
    """A direction of its own for every text; equal texts have equal vectors."""

    def __init__(self, dim: int = 16) -> None:
        self._dim = dim

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.encode_documents(texts)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [
            np.random.default_rng(list(text.encode())).standard_normal(self._dim) for text in texts
        ]
        matrix = np.array(rows, dtype=np.float32).reshape(len(texts), self._dim)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


# -- judgments -----------------------------------------------------------------------------------


def test_only_the_queries_that_the_split_judges_are_read(tmp_path: Path) -> None:
    judgments = read_judgments(beir_folder(tmp_path / "beir"), "test")
    assert judgments.queries == {"q1": "who sleeps", "q2": "who barks"}
    assert judgments.qrels == {"q1": {"1": 2, "3": 0}, "q2": {"2": 1}}


def test_a_file_from_another_system_reads_the_same(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "beir")
    for path in (folder / "queries.jsonl", folder / "qrels" / "test.tsv"):
        text = "\ufeff" + path.read_text() + "\n"
        path.write_bytes(text.replace("\n", "\r\n").encode())
    judgments = read_judgments(folder, "test")
    assert judgments.qrels == {"q1": {"1": 2, "3": 0}, "q2": {"2": 1}}


def test_documents_come_one_by_one_with_title_and_text(tmp_path: Path) -> None:
    documents = list(read_documents(beir_folder(tmp_path / "beir")))
    assert documents[0] == JudgedDocument("1", "Cats", "They sleep.")
    assert [item.full_text for item in documents] == ["Cats They sleep.", "Dogs bark.", "Birds"]


def test_an_unknown_split_is_answered_with_the_splits_there_are(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "beir", qrels={"train": QRELS, "dev": QRELS})
    assert splits(folder) == ["dev", "train"]
    with pytest.raises(JudgmentsInvalid, match=r"the splits dev, train, expected a split 'test'"):
        read_judgments(folder, "test")


def test_a_folder_without_qrels_is_answered_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(JudgmentsInvalid, match=r"no qrels/<split>\.tsv"):
        read_judgments(tmp_path, "test")
    with pytest.raises(JudgmentsInvalid, match=r"found nothing at .*missing"):
        read_judgments(tmp_path / "missing", "test")


@pytest.mark.parametrize(
    ("qrels", "message"),
    [
        ("query-id\tcorpus-id\tscore\nq1 1 1\n", "line 2: found 'q1 1 1'"),
        ("query-id\tcorpus-id\tscore\nq1\t1\tyes\n", "line 2: found .* whole number"),
        ("query-id\tcorpus-id\tscore\nq1\t1\t0.5\n", "line 2: found .* whole number"),
        ("q1\t0\t1\t1\n", "line 1: found .* expected query-id<TAB>corpus-id<TAB>score"),
        ("q1\t1\t1\nq1\t1\t2\n", "line 2: .* judged 1 before and 2 here"),
        ("query-id\tcorpus-id\tscore\nq1\t1\t0\n", "1 judgments and none above 0"),
        ("query-id\tcorpus-id\tscore\n", "0 judgments and none above 0"),
        ("q1\t1\t1\nq9\t1\t1\n", "1 of the 2 queries judged in test.tsv .* 'q9'"),
    ],
)
def test_bad_judgments_are_refused_with_their_place(
    tmp_path: Path, qrels: str, message: str
) -> None:
    folder = beir_folder(tmp_path / "beir", qrels={"test": qrels})
    with pytest.raises(JudgmentsInvalid, match=message):
        read_judgments(folder, "test")


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ([QUERIES[0], "text"], "line 2: expected an object"),
        ([{"text": "who"}], "line 1: found no _id"),
        ([{"_id": "q1", "text": "  "}], "line 1: expected the query's words"),
        ([{"_id": "q1", "text": None}], "line 1: expected the query's words"),
    ],
)
def test_bad_queries_are_refused_with_their_place(
    tmp_path: Path, queries: Sequence[object], message: str
) -> None:
    folder = beir_folder(tmp_path / "beir", queries=queries)
    with pytest.raises(JudgmentsInvalid, match=message):
        read_judgments(folder, "test")


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    folder = beir_folder(tmp_path / "beir")
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "\xff"}\n')
    with pytest.raises(JudgmentsInvalid, match=r"queries\.jsonl is not UTF-8 \(byte 0xff\)"):
        read_judgments(folder, "test")
    (folder / "queries.jsonl").write_text('{"_id": "q1", ')
    with pytest.raises(JudgmentsInvalid, match=r"queries\.jsonl line 1 is not JSON"):
        read_judgments(folder, "test")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(JudgmentsInvalid, match=r"queries\.jsonl is missing"):
        read_judgments(folder, "test")


# -- an encoder by itself ------------------------------------------------------------------------


def made_up(n_documents: int) -> list[JudgedDocument]:
    return [JudgedDocument(f"d{number:04}", "", f"text {number}") for number in range(n_documents)]


def test_the_run_is_the_exact_order_by_cosine() -> None:
    encoder, documents = HashEncoder(), made_up(300)
    queries = {f"q{number}": f"query {number}" for number in range(7)}
    found = dense_run(encoder, queries, documents, k=20)
    similarities = (
        encoder.encode_queries(list(queries.values()))
        @ encoder.encode_documents([document.full_text for document in documents]).T
    )
    for row, query_id in enumerate(queries):
        nearest = np.argsort(-similarities[row])[:20]
        assert found[query_id] == [documents[column].doc_id for column in nearest]


def test_the_run_does_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = {f"q{number}": f"query {number}" for number in range(7)}
    whole = dense_run(HashEncoder(), queries, made_up(300), k=20)
    monkeypatch.setattr(training.evaluation, "DOCUMENTS_PER_BLOCK", 17)
    monkeypatch.setattr(training.evaluation, "QUERIES_PER_BLOCK", 3)
    assert dense_run(HashEncoder(), queries, made_up(300), k=20) == whole


def test_documents_are_read_no_faster_than_they_are_encoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training.evaluation, "DOCUMENTS_PER_BLOCK", 10)
    n_read = 0
    ahead = []

    def read() -> object:
        nonlocal n_read
        for document in made_up(95):
            n_read += 1
            yield document

    dense_run(
        HashEncoder(), {"q": "query"}, read(), on_progress=lambda done: ahead.append(n_read - done)
    )
    assert ahead == [0] * 10


def test_equal_documents_stand_by_doc_id() -> None:
    twins = [JudgedDocument(doc_id, "", "the same") for doc_id in ("c", "a", "b")]
    assert dense_run(HashEncoder(), {"q": "query"}, twins) == {"q": ["a", "b", "c"]}


def test_no_documents_give_an_empty_ranking() -> None:
    assert dense_run(HashEncoder(), {"q": "query"}, []) == {"q": []}


def test_an_encoder_is_scored_on_the_folder_alone(tmp_path: Path) -> None:
    queries = [{"_id": "q1", "text": "Cats They sleep."}, {"_id": "q2", "text": "Dogs bark."}]
    folder = beir_folder(tmp_path / "beir", queries=queries)
    scores = evaluate_encoder(HashEncoder(), folder, "test")
    assert scores.query_ids == ("q1", "q2")
    assert scores.means()["ndcg@10"] == 1.0  # both queries are word for word their document
    assert scores.means()["recall@1"] == 1.0
