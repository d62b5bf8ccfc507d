"""`selftest switch`: queries without a pause while the live generation changes again and again.

Every answer is scored again by the model of the generation that it names. An answer that mixed two
generations, of one dimension or of two, has scores that neither of them gives.
"""

from __future__ import annotations

import itertools
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from reindexer.cutover import cut_over
from reindexer.selftest import verbs
from reindexer.selftest.child import Child, prepare_children
from reindexer.selftest.proof import Promise, Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.serving import Serving
from reindexer.selftest.texts import documents, text_of
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search.answer import Answer, Mode
from search.dense import FloatMatrix
from search.searcher import Searcher, SearchRequest

N_DOCUMENTS = 300
N_QUERIES = 40  # different ones
N_CLIENTS = 3
K = 10
MODELS = ("word@1", "word@2", "word24@3")  # of 16, 16 and 24 dimensions
SWITCHES_A_BUILD = 8
STEADY_SHARE = 0.2  # of the queries are asked before the first switch
MAX_STALL_MS = 50.0
MAX_P99_RATIO = 1.25
SCORE_TOLERANCE = 1e-4
MODES: tuple[Mode, ...] = ("dense", "hybrid", "dense", "hybrid", "lexical")

SETTLING_S = 0.5  # after a switch, when what is not needed any more is closed

Phase = str  # steady, building, between, after: what else happened when a query began
Tamper = Callable[[Searcher], Searcher]  # breaks what a client is given, for the test of this


class Asked(NamedTuple):
    """When a query was under way, in seconds of `time.perf_counter`."""

    phase: Phase
    began: float
    ended: float


class _Given(NamedTuple):
    """One answer, without its times: many are the same."""

    generation: str
    model: str
    query: int
    mode: Mode
    hits: tuple[tuple[str, float | None], ...]  # doc_id and cosine


@dataclass(slots=True)
class _Heard:
    """What one client was told. Times are kept as bare numbers: to look through an object for each
    of 200,000 queries for garbage held up all queries of the process, for 30 to 150 ms."""

    answers: Counter[_Given] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    began: array[float] = field(default_factory=lambda: array("d"))
    ended: array[float] = field(default_factory=lambda: array("d"))
    n: int = 0

    def asked(self) -> Iterator[Asked]:
        return map(Asked, self.phases, self.began, self.ended)


def prove_switch(
    *,
    queries: int = 10_000,
    switches: int = 12,
    seed: int = 0,
    own: Settings | None = None,
    tamper: Tamper | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """So many queries, spread over so many cut-overs and rollbacks. own: as in `sandbox`."""
    prepare_children(own)
    watch = Stopwatch()
    with sandbox(own) as settings, WordDirectory(settings) as data:
        data.corpus.put(list(documents(range(N_DOCUMENTS), version=seed)))
        first = verbs.build(data, MODELS[0])
        verbs.go_live(data, first)
        with Serving(data) as serving:
            load = _Load(serving, queries, seed, tamper, on_progress)
            done = load.run(lambda: _switch_often(data, serving, load, switches))
            problems = serving.problems
        heard = load.heard
        mixed = _mixed(data, heard, seed)
    asked = [query for client in heard for query in client.asked()]
    steady, switching = steady_and_switching(asked, load.switches)
    ratio = _p99(switching) / _p99(steady) if steady and switching else None
    worst_ms = max(switching, default=None)
    total = sum(client.n for client in heard)
    failures = [failure for client in heard for failure in client.failures] + problems
    return Proof(
        tool="switch",
        repeat=f"reindexer selftest switch --queries {queries} --switches {switches} --seed {seed}",
        seed=seed,
        promises=(
            nothing_wrong(
                "no query failed",
                failures,
                looked_at=f"{total:,} queries over {done} cut-overs and rollbacks",
                expected="an answer from both legs to each",
            ),
            nothing_wrong(
                "no answer mixed two generations",
                mixed,
                looked_at=f"{total:,} answers scored again",
                expected="the scores of the generation that the answer names",
            ),
            Promise(
                name="every switch took place",
                kept=0 < switches <= done,
                found=f"{done} of {switches}",
                expected="all of them",
            ),
            at_most("worst stall", worst_ms, MAX_STALL_MS, "ms"),
            at_most("p99 while switching, against steady", ratio, MAX_P99_RATIO, "times"),
        ),
        figures={
            "queries": total,
            "switches": done,
            "failed": len(failures),
            "mixed": len(mixed),
            "worst_stall_ms": None if worst_ms is None else round(worst_ms, 2),
            "steady_ms": _percentiles(steady),
            "switching_ms": _percentiles(switching),
            "queries_while_switching": len(switching),
            "p99_ratio": None if ratio is None else round(ratio, 3),
        },
        seconds=watch.seconds,
    )


def _switch_often(data: WordDirectory, serving: Serving, load: _Load, switches: int) -> int:
    """Build, cut over, and go back and forth a few times before the next build."""
    models = itertools.cycle(MODELS[1:] + MODELS[:1])
    done = 0
    while done < switches:
        load.phase = "building"
        model = next(models)
        standby = data.catalog.standby()
        if standby is None or standby.recipe.model != model:
            child = Child(data.settings, "build", model, diary=data.path / "diary")
            if code := child.wait():
                serving.problems.append(f"build {model} ended with exit code {code}")
                return done
            target = data.catalog.all({"ready"})[-1].name
        else:
            target = standby.name
        for _ in range(min(SWITCHES_A_BUILD, switches - done)):
            load.wait_for_share(done / switches)
            began = time.perf_counter()
            cut_over(data, target)
            load.switches.append((began, time.perf_counter()))
            load.phase = "between"
            done += 1
            standby = data.catalog.standby()
            assert standby is not None
            target = standby.name
    return done


class _Load:
    """Clients that ask without a pause, until so many queries are answered."""

    def __init__(
        self,
        serving: Serving,
        queries: int,
        seed: int,
        tamper: Tamper | None,
        on_progress: Callable[[int, int, str], None],
    ) -> None:
        self._serving = serving
        self._wanted = queries
        self._texts = _queries(seed)
        self._tamper = tamper
        self._on_progress = on_progress
        self._switched = threading.Event()
        self.phase: Phase = "steady"
        self.switches: list[tuple[float, float]] = []  # when each began and ended
        self.heard = [_Heard() for _ in range(N_CLIENTS)]

    def run(self, switch: Callable[[], int]) -> int:
        self._serving.wait_until(lambda: self._serving.manager.current is not None, "a searcher")
        clients = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(N_CLIENTS)
        ]
        for client in clients:
            client.start()
        try:
            self.wait_for_share(0.0)
            done = switch()
        finally:
            self.phase = "after"
            self._switched.set()
            for client in clients:
                client.join()
        return done

    @property
    def answered(self) -> int:
        return sum(client.n for client in self.heard)

    def wait_for_share(self, share: float) -> None:
        """Until this share (0..1) of what comes after the steady part is answered."""
        wanted = self._wanted * (STEADY_SHARE + (1 - STEADY_SHARE) * share)
        while self.answered < wanted:
            self._on_progress(self.answered, self._wanted, self.phase)
            time.sleep(0.01)

    def _ask(self, client: int) -> None:
        heard = self.heard[client]
        for number in itertools.count(client):
            if self._switched.is_set() and self.answered >= self._wanted:
                return
            query, mode = number % len(self._texts), MODES[number % len(MODES)]
            request = SearchRequest(query=self._texts[query], mode=mode, k=K, explain=True)
            phase, began = self.phase, time.perf_counter()
            try:
                with self._serving.manager.acquire() as searcher:
                    answer = (self._tamper(searcher) if self._tamper else searcher).search(request)
            except Exception as error:  # whatever it is, a user would have seen it
                heard.failures.append(f"{type(error).__name__}: {error}")
                heard.n += 1
                continue
            heard.ended.append(time.perf_counter())
            heard.began.append(began)
            heard.phases.append(phase)
            heard.n += 1
            if answer.degraded:
                heard.failures.append(f"degraded: {dict(answer.problems)}")
            heard.answers[_given(answer, query)] += 1


