"""The service that the demo starts: it answers, and leaves the telling to the demo."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from reindexer.data_directory import DataDirectory
from reindexer.demo import _service
from reindexer.selftest.static_model import write_static_model
from reindexer.settings import Settings
from reindexer.upgrade import upgrade
from search.documents import Document


def test_the_demo_s_service_answers_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_static_model(tmp_path / "static", seed=0)
    with DataDirectory(Settings(data_dir=tmp_path / "data", device="cpu")) as data:
        data.corpus.put([Document.of(doc_id=f"d{n}", text=f"w{n} w{n + 1}") for n in range(30)])
        upgrade(data, str(tmp_path / "static"))
        capfd.readouterr()

        with _service(data) as address:
            answer = httpx.post(f"{address.url}/search", json={"query": "w7"}).json()

    assert answer["hits"][0]["doc_id"] in ("d6", "d7")
    assert capfd.readouterr().err == ""
