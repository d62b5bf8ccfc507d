"""Where a demo may work: in a folder that holds nothing but what an earlier demo left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reindexer import demo
from reindexer.cli import cli
from tests.word_directory import WordDirectory


@pytest.mark.parametrize(
    ("source", "code", "said"),
    [(demo.DEMO_SOURCE, 1, "it began"), ("articles", 2, "holds documents of articles, and")],
)
def test_a_demo_that_was_stopped_goes_on_and_another_folder_is_refused(
    source: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def began(*_: Any, **_options: Any) -> None:
        raise demo.DemoFailed("it began")

    monkeypatch.setattr(demo, "run_demo", began)
    with WordDirectory(tmp_path / "data") as data:
        data.put("d", "text", source=source)

    result = CliRunner().invoke(cli, ["--data-dir", str(tmp_path / "data"), "demo"])

    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr
