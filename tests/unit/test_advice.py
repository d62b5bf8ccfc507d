"""The cheapest step that can close the gap, from measured figures."""

from __future__ import annotations

from typing import Any

import pytest

from training.advice import (
    GAP,
    PAIRS_FOR_EFFECT,
    PAIRS_FOR_STRONG,
    PAIRS_TO_START,
    Advice,
    Baseline,
    ReindexCost,
    advise,
    usual_gain,
)


def baseline(**values: Any) -> Baseline:
    """A domain where plain hybrid answers; single figures can be replaced."""
    given: dict[str, Any] = {
        "queries": 200,
        "lexical": 0.50,
        "dense": 0.55,
        "hybrid": 0.60,
        "tuned": 0.60,
        "current": 0.60,
        "found": 0.95,
    }
    return Baseline(**{**given, **values})


def said(advice: Advice) -> str:
    return " / ".join(advice.reasons)


def test_a_reached_target_needs_nothing() -> None:
    advice = advise(baseline(current=0.82), pairs=10_000)
    assert advice.recommendation == "off-the-shelf"
    assert (advice.gap, advice.expected) == (0.0, None)
    assert "the target is reached" in said(advice)


def test_a_small_gap_is_not_worth_a_new_model() -> None:
    assert advise(baseline(), pairs=10_000, target=0.60 + GAP).recommendation == "off-the-shelf"
    assert advise(baseline(), pairs=10_000, target=0.61 + GAP).recommendation == "fine-tune"


def test_a_better_fusion_comes_before_a_better_model() -> None:
    """The measured case: rank fusion 0.718 where the dense leg alone has 0.757."""
    found = baseline(lexical=0.601, dense=0.757, hybrid=0.718, tuned=0.783, current=0.718)
    advice = advise(found, pairs=10_000)
    assert advice.recommendation == "tune retrieval first"
    assert advice.expected == (0.783, 0.783)
    assert advice.gap == pytest.approx(0.082)
    assert advice.gap_after_tuning == pytest.approx(0.017)
    assert "+0.065 at no cost" in said(advice)


def test_a_gain_too_small_to_mention_closes_no_gap() -> None:
    advice = advise(baseline(tuned=0.609), pairs=10_000, target=0.655)
    assert (advice.recommendation, advice.gap_after_tuning) == ("fine-tune", advice.gap)


def test_a_fusion_that_gains_nothing_is_not_recommended() -> None:
    advice = advise(baseline(tuned=0.605), pairs=0, target=0.64)
    assert advice.recommendation == "off-the-shelf"
    assert "as good as this model allows" in said(advice)


@pytest.mark.parametrize("pairs", [0, PAIRS_FOR_EFFECT - 1])
def test_too_few_pairs_come_first(pairs: int) -> None:
    advice = advise(baseline(tuned=0.65), pairs=pairs)
    assert advice.recommendation == "generate data first"
    assert f"{PAIRS_TO_START - pairs:,} are missing" in said(advice)
    assert "+0.050 at no cost" in said(advice)


def test_pairs_and_a_gap_make_fine_tuning_worth_it() -> None:
    assert advise(baseline(), pairs=PAIRS_FOR_EFFECT).recommendation == "fine-tune"
    both = advise(baseline(tuned=0.65), pairs=PAIRS_FOR_EFFECT)
    assert both.recommendation == "fine-tune and improve retrieval"


def test_more_pairs_promise_more() -> None:
    gains = [usual_gain(n) for n in (0, PAIRS_FOR_EFFECT, PAIRS_TO_START, PAIRS_FOR_STRONG)]
    assert gains == sorted(gains)
    few = advise(baseline(), pairs=PAIRS_FOR_EFFECT).expected
    many = advise(baseline(), pairs=PAIRS_FOR_STRONG).expected
    assert few is not None
    assert many is not None
    assert few[0] < many[0] <= many[1]
    assert few[1] < many[1]


def test_what_neither_leg_finds_speaks_for_another_model() -> None:
    advice = advise(baseline(found=0.70), pairs=PAIRS_FOR_STRONG)
    assert "30% of the relevant documents are not among the first 100" in said(advice)
    assert "not among" not in said(advise(baseline(), pairs=PAIRS_FOR_STRONG))


def test_a_target_out_of_reach_is_called_that() -> None:
    assert "does not reach 0.950" in said(advise(baseline(), pairs=700, target=0.95))
    assert "does not reach" not in said(advise(baseline(), pairs=10_000, target=0.80))


def test_the_cost_of_the_reindex_is_said_in_hours() -> None:
    cost = ReindexCost(documents=1_000_000, docs_per_s=50.0, seconds=20_000 + 1_600)
    assert "about 6.0 hours at 50.0 a second" in said(advise(baseline(), pairs=700, reindex=cost))


def test_a_rough_measurement_is_called_one() -> None:
    assert "measured on 12 judged queries only" in said(advise(baseline(queries=12), pairs=700))
    assert "only" not in said(advise(baseline(), pairs=700))
