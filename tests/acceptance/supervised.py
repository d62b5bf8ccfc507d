"""A service and a worker that are started again whenever they die, as an init system would, and the
writers and readers that do not care."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from reindexer.build import BuildRun
from reindexer.build_job import BuildJob
from reindexer.cutover import cut_over
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.jobs import BUILD_KINDS, JobQueue
from reindexer.journal import BUILD_LEASE
from reindexer.opening import Opener
from reindexer.recipes import find_model, recipe_for
from reindexer.settings import Settings
from reindexer.verify import verify_structure
from search.documents import Document
from search.generations import State
from tests import warm_processes
from tests.acceptance.conftest import text_of

BUILD_WINDOW = 1  # document; a build of a few hundred has many checkpoints to be killed at
LAST_WRITE_S = 60.0
MARK = "SUPERVISED_DATA_DIR"  # in the environment of every process that is ours


class Supervised:
    """`serve` and `worker` on one embedded data directory, kept alive in a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder / "data")
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.restarts = {"serve": 0, "worker": 0}
        self._log = folder / "stderr.log"
        self._processes: dict[str, BaseProcess] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive)

    def prepare(self, documents: Mapping[str, str], models: list[Path]) -> list[str]:
        """The second model's generation is live and the first one's is standby; returns the other
        models, which are registered."""
        with open_data_directory(self.settings) as data:
            data.corpus.put([Document.of(doc_id=key, text=text) for key, text in documents.items()])
            for model in models[:2]:
                cut_over(data, _build(data, model))
            return [str(find_model(data, str(model))) for model in models[2:]]

    def __enter__(self) -> Self:
        self._data = open_data_directory(self.settings)  # to look into the database
        for name in self.restarts:
            self._start(name)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._processes["serve"].kill()  # what it leaves is as good as after a drain
        self._processes["worker"].terminate()  # it may have children
        for process in self._processes.values():
            process.join(60)
        self._data.close()

    def _start(self, name: str) -> None:
        verb = ["serve", "--port", str(self.port)] if name == "serve" else ["worker"]
        given = {
            "REINDEXER_LOG_LEVEL": "warning",
            "REINDEXER_SERVE_WORKER": "false",
            "REINDEXER_WORKER_RESUME_AFTER_S": "1",
            "REINDEXER_BUILD_WINDOW": str(BUILD_WINDOW),
            MARK: str(self.settings.data_dir),
            "OMP_NUM_THREADS": "1",
        }
        self._processes[name] = warm_processes.start_verb(
            ["--data-dir", str(self.settings.data_dir), "--quiet", *verb],
            environment={**os.environ, **given},
            stderr=self._log,
        )

    def _keep_alive(self) -> None:
        while not self._stopping.wait(0.02):
            for name, process in list(self._processes.items()):
                if not process.is_alive():
                    self._start(name)
                    self.restarts[name] += 1

    # -- what happens to it ----------------------------------------------------------------------

    def kill(self, name: str) -> None:
        """SIGKILL to the service or the worker."""
        self._processes[name].kill()

    def kill_build(self, *, after_docs: int) -> bool:
        """SIGKILL to the process that builds, once it has so many documents; False until then."""
        running = self._data.journal.builds({"running"})
        if not running or running[0].docs_done < after_docs:
            return False
        for pid in _processes_with("reindexer.build"):
            if f"{MARK}={self.settings.data_dir}" in _environment(pid):
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def ask_for_a_build(self, model: str) -> None:
        body = {"model": model, "cut_over": False}
        httpx.post(f"{self.url}/builds", json=body, timeout=30).raise_for_status()

    def is_building(self) -> bool:
        """A build is asked for, or under way, or waits for its next attempt."""
        jobs = JobQueue(self._data.database).active()
        return any(job.kind in BUILD_KINDS for job in jobs)

    def generations(self, state: State) -> list[str]:
        return [item.name for item in self._data.catalog.all({state})]

    def is_in_step(self) -> bool:
        """The log is applied to both legs of the live generation, and to the standby one."""
        info = httpx.get(f"{self.url}/info", timeout=30).raise_for_status().json()
        applied = [item.watermark for item in self._data.catalog.all({"live", "standby"})]
        return {info["lexical_watermark"], *applied} == {self._data.corpus.head()}


