from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import METRICS, PRIMARY_METRIC, Scores, paired_bootstrap, score

DOC_IDS = [f"d{number}" for number in range(30)]
GRADES = st.integers(min_value=-1, max_value=3)
QRELS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(st.sampled_from(DOC_IDS), GRADES, min_size=1, max_size=12),
    min_size=1,
)
# A small set of scores that float32 holds exactly, so that there are many ties.
RUNS = st.fixed_dictionaries(
    {
        query_id: st.dictionaries(
            st.sampled_from(DOC_IDS), st.sampled_from([0.25, 0.5, 0.75, 1.0]), min_size=1
        )
        for query_id in ("q1", "q2", "q3")
    }
)


def naive(metric: str, ranked: list[str], grades: Mapping[str, int]) -> float:
    """One metric of one query, written as its definition reads."""
    kind, k = metric.split("@")[0], int(metric.split("@")[1])
    relevant = {doc_id for doc_id, grade in grades.items() if grade > 0}
    top = ranked[:k]
    if not relevant:
        return 0.0
    if kind == "recall":
        return len(relevant & set(top)) / len(relevant)
    if kind == "mrr":
        return next((1 / rank for rank, doc in enumerate(top, 1) if doc in relevant), 0.0)
    if kind == "map":
        precisions = [
            len(relevant & set(top[:rank])) / rank
            for rank, doc_id in enumerate(top, 1)
            if doc_id in relevant
        ]
        return sum(precisions) / len(relevant)
    dcg = sum(
        grades[doc_id] / math.log2(rank + 1)
        for rank, doc_id in enumerate(top, 1)
        if doc_id in relevant
    )
    best = sorted((grades[doc_id] for doc_id in relevant), reverse=True)[:k]
    return dcg / sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))


def of_query(scores: Scores, query_id: str) -> dict[str, float]:
    row = scores.query_ids.index(query_id)
    return {name: values[row] for name, values in scores.per_query.items()}


