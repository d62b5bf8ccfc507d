"""Progress that people and grep can read."""

from __future__ import annotations

import time

import pytest

from reindexer import progress as module
from reindexer.progress import Progress
from reindexer.terminal import count, duration, pace, size, table


def test_a_line_says_how_far_how_fast_and_how_long() -> None:
    progress = Progress("build docs@2")
    progress.update(12_288, total=57_638, rate=812.0, state="encoding")
    line = progress.line()
    assert line.startswith("build docs@2: 12288/57638 21.3%; 812.0/s; elapsed ")
    assert line.endswith("; eta 55.8 s; encoding")


def test_what_takes_long_says_how_long_instead_of_no_rate_at_all() -> None:
    progress = Progress("train")
    progress.update(9, total=15, rate=0.0415)
    assert progress.line().startswith("train: 9/15 60.0%; 24.1 s each; elapsed ")
    assert [pace(rate) for rate in (1_234.5, 5.26, 0.4, 0.005, 0.0)] == [
        "1,234/s",
        "5.3/s",
        "0.4/s",
        "3 min 20 s each",
        "0.0/s",
    ]


def test_without_a_total_the_time_runs() -> None:
    progress = Progress("search")
    progress.update(state="opening docs@1")
    assert progress.line().startswith("search: elapsed ")
    assert progress.eta_s() is None


def test_a_rate_is_measured_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress("ingest", total=1_000)
    for step in range(5):
        now = 100.0 + step
        progress.update(step * 100)
    assert progress.rate == pytest.approx(100)
    assert progress.eta_s() == pytest.approx(6)


def test_a_pipe_gets_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_S", 0.02)
    with Progress("ingest") as progress:
        progress.update(3, total=4)
        time.sleep(0.1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("ingest: 3/4 75.0%; ")


def test_quiet_says_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_S", 0.01)
    with Progress("ingest", quiet=True):
        time.sleep(0.05)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0404, "40 ms"),
        (3.21, "3.2 s"),
        (59.96, "1 min"),
        (250, "4 min 10 s"),
        (3_599.7, "1 h"),
        (7_500, "2 h 5 min"),
        (86_399.9, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_counts_and_sizes_have_units_and_separators() -> None:
    assert (count(1, "document"), count(12_288, "document")) == ("1 document", "12,288 documents")
    assert count(300, "query") == "300 queries"
    assert (size(512), size(91_600_000)) == ("512 B", "91.6 MB")


def test_a_table_aligns_numbers_to_the_right() -> None:
    lines = table(("name", "documents"), [("docs@1", 5), ("docs@2", 12_288)]).splitlines()
    assert lines[1] == "docs@1          5"
    assert lines[2] == "docs@2     12,288"
