"""What to run next where the doctor itself can hardly go on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reindexer.doctor import diagnose
from reindexer.findings import Finding
from reindexer.selftest.static_model import write_static_model
from reindexer.settings import Settings
from search.errors import StoreUnavailable
from tests.word_directory import WordDirectory


def look(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(settings)}


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "reindexer.db").write_bytes(b"this is no database, whatever its name says" * 100)

    found = look(Settings(data_dir=tmp_path))["database"]

    assert found.state == "problem"
    assert "`reindexer settings`" in found.advice
    assert "restore PLACE`" in found.advice


def test_a_diagnosis_that_cannot_go_on(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_arguments: object, **_options: object) -> None:
        raise StoreUnavailable("the store went away")

    monkeypatch.setattr("reindexer.doctor.look_at_store", gone)

    found = look(directory.settings)["diagnosis"]

    assert found.found == "it could not go on: the store went away"
    assert "`reindexer doctor`" in found.advice


def test_a_model_that_is_damaged_or_gone(directory: WordDirectory, tmp_path: Path) -> None:
    write_static_model(tmp_path / "static", seed=0)
    unused = directory.registry.register(str(tmp_path / "static"), name="unused")
    (unused.path / "model.json").unlink(missing_ok=True)
    for manifest in unused.path.glob("*.json"):
        manifest.write_text("{")
    directory.record("word@1")
    shutil.rmtree(directory.registry.root / "word@1", ignore_errors=True)

    found = look(directory.settings)

    assert "`reindexer models remove unused@1`" in found["model unused@1"].advice
    assert "`reindexer models verify word@1`" in found["model word@1"].advice
    assert "`reindexer upgrade ANOTHER`" in found["model word@1"].advice


def test_a_collection_that_nobody_owns(directory: WordDirectory) -> None:
    directory.go_live(directory.build("word@1"))
    spec = directory.catalog.get("docs@1").recipe.collection_spec("docs@1")
    directory.store.create("docs-9", spec).close()

    found = look(directory.settings)["collections"]

    assert found.found.startswith("docs-9: ")
    assert f"`rm -r {directory.path / 'collections' / 'docs-9'}`" in found.advice
