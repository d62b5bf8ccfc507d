"""What goes on throughout a soak: writes, queries, and looks at what the service takes up."""

from __future__ import annotations

import itertools
import random
import threading
import time

from reindexer.selftest.asker import Asker
from reindexer.selftest.resources import Sample, take_sample
from reindexer.selftest.soak_service import SoakService
from reindexer.selftest.texts import document, text_of
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from search.errors import SearchError

WRITES_PER_S = 20.0
N_CLIENTS = 2
ASK_EVERY_S = 0.02
SAMPLE_EVERY_S = 0.5
DELETE_SHARE = 0.2


class SoakLoad:
    """Threads that work until they are told to stop."""

    def __init__(
        self, data: WordDirectory, service: SoakService, truth: Truth, rng: random.Random
    ) -> None:
        self._data = data
        self._service = service
        self._truth = truth
        self._n_documents = len(truth.documents)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._write, args=(random.Random(rng.random()),)),
            threading.Thread(target=self._sample),
            *(threading.Thread(target=self._ask, args=(number,)) for number in range(N_CLIENTS)),
        ]
        self.samples: list[Sample] = []
        self.failures: list[str] = []  # of a service that was there
        self.answered = self.refused = self.written = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, rng: random.Random) -> None:
        for number in itertools.count():
            if self._stop.wait(1 / WRITES_PER_S):
                return
            at, kind = rng.randrange(self._n_documents), rng.random()
            what = f"write {number}"
            try:
                if kind < DELETE_SHARE and f"d{at}" in self._truth.documents:
                    self._truth.delete(self._data.corpus, f"d{at}", f"delete, {what}")
                else:
                    self._truth.put(self._data.corpus, document(at, number), f"put, {what}")
            except SearchError as error:
                self.failures.append(f"{what} failed: {error}")
            self.written += 1

    def _ask(self, client: int) -> None:
        asker = Asker(self._data)
        for number in itertools.count(client):
            if self._stop.wait(ASK_EVERY_S):
                asker.close()
                return
            began = time.monotonic()
            error = asker.ask(" ".join(text_of(number % self._n_documents).split()[:5]))
            with self._lock:
                if error is None:
                    self.answered += 1
                elif self._service.was_away(began, time.monotonic()):
                    self.refused += 1
                else:
                    self.failures.append(error)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            sample = take_sample(self._service.pid, self._data.path)
            if sample is not None:
                self.samples.append(sample)
