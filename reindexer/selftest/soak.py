"""`selftest soak`: a service for minutes or hours, with everything that happens to one.

Writes and queries go on throughout. Meanwhile come three upgrades, two rollbacks, a prune and
SIGKILLs at random moments; then, for the last third of the time, nothing but load, while memory,
handles, threads and disk are looked at.
"""

from __future__ import annotations

import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reindexer.cutover import cut_over, rollback
from reindexer.running_service import RunningService
from reindexer.selftest import verbs
from reindexer.selftest.child import Child, Service, prepare_children
from reindexer.selftest.proof import Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.resources import Sample, flat, take_sample
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.texts import document, text_of
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search.errors import SearchError
from search.searcher import SearchRequest

N_DOCUMENTS = 500
WRITES_PER_S = 20.0
N_CLIENTS = 2
ASK_EVERY_S = 0.02
SAMPLE_EVERY_S = 0.5
QUIET_FROM = 0.65  # share of the time after which nothing but load happens
MAX_VECTOR_BYTES = 4_096.0
STEP_S = 90.0  # for anything to happen at all
# When what happens, as a share of the time.
HAPPENINGS = (
    (0.08, "upgrade"),
    (0.20, "rollback"),
    (0.28, "upgrade"),
    (0.40, "rollback"),
    (0.48, "upgrade"),
    (0.60, "prune"),
)