class Writers:
    """Put and delete documents, again and again until it is acknowledged; each has its own ids."""

    def __init__(
        self,
        url: str,
        documents: Mapping[str, str],
        *,
        count: int,
        seed: int,
        pause_s: float = 0.01,
    ) -> None:
        self._url = url
        self._pause_s = pause_s
        self._seed = seed
        self._count = count
        self._stop = threading.Event()
        self._gave_up = threading.Event()
        self.truth = dict(documents)  # the last that was acknowledged
        self.acknowledged = 0
        self.highest_seq = 0
        self.refused: list[str] = []  # answers that are neither success nor "not now"
        self._threads = [threading.Thread(target=self._write, args=[n]) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(LAST_WRITE_S)
        self._gave_up.set()
        for thread in self._threads:
            thread.join()

    def _write(self, number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")
        ids = [doc_id for doc_id in self.truth if int(doc_id[1:]) % self._count == number]
        ids += [f"d{1_000_000 + self._count * n + number}" for n in range(20)]  # new ones
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.wait(self._pause_s):
                doc_id = rng.choice(ids)
                text = (
                    None if rng.random() < 0.2 else text_of(rng.randrange(10_000), rng.randrange(9))
                )
                seq = self._acknowledged(client, doc_id, text)
                if text is None:
                    self.truth.pop(doc_id, None)
                else:
                    self.truth[doc_id] = text
                self.acknowledged += 1
                self.highest_seq = max(self.highest_seq, seq)

    def _acknowledged(self, client: httpx.Client, doc_id: str, text: str | None) -> int:
        """The seq of the write, however often it takes to ask."""
        while not self._gave_up.is_set():
            try:
                if text is None:
                    response = client.delete(f"/documents/{doc_id}")
                else:
                    documents = [{"doc_id": doc_id, "text": text}]
                    response = client.put("/documents", json={"documents": documents})
            except httpx.HTTPError:
                time.sleep(0.05)
                continue
            if response.status_code == 200:
                return int(response.json()["seq"])
            if response.status_code not in (404, 429, 503):
                self.refused.append(f"{response.status_code} {response.text}")
            if response.status_code == 404:  # deleted by the attempt whose answer got lost
                return 0
            time.sleep(0.05)
        raise TimeoutError(f"{self._url} did not come back, so {doc_id} was not acknowledged")


class Readers:
    """Ask all the time; a service that is down refuses the connection, and nothing else fails."""

    def __init__(self, url: str, *, count: int, pause_s: float = 0.005) -> None:
        self._url = url
        self._pause_s = pause_s
        self._stop = threading.Event()
        self.answers = 0
        self.wrong: list[str] = []
        self.longest_gap_s = 0.0
        self._answered_at = time.monotonic()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._read, args=[n]) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _read(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stop.wait(self._pause_s):
                number += 7
                try:
                    response = client.post("/search", json={"query": text_of(number % 50)})
                except httpx.HTTPError:
                    time.sleep(0.05)
                    continue
                if response.status_code == 503:  # it has just started
                    time.sleep(0.05)
                elif response.status_code != 200:
                    self.wrong.append(f"{response.status_code} {response.text}")
                else:
                    self._answered()

    def _answered(self) -> None:
        with self._lock:
            now = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now - self._answered_at)
            self._answered_at = now
            self.answers += 1


def losses(settings: Settings, truth: Mapping[str, str]) -> Iterator[str]:
    """What is not as it was acknowledged: in the corpus, and in both legs of every generation that
    is kept in step. Nobody else may have the data directory open."""
    with open_data_directory(settings) as data:
        found = {
            change.doc_id: change.document.text
            for change in data.corpus.changes(0, 1_000_000)
            if change.document is not None
        }
        for doc_id in found.keys() | truth.keys():
            if found.get(doc_id) != truth.get(doc_id):
                yield f"{doc_id}: {found.get(doc_id)!r} in the corpus, not {truth.get(doc_id)!r}"
        opener = Opener(data, writable=False, warm=False)
        for generation in data.catalog.all({"live", "standby"}):
            if generation.watermark != data.corpus.head():
                yield f"{generation.name} is at {generation.watermark} of {data.corpus.head()}"
            opened = opener.open(generation.name)
            for check in verify_structure(data.corpus, opened, watermark=generation.watermark):
                if not check.passed:
                    yield f"{generation.name}: {json.dumps(check.to_json())}"
            opened.close()
        opener.close()


def wait_for(happened: Callable[[], bool], timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def _build(data: DataDirectory, model: Path) -> str:
    generation = data.catalog.record(recipe_for(data, find_model(data, str(model))))
    build = data.journal.record_build(
        generation.name, start_head=data.corpus.head(), docs_total=data.corpus.count()
    )
    with data.journal.lease(BUILD_LEASE) as lease:
        job = BuildJob(generation=generation.name, token=lease.token, settings={})
        report = BuildRun(data, job).run()
    assert report.passed, report.reasons
    data.catalog.move(generation.name, "ready")
    data.journal.update_build(build.build_id, state="done")
    return generation.name


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _processes_with(module: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in arguments:
                found.append(int(entry.name))
    return found


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""
