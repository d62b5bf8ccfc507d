"""Several serving processes on one PostgreSQL and one shared store: what a team runs in production,
with a stand-in for the Qdrant server unless QDRANT_URL names a real one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np

from reindexer.build import BuildRun
from reindexer.build_job import BuildJob
from reindexer.cutover import CutOver, rollback
from reindexer.data_directory import open_data_directory
from reindexer.journal import BUILD_LEASE
from reindexer.recipes import find_model, recipe_for
from reindexer.service_address import ServiceAddress
from reindexer.settings import Settings
from search.documents import Document
from tests import warm_processes
from tests.acceptance.clients import Answered
from tests.acceptance.conftest import text_of
from training.encoder import Encoder

START_S = 120.0
TOLERANCE = 2e-3  # of a cosine: batches of other shapes round differently


@dataclass(kw_only=True)
class Member:
    """One serving process with a data directory of its own."""

    data_dir: Path
    process: BaseProcess

    @property
    def url(self) -> str:
        address = ServiceAddress.read(self.data_dir)
        assert address is not None, f"nothing serves from {self.data_dir}"
        return address.url

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = httpx.get(f"{self.url}/info", timeout=30).raise_for_status().json()
        return info

    def is_ready(self) -> bool:
        if ServiceAddress.read(self.data_dir) is None:
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def break_model(self, model: str) -> Path:
        """Take the weights of a model version away from this process alone; where they are now."""
        weights = self.data_dir / "models" / model / "model.safetensors"
        return weights.rename(weights.with_suffix(".away"))

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


class Fleet:
    """Serving processes, and the operator beside them, who has a data directory too."""

    def __init__(self, folder: Path, *, database_url: str, store_url: str) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = {
            "database_url": database_url,
            "store_kind": "qdrant",
            "store_url": store_url,
            "store_prefix": f"fleet-{uuid.uuid4().hex[:8]}-",
        }
        self.data = open_data_directory(
            Settings(data_dir=folder / "operator", window=64, **self._settings)
        )
        self.members: list[Member] = []

    def close(self) -> None:
        for member in self.members:
            member.kill()
        live = self.data.catalog.live()
        store = self.data.store
        if live is not None and "QDRANT_URL" in os.environ:
            for name in store.names():  # a real server is used by others after us
                with contextlib.suppress(Exception):
                    store.drop(name)
        self.data.close()

    # -- corpus and generations ----------------------------------------------------------------

    def put(self, documents: Iterable[tuple[str, str]]) -> None:
        self.data.corpus.put([Document.of(doc_id=name, text=text) for name, text in documents])

    def build(self, model: Path) -> str:
        """A new generation, ready to go live, and its model known to every member."""
        data = self.data
        name = data.catalog.record(recipe_for(data, find_model(data, str(model)))).name
        build = data.journal.record_build(
            name, start_head=data.corpus.head(), docs_total=data.corpus.count()
        )
        with data.journal.lease(BUILD_LEASE) as lease:
            job = BuildJob(generation=name, token=lease.token, settings={})
            report = BuildRun(data, job).run()
        assert report.passed, report.reasons
        data.catalog.move(name, "ready")
        data.journal.update_build(build.build_id, state="done")
        for member in self.members:
            self._share_models(member.data_dir)
        return name

    def switch(self) -> CutOver:
        """Make the standby generation live."""
        return rollback(self.data)

    # -- members -------------------------------------------------------------------------------

    def start(self, count: int) -> list[Member]:
        """So many more processes, which answer already."""
        started = [self.start_one() for _ in range(count)]
        for member in started:
            self.wait_until_ready(member)
        return started

    def start_one(self) -> Member:
        """One more, which has just been started."""
        data_dir = self._folder / f"member-{len(self.members)}"
        self._share_models(data_dir)
        member = Member(data_dir=data_dir, process=self._serve(data_dir))
        self.members.append(member)
        return member

    def restart(self, member: Member) -> None:
        member.process = self._serve(member.data_dir)
        self.wait_until_ready(member)

    def wait_until_ready(self, member: Member) -> None:
        deadline = time.monotonic() + START_S
        while not member.is_ready():
            assert member.process.is_alive(), "a serving process ended while it started"
            assert time.monotonic() < deadline, "a serving process did not start"
            time.sleep(0.05)

    def _serve(self, data_dir: Path) -> BaseProcess:
        given = {f"REINDEXER_{key.upper()}": value for key, value in self._settings.items()}
        return warm_processes.start_verb(
            ["--data-dir", str(data_dir), "--quiet", "serve", "--port", "0"],
            environment={
                **os.environ,
                **given,
                "REINDEXER_LOG_LEVEL": "warning",
                "OMP_NUM_THREADS": "1",
            },
        )

    def _share_models(self, data_dir: Path) -> None:
        models = self.data.path / "models"
        shutil.copytree(models, data_dir / "models", dirs_exist_ok=True)


class Writer:
    """Changes documents through every member in turn, until the `with` block ends."""

    def __init__(self, urls: Sequence[str], versions: dict[str, list[str]]) -> None:
        """versions: every text of every document, to which the new ones are added."""
        self._urls = urls
        self._versions = versions
        self._doc_ids = sorted(versions)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.writes = 0
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _write(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.wait(0.05):
                self.writes += 1
                doc_id = self._doc_ids[self.writes * 17 % len(self._doc_ids)]
                text = text_of(self.writes, version=self.writes)
                self._versions[doc_id].append(text)
                url = f"{self._urls[self.writes % len(self._urls)]}/documents"
                body = {"documents": [{"doc_id": doc_id, "text": text}]}
                try:
                    client.put(url, json=body).raise_for_status()
                except httpx.HTTPError as error:
                    self.failures.append(repr(error))


class Oracle:
    """Knows what each generation would say: encodes queries and every version of every text."""

    def __init__(self, fleet: Fleet, queries: Sequence[str]) -> None:
        self._registry = fleet.data.registry
        self._queries = queries
        self.versions: dict[str, list[str]] = {  # every text a document has had from now on
            change.doc_id: [change.document.text]
            for change in fleet.data.corpus.changes(0, 1_000_000)
            if change.document is not None
        }
        self._models = {item.name: item.recipe.model for item in fleet.data.catalog.all()}

    def mixed(self, answers: Sequence[Answered]) -> list[str]:
        """Dense hits whose score is not the cosine that the generation the answer names gives."""
        texts = sorted({text for versions in self.versions.values() for text in versions})
        row_of = {text: row for row, text in enumerate(texts)}
        rows = {
            doc_id: [row_of[text] for text in versions]
            for doc_id, versions in self.versions.items()
        }
        cosines = {name: self._cosines(name, texts) for name in {a.generation for a in answers}}
        found = []
        for answer in answers:
            if answer.model != self._models[answer.generation]:
                found.append(f"{answer.generation} says {answer.model}")
            scores = cosines[answer.generation][answer.query]
            for doc_id, score in answer.dense:
                if np.abs(scores[rows[doc_id]] - score).min() > TOLERANCE:
                    found.append(f"{answer.generation} {doc_id} {score}")
        return found

    def _cosines(self, generation: str, texts: Sequence[str]) -> np.ndarray:
        """(n_queries, n_texts)"""
        version = self._registry.resolve(self._models[generation])
        encoder = Encoder(version, device="cpu", dtype="fp32")
        return encoder.encode_queries(list(self._queries)) @ encoder.encode_documents(list(texts)).T


def wait_for(happened: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Seconds until it happened."""
    began = time.monotonic()
    while not happened():
        assert time.monotonic() - began < timeout_s, "it did not happen in time"
        time.sleep(0.01)
    return time.monotonic() - began
