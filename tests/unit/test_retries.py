"""Waiting before a server is asked again."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from training.retries import backoff_s, retry_after_s


@pytest.mark.parametrize(
    ("n_tried", "longest_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (6, 10.0), (10_000, 10.0)]
)
def test_waiting_doubles_up_to_a_limit_and_never_comes_out_the_same(
    n_tried: int, longest_s: float
) -> None:
    waits = [backoff_s(n_tried, first_s=0.5, longest_s=10.0) for _ in range(50)]

    assert longest_s / 2 <= min(waits) < max(waits) <= longest_s


def test_what_the_server_asks_for_is_kept_to() -> None:
    assert backoff_s(1, first_s=0.5, longest_s=10.0, asked_s=30.0) == 30.0


@pytest.mark.parametrize(
    ("told", "seconds"),
    [("7", 7.0), (" 1.5 ", 1.5), ("", 0.0), ("soon", 0.0), ("-3", 0.0), (formatdate(0), 0.0)],
)
def test_the_time_until_a_retry_is_read(told: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": told}) == seconds


def test_the_time_until_a_retry_may_be_a_date() -> None:
    told = formatdate(time.time() + 60, usegmt=True)

    assert 55 < retry_after_s({"retry-after": told}) <= 60
