"""The page of a benchmark's report, and its Markdown."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import pytest

from benchmarks.report import Report, read_arguments

pytest.importorskip("matplotlib")


@pytest.fixture
def written(tmp_path: Path) -> tuple[str, str]:
    """The page and its Markdown."""
    report = Report("search: <script>alert(1)</script>", path=tmp_path / "new" / "search.html")
    report.figure("ours over theirs", 0.81, "times", at_most=1.0, note="<script>bm25</script>")
    report.figure("answers | a second", 900, "a second", digits=0, at_least=1_000)
    report.figure("lost writes", 0, digits=0, exactly=0)
    report.figure("a far figure", 50, at_least=2)
    report.figure("promises $nothing$", 3.25)
    assert report.exit_code() == 1
    page, twin = (tmp_path / "new" / name for name in ("search.html", "search.md"))
    return page.read_text(encoding="utf-8"), twin.read_text(encoding="utf-8")


def test_the_page_and_its_twin_tell_the_same_figures(written: tuple[str, str]) -> None:
    for text in written:
        for fact in ("1 of 4 targets missed", "0.81 times", "≤ 1", "900 a second", "≥ 1,000",
                     "MISSED", "3.25", "50.00", "promises $nothing$"):  # fmt: skip
            assert fact in text, fact


def test_the_page_needs_nothing_from_elsewhere(written: tuple[str, str]) -> None:
    page, twin = written
    for sign in ("<script", "<link", "<img", "@import", "src="):
        assert sign not in page
    assert re.search(r"(?<!\\)<script", twin) is None
    assert r"answers \| a second" in twin
    assert re.findall(r"url\((?!#)", page) == []
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/1999/xlink"}
    assert page.count("<svg") == 1


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    report = Report("search")
    report.figure("all well", 1, at_least=1)
    assert report.exit_code() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_script_takes_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["search.py", "--report", "a.html"])
    assert read_arguments(argparse.ArgumentParser()).report == Path("a.html")
