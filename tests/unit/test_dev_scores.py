"""Which checkpoint is kept, and when training ends, on a dev set that is small and noisy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training.dev_scores import DevScores
from training.metrics import PerQuery

BASE = np.linspace(0.2, 0.9, 64)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dev_scores.json"


def noisy(mean_change: float, seed: int, spread: float = 0.2) -> PerQuery:
    """BASE with every query a little better or worse, and the mean changed by just so much."""
    noise = np.random.default_rng(seed).normal(0, spread, len(BASE))
    return np.asarray(BASE + noise - noise.mean() + mean_change)


def with_scores(path: Path, *evaluations: PerQuery) -> DevScores:
    scores = DevScores(path)
    for number, values in enumerate(evaluations):
        scores.add(number * 10, values)
    return scores


def test_before_the_first_evaluation_nothing_is_kept_and_nothing_is_enough(path: Path) -> None:
    scores = with_scores(path, BASE)

    assert scores.kept_step() is None
    assert not scores.is_enough(1)
    assert scores.mean(0) == pytest.approx(BASE.mean())
    assert scores.mean(10) is None


def test_the_last_is_kept_although_an_earlier_one_did_better_by_luck(path: Path) -> None:
    scores = with_scores(path, BASE, noisy(0.02, 1), noisy(0.00, 2), noisy(0.01, 3))

    assert scores.kept_step() == 30


def test_an_earlier_one_that_did_clearly_better_is_kept(path: Path) -> None:
    scores = with_scores(path, BASE, noisy(0.02, 1), noisy(0.12, 2), noisy(-0.10, 3))

    assert scores.kept_step() == 20


def test_the_more_evaluations_the_clearer_an_earlier_one_has_to_be(path: Path) -> None:
    changes = noisy(0.0, 1) - BASE
    worse = BASE - 0.2 * changes - 2.1 * changes.std() / np.sqrt(len(BASE))  # 2.1 standard errors
    best = BASE + 0.8 * changes

    assert with_scores(path, BASE, best, worse).kept_step() == 10
    between = [noisy(-0.01, seed) for seed in (2, 3, 4)]
    assert with_scores(path, BASE, best, *between, worse).kept_step() == 50


def test_training_goes_on_while_evaluations_are_worse_by_chance(path: Path) -> None:
    late = [noisy(0.01 - number / 200, seed=10 + number) for number in range(5)]

    assert not with_scores(path, BASE, noisy(0.02, 1), *late).is_enough(3)


def test_training_ends_once_so_many_in_a_row_are_clearly_worse(path: Path) -> None:
    late = [noisy(-0.15, seed) for seed in (2, 3, 4)]

    assert not with_scores(path, BASE, noisy(0.1, 1), *late[:2]).is_enough(3)
    assert with_scores(path, BASE, noisy(0.1, 1), *late).is_enough(3)
    assert not with_scores(path, BASE, noisy(0.1, 1), *late, noisy(0.1, 5)).is_enough(3)


def test_training_ends_when_nothing_changes(path: Path) -> None:
    assert with_scores(path, BASE, BASE, BASE, BASE).is_enough(2)
    assert not with_scores(path, BASE, BASE, BASE).is_enough(2)


def test_who_goes_on_from_a_checkpoint_knows_what_was_before_and_not_what_came_after(
    path: Path,
) -> None:
    with_scores(path, BASE, noisy(0.1, 1), noisy(-0.1, 2), noisy(0.2, 3))

    resumed = DevScores(path, until=20)
    assert resumed.mean(0) == pytest.approx(BASE.mean())
    assert resumed.mean(30) is None
    assert resumed.kept_step() == 10
    assert DevScores(path).mean(0) is None, "a training that begins anew begins without"
