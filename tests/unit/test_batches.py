"""How texts become batches: by a budget of tokens, even where that pays, packed where it can be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.batch_budget import FEWEST, MOST, BudgetCache, choose_budget
from training.batches import cut_batches
from training.tokenizer import TokenizedTexts
from training.unpadding import packed_features, packs_texts

CPU = torch.device("cpu")


@given(
    st.lists(st.integers(1, 512), min_size=1, max_size=200),
    st.integers(1, 4_096),
    st.booleans(),
)
def test_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], budget: int, even: bool
) -> None:
    longest_first = np.sort(np.array(lengths))[::-1]
    rows = np.arange(len(lengths))

    batches = cut_batches(rows, longest_first, budget, even=even)

    assert np.concatenate(batches).tolist() == rows.tolist()
    for batch in batches:
        assert len(batch) == 1 or len(batch) * longest_first[batch[0]] <= budget


def test_even_batches_end_where_the_length_changes_when_they_are_half_full() -> None:
    lengths = np.array([10] * 6 + [9] * 3 + [8] * 40)

    batches = cut_batches(np.arange(49), lengths, 100, even=True)

    assert [len(batch) for batch in batches][:2] == [9, 12]
    assert set(lengths[batches[1]]) == {8}


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        ([10, 20, 40, 41, 40.5], 4 * FEWEST),  # 40 is 0.97 of 41
        ([10, 9], FEWEST),
        ([10, 20, None], 2 * FEWEST),  # larger ones do not fit
        ([None], FEWEST),
    ],
)
def test_the_smallest_batch_that_keeps_the_device_busy_is_chosen(
    rates: list[float | None], chosen: int
) -> None:
    found = dict(zip([FEWEST << at for at in range(len(rates))], rates, strict=True))
    assert choose_budget(lambda budget: found.get(budget, 1.0)) == chosen


def test_a_device_that_only_gets_faster_gets_the_largest_batch() -> None:
    assert choose_budget(float) == MOST


def test_a_budget_is_remembered_for_its_model_device_and_number_format(tmp_path: Path) -> None:
    BudgetCache(tmp_path, "f" * 64, CPU, "bf16").write(65_536)

    assert BudgetCache(tmp_path, "f" * 64, CPU, "bf16").read() == 65_536
    assert BudgetCache(tmp_path, "f" * 64, CPU, "fp32").read() is None
    assert BudgetCache(tmp_path, "0" * 64, CPU, "bf16").read() is None


def test_packed_texts_stand_one_after_another_with_their_own_positions() -> None:
    texts = TokenizedTexts.of([[1, 2, 3], [4], [5, 6]])

    features = packed_features(texts, np.array([2, 0]), CPU, first=2)

    assert features["input_ids"].tolist() == [[5, 6, 1, 2, 3]]
    assert features["position_ids"].tolist() == [[2, 3, 2, 3, 4]]
    assert features["seq_idx"].tolist() == [[0, 0, 1, 1, 1]]
    assert features["cu_seq_lens_q"].tolist() == [0, 2, 5]
    assert features["max_length_q"] == 3


def test_a_cpu_pads() -> None:
    model: object = None
    assert not packs_texts(model, CPU, "bf16")  # type: ignore[arg-type]