def prove_soak(
    *,
    minutes: float = 2.0,
    seed: int = 0,
    own: Settings | None = None,
    leak: Callable[[], None] | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """own: as in `sandbox`. leak: what goes wrong inside the service, for the test of this."""
    prepare_children(own)
    watch = Stopwatch()
    with sandbox(own) as settings, WordDirectory(settings) as data:
        soak = _Soak(data, settings, 60.0 * minutes, seed, leak, on_progress)
        soak.run()
        lost = soak.truth.faults(data)
    quiet = [sample for sample in soak.samples if sample.at >= soak.quiet_at]
    a_write = _vector_bytes_a_write(quiet)
    return Proof(
        tool="soak",
        repeat=f"reindexer selftest soak --minutes {minutes:g} --seed {seed}",
        seed=seed,
        promises=(
            nothing_wrong(
                "no query failed while the service ran",
                soak.failures,
                looked_at=f"{soak.answered:,} queries, {soak.refused:,} more while it was dead",
                expected="an answer to each",
            ),
            nothing_wrong(
                "no write lost, stale or resurrected",
                lost,
                looked_at=f"{soak.written:,} writes",
                expected="corpus, live, standby and lexical index equal the truth, both ways",
            ),
            nothing_wrong(
                "everything took place",
                soak.problems,
                looked_at=f"{soak.kills} kills, {', '.join(soak.happened)}",
                expected="upgrades, rollbacks and restarts that come to their end",
            ),
            *flat(quiet),
            # Former versions of a vector stay in the engine's files until the next build.
            at_most("vectors on disk", a_write, MAX_VECTOR_BYTES, "bytes a write", of_speed=False),
        ),
        figures={
            "minutes": minutes,
            "queries": soak.answered,
            "writes": soak.written,
            "kills": soak.kills,
            "restart_s": [round(seconds, 2) for seconds in soak.restarts_s],
            "happened": soak.happened,
            "samples": len(quiet),
            "vector_bytes_a_write": round(a_write),
        },
        seconds=watch.seconds,
    )


def _vector_bytes_a_write(samples: Sequence[Sample]) -> float:
    if len(samples) < 2:
        return 0.0
    first, last = samples[0], samples[-1]
    return max(0.0, last.vectors - first.vectors) / (WRITES_PER_S * (last.at - first.at))


@dataclass(slots=True)
class _Outage:
    began: float
    ended: float = float("inf")


class _Asker:
    """One client of the service, over one connection for as long as it holds."""

    def __init__(self, data: WordDirectory) -> None:
        self._data = data
        self._service: RunningService | None = None

    def ask(self, text: str) -> str | None:
        """Why it was not answered; None when it was."""
        self._service = self._service or RunningService.find(self._data)
        if self._service is None:
            return "no service was found"
        try:
            answer = self._service.search(SearchRequest(query=text, k=5))
        except Exception as error:  # whatever it is, a user would have seen it
            self.close()
            return f"{type(error).__name__}: {error}"
        return f"degraded: {answer['degraded']}" if answer["degraded"] else None

    def close(self) -> None:
        if self._service is not None:
            self._service.__exit__()
            self._service = None


class _Soak:
    """The service, the load on it, and what happens to it."""

    def __init__(
        self,
        data: WordDirectory,
        settings: Settings,
        seconds: float,
        seed: int,
        leak: Callable[[], None] | None,
        on_progress: Callable[[int, int, str], None],
    ) -> None:
        self._data = data
        self._settings = settings
        self._seconds = seconds
        self._rng = random.Random(seed)
        self._leak = leak
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._outages: list[_Outage] = []
        self._lock = threading.Lock()
        self._models = itertools.count(1)
        self.truth = Truth()
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.problems: list[str] = []
        self.happened: list[str] = []
        self.restarts_s: list[float] = []
        self.answered = self.refused = self.written = self.kills = 0
        self.quiet_at = 0.0

    def run(self) -> None:
        data = self._data
        for number in range(N_DOCUMENTS):
            item = document(number)
            self.truth.documents[item.doc_id] = item
        data.corpus.put(list(self.truth.documents.values()))
        verbs.go_live(data, verbs.build(data, f"word@{next(self._models)}"))
        self._service = Service(self._settings, self._leak)
        self._wait_until_it_answers()
        began = time.monotonic()
        self.quiet_at = began + QUIET_FROM * self._seconds
        threads = [threading.Thread(target=self._write), threading.Thread(target=self._sample)]
        threads += [threading.Thread(target=self._ask, args=(n,)) for n in range(N_CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for share, what in self._schedule():
                self._sleep_until(began + share * self._seconds, began)
                self._happen(what)
            self.quiet_at = max(self.quiet_at, time.monotonic())
            self._sleep_until(self.quiet_at + (1 - QUIET_FROM) * self._seconds, began)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
            self._end_service()

    def _schedule(self) -> list[tuple[float, str]]:
        n_kills = max(2, round(self._seconds / 60))
        kills = [(self._rng.uniform(0.05, QUIET_FROM - 0.1), "kill") for _ in range(n_kills)]
        return sorted([*HAPPENINGS, *kills])

    def _sleep_until(self, at: float, began: float) -> None:
        while (now := time.monotonic()) < at:
            self._on_progress(round(now - began), round(self._seconds), "load")
            time.sleep(min(0.5, at - now))

    # -- what happens --------------------------------------------------------------------------

    def _happen(self, what: str) -> None:
        try:
            {
                "upgrade": self._upgrade,
                "rollback": lambda: rollback(self._data),
                "prune": lambda: verbs.tidy(self._data),
                "kill": self._kill,
            }[what]()
            self.happened.append(what)
        except Exception as error:
            self.problems.append(f"{what}: {type(error).__name__}: {error}")

    def _upgrade(self) -> None:
        model = f"word@{next(self._models)}"
        child = Child(self._settings, "build", model, diary=self._data.path / "diary")
        if code := child.wait():
            self.problems.append(f"build {model} ended with exit code {code}")
            return
        cut_over(self._data, self._data.catalog.all({"ready"})[-1].name)

    def _kill(self) -> None:
        """While an upgrade builds or nothing does, as chance has it."""
        outage = _Outage(time.monotonic())
        with self._lock:
            self._outages.append(outage)
        self._service.kill()
        self.kills += 1
        self._service = Service(self._settings, self._leak)
        self._wait_until_it_answers()
        outage.ended = time.monotonic()
        self.restarts_s.append(outage.ended - outage.began)

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline:
            if not self._service.is_alive():
                self.problems.append("the service ended by itself")
                return
            asker = _Asker(self._data)
            error = asker.ask(text_of(0))
            asker.close()
            if error is None:
                return
            time.sleep(0.05)
        self.problems.append(f"the service did not answer within {STEP_S:.0f} s")

    def _end_service(self) -> None:
        head = self._data.corpus.head()
        deadline = time.monotonic() + STEP_S
        while time.monotonic() < deadline and not self._is_at(head):
            time.sleep(0.05)
        if code := self._service.end(signal.SIGTERM):
            self.problems.append(f"the service ended with exit code {code}")

    def _is_at(self, seq: int) -> bool:
        return all(
            generation.watermark >= seq
            for generation in self._data.catalog.all({"live", "standby"})
        )

    # -- load ----------------------------------------------------------------------------------

    def _write(self) -> None:
        rng = random.Random(self._rng.random())
        for number in itertools.count():
            if self._stop.wait(1 / WRITES_PER_S):
                return
            at, kind = rng.randrange(N_DOCUMENTS), rng.random()
            what = f"write {number}"
            try:
                if kind < 0.2 and f"d{at}" in self.truth.documents:
                    self.truth.delete(self._data.corpus, f"d{at}", f"delete, {what}")
                else:
                    self.truth.put(self._data.corpus, document(at, number), f"put, {what}")
            except SearchError as error:
                self.failures.append(f"{what} failed: {error}")
            self.written += 1

    def _ask(self, client: int) -> None:
        asker = _Asker(self._data)
        for number in itertools.count(client):
            if self._stop.wait(ASK_EVERY_S):
                asker.close()
                return
            began = time.monotonic()
            error = asker.ask(" ".join(text_of(number % N_DOCUMENTS).split()[:5]))
            with self._lock:
                if error is None:
                    self.answered += 1
                elif self._was_dead(began, time.monotonic()):
                    self.refused += 1
                else:
                    self.failures.append(error)

    def _was_dead(self, began: float, ended: float) -> bool:
        return any(outage.began <= ended and began <= outage.ended for outage in self._outages)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            sample = take_sample(self._service.pid, self._data.path)
            if sample is not None:
                self.samples.append(sample)
