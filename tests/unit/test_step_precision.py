"""Which numbers a training step computes in: measured, kept, and not measured where it is plain."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training import precision, step_precision
from training.precision import DtypeName, are_emulated
from training.step_precision import choose_step_dtype

CPU = torch.device("cpu")


class Loss:
    """One step, as quick and as right in 16-bit numbers as it is told to be."""

    def __init__(self, *, full_s: float, half_s: float, half: float = 1.0) -> None:
        self.model = torch.nn.Linear(1, 1)
        self._seconds = {False: full_s, True: half_s}
        self._values = {False: 1.0, True: half}
        self.tried: set[bool] = set()

    def __call__(self) -> torch.Tensor:
        is_half = torch.is_autocast_enabled("cpu")
        self.tried.add(is_half)
        time.sleep(self._seconds[is_half])
        weight = self.model.weight.sum()
        return weight - weight.detach() + self._values[is_half]


def choose(loss: Callable[[], torch.Tensor], model: torch.nn.Module, cache: Path) -> DtypeName:
    return choose_step_dtype(loss, model, "f" * 64, device=CPU, wanted="auto", cache_dir=cache)


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor that computes with 16-bit numbers."""
    monkeypatch.setattr(step_precision, "are_emulated", lambda *_: False)


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize(
    ("loss", "chosen"),
    [
        (Loss(full_s=0.05, half_s=0.005), "bf16"),
        (Loss(full_s=0.005, half_s=0.05), "fp32"),
        (Loss(full_s=0.05, half_s=0.005, half=1.2), "fp32"),
    ],
    ids=["quicker", "slower", "another loss"],
)
def test_sixteen_bits_are_taken_where_they_are_quicker_and_as_right(
    tmp_path: Path, loss: Loss, chosen: DtypeName
) -> None:
    assert choose(loss, loss.model, tmp_path) == chosen
    assert loss.tried == {False, True}

    loss.tried.clear()
    assert choose(loss, loss.model, tmp_path) == chosen
    assert not loss.tried


def test_numbers_that_are_emulated_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_precision, "are_emulated", lambda *_: True)
    loss = Loss(full_s=0.0, half_s=0.0)

    assert choose(loss, loss.model, tmp_path) == "fp32"
    assert not loss.tried


@pytest.mark.parametrize(("half_s", "emulated"), [(0.02, True), (0.002, False)])
def test_numbers_are_emulated_where_their_products_take_far_longer(
    monkeypatch: pytest.MonkeyPatch, half_s: float, emulated: bool
) -> None:
    def product(rows: torch.Tensor, _weights: torch.Tensor) -> None:
        time.sleep(half_s if rows.dtype == torch.bfloat16 else 0.001)

    monkeypatch.setattr(precision.torch, "mm", product)

    assert are_emulated("bf16", CPU) is emulated
    assert not are_emulated("bf16", torch.device("cuda"))
