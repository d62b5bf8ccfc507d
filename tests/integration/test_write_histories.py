"""Any history of writes, syncs, switches and restarts ends with the truth, and one that does not is
shrunk to the few steps that matter."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from reindexer.cutover import rollback
from reindexer.selftest import verbs
from reindexer.selftest.texts import document
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search.documents import Document
from search.edge_collection import EdgeCollection

N_DOCUMENTS = 4
EXAMPLES = settings(
    max_examples=6,
    stateful_step_count=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

# Hundreds of data directories are made, and none has to outlive this process.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

numbers = st.integers(0, N_DOCUMENTS - 1)
versions = st.integers(1, 3)


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A data directory with a live and a standby generation, to begin every history with."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        with WordDirectory(_settings(Path(folder))) as data:
            data.corpus.put([document(number) for number in range(N_DOCUMENTS)])
            for model in ("word@1", "word@2"):
                verbs.go_live(data, verbs.build(data, model))
        yield Path(folder)


def _settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, language="none", device="cpu", window=2)


def _copy_data(source: str, target: str) -> None:
    """The engine's files are large, and mostly holes."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        size = new.truncate(os.fstat(old.fileno()).st_size)
        end = 0
        while end < size:
            try:
                start = os.lseek(old.fileno(), end, os.SEEK_DATA)
            except OSError:  # no more data
                return
            end = os.lseek(old.fileno(), start, os.SEEK_HOLE)
            os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)


def histories(template: Path) -> type[RuleBasedStateMachine]:
    class Histories(RuleBasedStateMachine):
        """What users, a service and a restart do, in any order."""

        def __init__(self) -> None:
            super().__init__()
            self._folder = Path(tempfile.mkdtemp(dir=MEMORY))
            shutil.copytree(template, self._folder, dirs_exist_ok=True, copy_function=_copy_data)
            self._data = WordDirectory(_settings(self._folder))
            self._truth = Truth()
            for number in range(N_DOCUMENTS):
                item = document(number)
                self._truth.documents[item.doc_id] = item

        @rule(number=numbers, version=versions)
        def upsert(self, number: int, version: int) -> None:
            self._truth.put(self._data.corpus, document(number, version), f"upsert {version}")

        @rule(number=numbers, group=versions)
        def change_metadata(self, number: int, group: int) -> None:
            known = self._truth.documents.get(f"d{number}")
            if known is not None:
                changed = Document.of(
                    doc_id=known.doc_id,
                    text=known.text,
                    title=known.title,
                    metadata={"number": number, "group": f"g{group}"},
                )
                self._truth.put(self._data.corpus, changed, f"metadata {group}")

        @rule(number=numbers)
        def delete(self, number: int) -> None:
            self._truth.delete(self._data.corpus, f"d{number}", "delete")

        @rule(number=numbers)
        def insert_again(self, number: int) -> None:
            self._truth.put(self._data.corpus, document(number), "insert again")

        @rule()
        def sync(self) -> None:
            verbs.sync(self._data)

        @precondition(lambda self: self._data.catalog.standby() is not None)
        @rule()
        def roll_back(self) -> None:
            rollback(self._data)

        @rule()
        def restart(self) -> None:
            self._data.close()
            self._data = WordDirectory(_settings(self._folder))

        def teardown(self) -> None:
            try:
                verbs.sync(self._data)
                assert self._truth.faults(self._data) == []
            finally:
                self._data.close()
                shutil.rmtree(self._folder)

    return Histories


def test_every_history_ends_with_the_truth(template: Path) -> None:
    run_state_machine_as_test(histories(template), settings=EXAMPLES)  # type: ignore[no-untyped-call]


def test_a_history_that_does_not_is_shrunk_to_what_matters(
    template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions no longer reach the vectors: one of them is enough to show it."""
    monkeypatch.setattr(EdgeCollection, "remove_older", lambda _collection, _seqs: None)

    few = settings(EXAMPLES, max_examples=30, stateful_step_count=4)
    with pytest.raises((AssertionError, ExceptionGroup)) as found:
        run_state_machine_as_test(histories(template), settings=few)  # type: ignore[no-untyped-call]

    script = [
        line.strip()
        for line in "\n".join(getattr(found.value, "__notes__", [])).splitlines()
        if line.strip().startswith("state.")
    ]
    assert any(line.startswith("state.delete(") for line in script)
    assert len(script) <= 3, script  # the deletion, and the end
