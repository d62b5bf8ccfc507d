"""Evaluation beyond one score: dimensions, slices, seen and unseen documents, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import JudgmentsInvalid, ModelUnsupported
from training.evaluation import differences, evaluate_dims, truncate
from training.judgments import Judgments, find_documents, read_judgments
from training.metrics import METRICS, Scores, paired_bootstrap, score
from training.pairs import Pair
from training.resampling import bootstrap_means, holm, p_value
from training.seen import TrainedDocuments, split_by_seen
from training.slices import slice_means, slice_scores, telling_slices

Row = Sequence[float]


class TableEncoder:
    """Rows from a table, by text; counts how often it is asked."""

    def __init__(self, rows: dict[str, Row]) -> None:
        self.rows = rows
        self.n_documents = 0

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        matrix = np.array([self.rows[text] for text in texts], dtype=np.float32)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.n_documents += len(texts)
        return self.encode_queries(texts)


# The first two columns alone: `near` points where the query points, but what is left of it is
# short; `far` points elsewhere and is long.
ROWS = {"query": (1, 0, 0, 0), "near": (0.2, 0, 0.98, 0), "far": (0.6, 0.8, 0, 0)}


def folder_of(
    folder: Path,
    *,
    documents: dict[str, str],
    queries: Sequence[dict[str, object]],
    relevant: dict[str, Sequence[str]],
) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": doc_id, "text": text} for doc_id, text in documents.items()]
    for name, lines in (("corpus", rows), ("queries", queries)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    judged = [f"{query}\t{doc}\t1\n" for query, docs in relevant.items() for doc in docs]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


@pytest.fixture
def near_and_far(tmp_path: Path) -> Path:
    return folder_of(
        tmp_path / "beir",
        documents={"a-far": "far", "b-near": "near"},
        queries=[{"_id": "q", "text": "query"}],
        relevant={"q": ["b-near"]},
    )


# -- dimensions ----------------------------------------------------------------------------------


def test_truncated_vectors_are_brought_back_to_length_one(near_and_far: Path) -> None:
    found = evaluate_dims(TableEncoder(ROWS), near_and_far, "test", [2])
    assert [doc_id for doc_id, _ in found[4].run["q"]] == ["a-far", "b-near"]
    (best, cosine), (second, lower) = found[2].run["q"]
    assert (best, second) == ("b-near", "a-far"), "by direction, not by what length is left"
    assert (cosine, lower) == pytest.approx((1.0, 0.6))
    assert found[2].scores.means()["ndcg@1"] == 1.0


def test_all_dimensions_come_from_one_encoding(near_and_far: Path) -> None:
    encoder = TableEncoder(ROWS)
    found = evaluate_dims(encoder, near_and_far, "test", [1, 3, 2, 4, 3])
    assert encoder.n_documents == 2
    assert list(found) == [4, 3, 2, 1], "the full dimension first, then from long to short"
    assert [item.dim for item in found.values()] == [4, 3, 2, 1]


def test_a_dimension_the_model_does_not_have_is_refused(near_and_far: Path) -> None:
    for wrong in (5, 0, -1):
        with pytest.raises(ModelUnsupported, match=f"rows of 4 dimensions; {wrong} cannot"):
            evaluate_dims(TableEncoder(ROWS), near_and_far, "test", [2, wrong])


def test_a_row_of_which_nothing_is_left_is_no_answer_and_no_error() -> None:
    rows = np.array([[0, 0, 1], [0.6, 0, 0.8]], dtype=np.float32)
    np.testing.assert_allclose(truncate(rows, 2), [[0, 0], [1, 0]])


# -- differences ---------------------------------------------------------------------------------


def made_up_scores(seed: int, n_queries: int = 60) -> Scores:
    rng = np.random.default_rng(seed)
    return Scores(
        query_ids=tuple(f"q{number:03}" for number in range(n_queries)),
        per_query={name: rng.uniform(size=n_queries) for name in METRICS},
    )


def test_every_metric_has_the_interval_of_the_paired_bootstrap() -> None:
    candidate, baseline = made_up_scores(1), made_up_scores(2)
    found = differences(candidate, baseline)
    assert list(found) == list(METRICS)
    for name in METRICS:
        expected = paired_bootstrap(candidate.per_query[name], baseline.per_query[name])
        assert found[name].to_json() == pytest.approx(expected.to_json(), abs=1e-12)


def test_scores_of_different_queries_have_no_difference() -> None:
    with pytest.raises(ValueError, match="60 and 61 queries"):
        differences(made_up_scores(1), made_up_scores(2, n_queries=61))


def test_draws_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).uniform(size=(30, 3))
    whole = bootstrap_means(values, n=100)
    monkeypatch.setattr("training.resampling._BLOCK_VALUES", 70)
    np.testing.assert_allclose(bootstrap_means(values, n=100), whole, atol=1e-14)
    with pytest.raises(ValueError, match="no queries"):
        bootstrap_means(np.empty((0, 3)))


def test_a_p_value_is_rarely_small_where_there_is_no_difference() -> None:
    rng = np.random.default_rng(5)
    small = 0
    for seed in range(200):
        values = rng.normal(0, 0.3, size=80)
        drawn = bootstrap_means(values[:, None], n=1_000, seed=seed)[:, 0]
        small += p_value(float(values.mean()), drawn) < 0.05
    assert small <= 22  # 10 of 200 expected; four standard errors on top
    values = rng.normal(0.3, 0.3, size=80)
    assert p_value(float(values.mean()), bootstrap_means(values[:, None])[:, 0]) < 0.001


def test_holm_corrects_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


# -- slices --------------------------------------------------------------------------------------


def judged(slices: dict[str, tuple[str, ...]], n_queries: int = 10) -> Judgments:
    queries = {f"q{number}": "text" for number in range(n_queries)}
    return Judgments(queries=queries, qrels={name: {"d": 1} for name in queries}, slices=slices)


def test_slices_are_read_from_slice_and_metadata(tmp_path: Path) -> None:
    queries = [
        {"_id": "q1", "text": "a", "slice": "short", "metadata": {"lang": "de", "urgent": True}},
        {"_id": "q2", "text": "b", "slice": ["short", "new"], "metadata": {"year": 2024}},
        {"_id": "q3", "text": "c", "metadata": {"d17": [{"label": "yes"}]}},
        {"_id": "unjudged", "text": "d", "slice": "short"},
    ]
    relevant = {name: ["d"] for name in ("q1", "q2", "q3")}
    folder = folder_of(tmp_path / "x", documents={"d": "d"}, queries=queries, relevant=relevant)
    assert read_judgments(folder, "test").slices == {
        "lang=de": ("q1",),
        "new": ("q2",),
        "short": ("q1", "q2"),
        "urgent=true": ("q1",),
        "year=2024": ("q2",),
    }


def test_a_slice_that_is_no_name_is_refused_with_its_place(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "x",
        documents={"d": "d"},
        queries=[{"_id": "q", "text": "a", "slice": 3}],
        relevant={"q": ["d"]},
    )
    with pytest.raises(JudgmentsInvalid, match=r"queries\.jsonl line 1: expected slice to be"):
        read_judgments(folder, "test")


def test_slices_that_say_nothing_are_left_out() -> None:
    everything = tuple(f"q{number}" for number in range(10))
    slices = {"id=1": ("q1",), "all": everything, "six": everything[:6], "nine": everything[1:]}
    assert list(telling_slices(judged(slices))) == ["nine", "six"]


def test_a_slice_has_the_mean_of_its_own_queries() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}}
    base = score({"q1": ["a"], "q2": ["x"], "q3": ["x"]}, qrels)
    tuned = score({"q1": ["a"], "q2": ["b"], "q3": ["x"]}, qrels)
    groups = {"one": ("q1", "q2", "unscored"), "none": ()}
    one, none = slice_scores(groups, base, tuned)
    assert (one.n_queries, one.base, one.tuned) == (2, 0.5, 1.0)
    assert one.difference is not None
    assert one.difference.mean == 0.5
    assert (none.n_queries, none.difference) == (0, None)
    means = slice_means(groups, tuned)
    assert list(means) == ["one"]
    assert (means["one"]["queries"], means["one"]["ndcg@10"]) == (2, 1.0)


# -- seen and unseen documents -------------------------------------------------------------------

DOCUMENTS = {"a": "Cats sleep.", "b": "Dogs bark.", "c": "Birds sing.", "d": "Fish swim."}


def test_queries_are_sorted_by_whether_their_documents_were_trained_on(tmp_path: Path) -> None:
    relevant = {"all": ["a", "b"], "some": ["b", "c"], "none": ["c", "d"]}
    queries = [{"_id": name, "text": name} for name in relevant]
    folder = folder_of(tmp_path / "x", documents=DOCUMENTS, queries=queries, relevant=relevant)
    pairs = [
        Pair(anchor="x", positive="other words", doc_id="a"),
        Pair(anchor="y", positive="  DOGS\nbark. "),
        Pair(anchor="z", positive="Dogs bark loudly."),
    ]
    found = split_by_seen(folder, read_judgments(folder, "test"), TrainedDocuments.of(pairs))
    assert found.groups() == {"unseen": ("none",), "mixed": ("some",), "seen": ("all",)}
    assert (found.n_documents, found.n_seen_documents) == (4, 2)


def test_a_negative_does_not_count_as_trained_on(tmp_path: Path) -> None:
    folder = folder_of(
        tmp_path / "x",
        documents=DOCUMENTS,
        queries=[{"_id": "q", "text": "q"}],
        relevant={"q": ["a"]},
    )
    pairs = [Pair(anchor="x", positive="else", negatives=("Cats sleep.",))]
    found = split_by_seen(folder, read_judgments(folder, "test"), TrainedDocuments.of(pairs))
    assert found.unseen == ("q",)


def test_finding_documents_stops_at_the_last_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "x", documents=DOCUMENTS, queries=[], relevant={})
    with (folder / "corpus.jsonl").open("a") as file:
        file.write("not JSON\n")
    assert [item.doc_id for item in find_documents(folder, {"c", "a"})] == ["a", "c"]
    with pytest.raises(JudgmentsInvalid, match="line 5 is not JSON"):
        list(find_documents(folder, {"missing"}))