@given(qrels=QRELS, run=RUNS)
def test_every_metric_is_its_definition(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    scores = score(run, qrels)
    for query_id, grades in qrels.items():
        by_id = sorted(run[query_id], reverse=True)
        ranked = sorted(by_id, key=run[query_id].__getitem__, reverse=True)
        found = of_query(scores, query_id)
        for metric in METRICS:
            assert found[metric] == pytest.approx(naive(metric, ranked, grades), abs=1e-12)


@given(qrels=QRELS, run=RUNS)
def test_agrees_with_trec_eval(
    qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    theirs = {
        "ndcg": "ndcg_cut.1,5,10",
        "recall": "recall.1,5,10,50,100",
        "map": "map_cut.100",
    }
    measures = {*theirs.values(), "recip_rank"}
    expected = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    scores = score(run, qrels)
    assert sorted(expected) == list(scores.query_ids)
    for query_id, values in expected.items():
        found = of_query(scores, query_id)
        for metric in METRICS:
            kind, _, k = metric.partition("@")
            if kind == "mrr":  # trec_eval's has no cut
                value = values["recip_rank"] if values["recip_rank"] >= 1 / int(k) else 0.0
            else:
                value = values[theirs[kind].partition(".")[0] + f"_{k}"]
            assert found[metric] == pytest.approx(value, abs=1e-9), metric


def test_a_case_worked_out_by_hand() -> None:
    scores = score({"q": ["x", "a", "y", "b"]}, {"q": {"a": 1, "b": 2, "c": 1}})
    dcg = 1 / math.log2(3) + 2 / math.log2(5)
    ideal = 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert scores.means() == pytest.approx(
        {
            "ndcg@1": 0.0,
            "ndcg@5": dcg / ideal,
            "ndcg@10": dcg / ideal,
            "recall@1": 0.0,
            "recall@5": 2 / 3,
            "recall@10": 2 / 3,
            "recall@50": 2 / 3,
            "recall@100": 2 / 3,
            "mrr@10": 1 / 2,
            "map@100": (1 / 2 + 2 / 4) / 3,
        },
        abs=1e-12,
    )


def test_nothing_counts_past_the_cut() -> None:
    ranked = [f"x{number}" for number in range(100)]
    assert score({"q": [*ranked[:10], "a"]}, {"q": {"a": 1}}).means()["mrr@10"] == 0.0
    assert score({"q": [*ranked, "a"]}, {"q": {"a": 1}}).means()["recall@100"] == 0.0
    assert score({"q": [*ranked, "a"]}, {"q": {"a": 1}}).means()["map@100"] == 0.0


def test_a_query_without_judgments_is_left_out() -> None:
    scores = score({"judged": ["a"], "other": ["b"]}, {"judged": {"a": 1}, "empty": {}})
    assert scores.query_ids == ("judged",)
    assert scores.means()[PRIMARY_METRIC] == 1.0


def test_a_judged_query_without_results_counts_zero() -> None:
    scores = score({"q1": ["a"]}, {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"b": 1}})
    assert scores.query_ids == ("q1", "q2", "q3")
    assert scores.means()[PRIMARY_METRIC] == pytest.approx(1 / 3)


def test_more_relevant_documents_than_ranks_still_give_a_perfect_ndcg() -> None:
    relevant = {f"d{number:03}": 1 for number in range(150)}
    means = score({"q": list(relevant)}, {"q": relevant}).means()
    assert means["ndcg@10"] == pytest.approx(1.0)
    assert means["recall@100"] == pytest.approx(100 / 150)


def test_two_runs_can_be_paired_whatever_the_order_of_their_queries() -> None:
    qrels = {"b": {"x": 1}, "a": {"y": 1}}
    one = score({"a": ["y"], "b": ["z"]}, qrels)
    other = score({"b": ["z"], "a": ["y"]}, dict(reversed(qrels.items())))
    assert one.query_ids == other.query_ids == ("a", "b")
    for metric in METRICS:
        np.testing.assert_array_equal(one.per_query[metric], other.per_query[metric])


def test_equal_scores_stand_in_trec_evals_order_whatever_the_order_of_the_run() -> None:
    qrels = {"q": {"b": 1}}
    for run in ({"a": 1.0, "b": 1.0}, {"b": 1.0, "a": 1.0}):
        assert score({"q": run}, qrels).means()["ndcg@1"] == 1.0


def test_a_document_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'q'.*more than once"):
        score({"q": ["a", "a"]}, {"q": {"a": 1}})


def test_a_score_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'q'.*not a number"):
        score({"q": {"a": math.nan}}, {"q": {"a": 1}})


def test_no_judged_query_scores_zero_everywhere() -> None:
    assert score({}, {}).means() == dict.fromkeys(METRICS, 0.0)


def test_the_interval_covers_the_true_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        baseline = rng.uniform(size=80)
        candidate = baseline + rng.normal(0.05, 0.2, size=80)
        difference = paired_bootstrap(candidate, baseline, n=1_000, seed=trial)
        covered += difference.low <= 0.05 <= difference.high
    assert 180 <= covered <= 199  # 95 % of 200, give or take three standard errors


def test_the_difference_is_candidate_minus_baseline() -> None:
    worse, better = np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.3, 0.4])
    difference = paired_bootstrap(better, worse)
    assert difference.to_json() == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})


def test_the_interval_follows_from_the_seed_and_not_from_the_block_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    candidate, baseline = rng.uniform(size=50), rng.uniform(size=50)
    once = paired_bootstrap(candidate, baseline, seed=5)
    monkeypatch.setattr("training.metrics._BOOTSTRAP_BLOCK", 777)
    assert paired_bootstrap(candidate, baseline, seed=5) == once
    assert paired_bootstrap(candidate, baseline, seed=6) != once


def test_an_interval_of_more_coverage_is_wider_about_the_same_mean() -> None:
    rng = np.random.default_rng(4)
    candidate, baseline = rng.uniform(size=50), rng.uniform(size=50)
    usual = paired_bootstrap(candidate, baseline)
    wide = paired_bootstrap(candidate, baseline, coverage=0.99)
    assert wide.mean == usual.mean
    assert wide.low < usual.low < usual.mean < usual.high < wide.high


def test_values_of_different_queries_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        paired_bootstrap(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="at least one"):
        paired_bootstrap(np.zeros(0), np.zeros(0))
