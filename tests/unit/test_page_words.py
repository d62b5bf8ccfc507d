"""How the pages write figures, times and messages, and how large."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from search.pages.rendering import _sentence, _signed, _trigger

ROOT = Path(__file__).parents[2]
OPTICAL_REM = 0.18  # what is smaller corrects how something looks


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0421, "+0.042"), (-0.0421, "\N{MINUS SIGN}0.042"), (0.0, "0.000"), (-0.0004, "0.000")],
)
def test_a_change_that_rounds_to_nothing_has_no_sign(value: float, shown: str) -> None:
    assert _signed(value) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("there is no document 'x'", "There is no document 'x'."),
        ("docs@7 is live already", "docs@7 is live already."),
        ("run `reindexer status`", "Run `reindexer status`"),
        ("Is it?", "Is it?"),
    ],
)
def test_a_message_of_an_error_stands_as_a_sentence(message: str, shown: str) -> None:
    assert _sentence(message) == shown


@pytest.mark.parametrize(
    ("trigger", "shown"),
    [
        ("every 300s", "every 5 min"),
        ("every 90s", "every 90 s"),
        ("every 7200s", "every 2 h"),
        ("every 60m", "every 1 h"),
        ("every 2d", "every 2 d"),
        ("0 3 * * *", "0 3 * * *"),
    ],
)
def test_a_trigger_is_read_in_its_largest_whole_unit(trigger: str, shown: str) -> None:
    assert _trigger(trigger) == shown


@pytest.mark.parametrize("sheet", ["search/pages/static/style.css", "training/templates/style.css"])
def test_sizes_of_type_and_space_are_those_of_the_scale(sheet: str) -> None:
    css = (ROOT / sheet).read_text(encoding="utf-8")
    others = [
        found[0]
        for found in re.finditer(r"(?:font-size|(?:margin|padding|gap)(?:-\w+)*): [^;}]+", css)
        for size in re.findall(r"(?<![\w.])(\d*\.?\d+)rem", found[0])
        if float(size) > OPTICAL_REM and "clamp(" not in found[0]
    ]
    assert others == []
    assert set(re.findall(r"var\((--[ts]\w*?-?\w+)\)", css)) <= set(re.findall(r"(--[\w-]+):", css))