def _given(answer: Answer, query: int) -> _Given:
    return _Given(
        answer.generation,
        answer.model,
        query,
        answer.mode,
        tuple(
            (hit.doc_id, hit.explanation.dense_score if hit.explanation else None)
            for hit in answer.hits
        ),
    )


def _mixed(data: WordDirectory, heard: Sequence[_Heard], seed: int) -> list[str]:
    """Answers that the generation which they name does not give."""
    models = {item.name: item.recipe.model for item in data.catalog.all()} | {
        item.name: item.recipe.model for item in data.catalog.all({"pruned"})
    }
    numbers = {f"d{number}": number for number in range(N_DOCUMENTS)}
    texts = [item.full_text for item in documents(range(N_DOCUMENTS), version=seed)]
    cosines: dict[str, FloatMatrix] = {}
    for model in set(models.values()):
        encoder = data.load_encoder(model)
        cosines[model] = encoder.encode_queries(_queries(seed)) @ encoder.encode_documents(texts).T
    found: list[str] = []
    for given, times in sum((client.answers for client in heard), Counter[_Given]()).items():
        if models.get(given.generation) != given.model:
            found += [f"{given.generation} named the model {given.model}"] * times
            continue
        expected = cosines[given.model][given.query]
        if not _is_of(given, expected, numbers):
            found += [f"{given.generation} ({given.mode}) gave {given.hits[:2]} …"] * times
    return found


def _is_of(given: _Given, expected: FloatMatrix, numbers: dict[str, int]) -> bool:
    """expected: (n_documents,) cosines that this generation gives to the query."""
    scored = [(numbers[doc_id], score) for doc_id, score in given.hits if score is not None]
    if any(abs(expected[at] - score) > SCORE_TOLERANCE for at, score in scored):
        return False
    if given.mode != "dense":
        return True
    best = np.sort(expected)[::-1][:K]
    return len(scored) == K and bool(
        np.abs(best - np.array([score for _, score in scored])).max() <= SCORE_TOLERANCE
    )


def _queries(seed: int) -> list[str]:
    """Parts of documents' texts, so that both legs find something."""
    return [" ".join(text_of(number * 7, version=seed).split()[:5]) for number in range(N_QUERIES)]


def steady_and_switching(
    asked: Sequence[Asked], switches: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float]]:
    """Milliseconds of the queries before anything else happened, and of those that were under way
    at any time between the beginning of a switch and what is closed after its end."""
    began = np.array([query.began for query in asked])
    ended = np.array([query.ended for query in asked])
    in_a_switch = np.zeros(len(asked), np.bool_)
    for start, end in switches:
        in_a_switch |= (began <= end + SETTLING_S) & (ended >= start)
    is_steady = np.array([query.phase == "steady" for query in asked], np.bool_) & ~in_a_switch
    times_ms = 1_000 * (ended - began)
    return times_ms[is_steady].tolist(), times_ms[in_a_switch].tolist()


def _p99(times_ms: Sequence[float]) -> float:
    return float(np.percentile(times_ms, 99))


def _percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    if not times_ms:
        return {}
    return {
        name: round(float(np.percentile(times_ms, share)), 3)
        for name, share in (("p50", 50), ("p99", 99), ("max", 100))
    }
