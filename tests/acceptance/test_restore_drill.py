"""The drill of docs/backup.md: a backup under writes, everything destroyed, the page's commands;
then what an installation holds and answers that was given the same history and no backup."""

from __future__ import annotations

import contextlib
import itertools
import re
import shlex
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from reindexer.data_directory import open_data_directory
from reindexer.opening import Opener
from reindexer.settings import Settings
from search.answer import RunMode
from search.client import Document, SearchClient
from search.documents import Document as StoredDocument
from search.searcher import SearchRequest
from tests.acceptance.conftest import Installation, text_of
from tests.filled_directory import state

PAGE = Path(__file__).parents[2] / "docs" / "backup.md"
N_DOCUMENTS = 150
N_QUERIES = 8
MODES: tuple[RunMode, ...] = ("lexical", "dense", "hybrid")
PAUSE_S = 0.01  # between two writes


@dataclass(frozen=True)
class Write:
    """One that the service has acknowledged."""

    seq: int
    doc_id: str
    text: str | None  # None: deleted


@dataclass
class Writer:
    """Edits, adds and deletes through the service until it is told to stop; nobody else writes."""

    url: str
    history: list[Write] = field(default_factory=list)

    def __enter__(self) -> Writer:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, n_writes: int) -> None:
        deadline, wanted = time.monotonic() + 60, len(self.history) + n_writes
        while len(self.history) < wanted:
            assert self._thread.is_alive(), "the writer has failed"
            assert time.monotonic() < deadline, "the writer is stuck"
            time.sleep(0.01)

    def _write(self) -> None:
        with SearchClient(self.url) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                doc_id = f"d{number * 17 % (N_DOCUMENTS + 60)}"
                if number % 5 == 4:
                    deleted = client.delete([doc_id])
                    if deleted.deleted:
                        self.history.append(Write(deleted.seq, doc_id, None))
                else:
                    text = text_of(number, version=number + 1)  # never the one that is there
                    stored = client.put([Document(doc_id=doc_id, text=text)])
                    self.history.append(Write(stored.seq, doc_id, text))
                time.sleep(PAUSE_S)


def test_what_was_destroyed_comes_back_as_it_was_at_the_backups_head(
    installation: Installation,
    service: Callable[[], BaseProcess],
    two_models: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    began = [Write(number + 1, f"d{number}", text_of(number)) for number in range(N_DOCUMENTS)]
    put_history(installation, began)
    for model in two_models:
        installation.json("upgrade", str(model), "--yes")
    truth = Installation(tmp_path / "truth")
    shutil.copytree(installation.data_dir, truth.data_dir)
    backup, *rest = commands_of_the_page(tmp_path)
    process = service()

    with Writer(installation.address().url) as writer:
        writer.wait_for(20)
        made = installation.json(*backup)
        writer.wait_for(20)
    process.terminate()
    process.join(60)
    shutil.rmtree(installation.data_dir)
    done = [installation.run(*command) for command in rest]

    for command in done:
        assert command.returncode == 0, f"{command.args}: {command.stdout}\n{command.stderr}"
    assert not installation.data_dir.exists(), "the drill used what was destroyed"
    history = [*began, *writer.history]
    assert [write.seq for write in history] == list(range(1, len(history) + 1))
    head = made["head_seq"]
    assert began[-1].seq + 20 <= head <= history[-1].seq - 20, "it was not made under writes"
    assert set(made["collections"]) == {"docs@1", "docs@2"}
    put_history(truth, history[len(began) : head])
    truth.json("sync")
    restored = Installation(tmp_path / "drill")
    assert held(restored) == held(truth)
    assert answers(restored) == answers(truth)


def commands_of_the_page(folder: Path) -> list[list[str]]:
    """The arguments of each command of the drill, with places of this test."""
    section = PAGE.read_text(encoding="utf-8").partition("## The drill")[2]
    block = re.findall(r"^```sh\n(.*?)^```", section, re.DOTALL | re.MULTILINE)[0]
    places = {
        "/mnt/backups/reindexer": str(folder / "backups"),
        "./drill": str(folder / "drill"),
        "something that must be found": text_of(3),
    }
    lines = [shlex.split(line) for line in block.splitlines()]
    assert [name for name, *_ in lines] == ["reindexer"] * 5
    return [[places.get(word, word) for word in words] for _, *words in lines]


def put_history(installation: Installation, history: list[Write]) -> None:
    with open_data_directory(Settings(data_dir=installation.data_dir)) as data:
        for write in history:
            if write.text is None:
                data.corpus.delete([write.doc_id])
            else:
                data.corpus.put([StoredDocument.of(doc_id=write.doc_id, text=write.text)])


def held(installation: Installation) -> dict[str, Any]:
    """Documents, generations, and the digest of what each collection holds."""
    with open_data_directory(Settings(data_dir=installation.data_dir)) as data:
        return state(data)


def answers(installation: Installation) -> list[Any]:
    """What live and standby say, by each leg and by both."""
    said = []
    with open_data_directory(Settings(data_dir=installation.data_dir)) as data:
        opener = Opener(data, writable=False, warm=False)
        for generation, mode in itertools.product(("docs@1", "docs@2"), MODES):
            with contextlib.closing(opener.open(generation)) as opened:
                for number in range(N_QUERIES):
                    request = SearchRequest(query=text_of(number * 19), mode=mode, k=5)
                    hits = opened.searcher.search(request).hits
                    said.append([(hit.doc_id, round(hit.score, 4)) for hit in hits])
    return said
