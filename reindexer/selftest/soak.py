"""`selftest soak`: a service for minutes or hours, with everything that happens to one.

Writes and queries go on throughout. Meanwhile come three upgrades, two rollbacks and a prune, each
verb in a process of its own, and SIGKILLs at random moments that hit the service or such a verb;
what was hit is done again. Then, for the last third of the time, nothing but load, while memory,
handles, threads and disk are looked at.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence

from reindexer.selftest import verbs
from reindexer.selftest.child import Child, Sabotage, prepare_children, was_killed
from reindexer.selftest.proof import Promise, Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.resources import Sample, flat
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.soak_kills import SoakKills
from reindexer.selftest.soak_load import WRITES_PER_S, SoakLoad
from reindexer.selftest.soak_service import SoakService
from reindexer.selftest.texts import documents
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings

N_DOCUMENTS = 500
QUIET_FROM = 0.65  # share of the time after which nothing but load happens
SETTLE_S = 5.0  # after the last thing that happened: a service that has just started still grows
VERB_S = 90.0  # for a verb to come to its end, however often it was hit
# When what happens, as a share of the time.
HAPPENINGS = (
    (0.08, "upgrade"),
    (0.20, "rollback"),
    (0.28, "upgrade"),
    (0.40, "rollback"),
    (0.48, "upgrade"),
    (0.60, "prune"),
)
KILLS_FROM, KILLS_UNTIL = 0.05, 0.55  # as well; as many as minutes, and one more for each verb
PRUNE_S = 0.1  # about how long it takes
# The engine's log is in files of 32 MB, the last two of which it keeps beside the one it writes.
MAX_LOG_MB = 100.0
# Room of former payloads is used again after some thousand writes, that of deleted points after
# the next build.
MAX_VECTORS_MB, MAX_VECTOR_BYTES = 8.0, 150.0  # from the start; and for each write


class VerbFailed(Exception):
    """A verb did not come to its end, and no kill is the reason."""


def prove_soak(
    *,
    minutes: float = 2.0,
    seed: int = 0,
    own: Settings | None = None,
    sabotage: Sabotage | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """own: as in `sandbox`. sabotage: what goes wrong inside the service, for the test of this."""
    prepare_children(own)
    watch = Stopwatch()
    with sandbox(own) as settings, WordDirectory(settings) as data:
        soak = _Soak(data, 60.0 * minutes, seed, sabotage, on_progress)
        soak.run()
        lost = soak.truth.faults(data)
    load, service, kills = soak.load, soak.service, soak.kills.counts
    quiet = [sample for sample in load.samples if sample.at >= soak.quiet_at]
    return Proof(
        tool="soak",
        repeat=f"reindexer selftest soak --minutes {minutes:g} --seed {seed}",
        seed=seed,
        promises=(
            nothing_wrong(
                "no query failed while the service ran",
                load.failures,
                looked_at=f"{load.answered:,} queries, {load.refused:,} more while it was dead",
                expected="an answer to each",
                n=load.answered,
            ),
            nothing_wrong(
                "no write lost, stale or resurrected",
                lost,
                looked_at=f"{load.written:,} writes",
                expected="corpus, live, standby and lexical index equal the truth, both ways",
                n=load.written,
            ),
            nothing_wrong(
                "everything took place",
                soak.problems + service.problems,
                looked_at=f"{', '.join(soak.happened)}; killed: {_told(kills)}",
                expected="upgrades, rollbacks and restarts that come to their end",
                n=kills.total(),
            ),
            *flat(quiet),
            *_disk_of_collections(quiet),
        ),
        figures={
            "minutes": minutes,
            "queries": load.answered,
            "refused": load.refused,
            "writes": load.written,
            "kills": kills.total(),
            "killed": dict(sorted(kills.items())),
            "repeated": soak.repeated,
            "restart_s": [round(seconds, 2) for seconds in service.restarts_s],
            "happened": soak.happened,
            "samples": len(quiet),
        },
        seconds=watch.seconds,
    )


def _told(kills: Mapping[str, int]) -> str:
    return ", ".join(f"{who} {times}" for who, times in sorted(kills.items())) or "nobody"


def _disk_of_collections(samples: Sequence[Sample]) -> tuple[Promise, ...]:
    """What the engine gives back later than it is freed, within its bounds."""
    if len(samples) < 2:
        log_mb = grown_mb = None
        writes = 0.0
    else:
        log_mb = max(sample.log for sample in samples) / 1e6
        grown_mb = (samples[-1].vectors - samples[0].vectors) / 1e6
        writes = WRITES_PER_S * (samples[-1].at - samples[0].at)
    return (
        at_most("log of a collection", log_mb, MAX_LOG_MB, "MB", of_speed=False),
        at_most(
            "growth of vectors on disk",
            grown_mb,
            MAX_VECTORS_MB + writes * MAX_VECTOR_BYTES / 1e6,
            "MB",
            of_speed=False,
            about=f" over {writes:,.0f} writes",
        ),
    )


class _Soak:
    """The service, the load on it, and what happens to it."""

    def __init__(
        self,
        data: WordDirectory,
        seconds: float,
        seed: int,
        sabotage: Sabotage | None,
        on_progress: Callable[[int, int, str], None],
    ) -> None:
        self._data = data
        self._seconds = seconds
        self._rng = rng = random.Random(seed)
        self._on_progress = on_progress
        self._models = itertools.count(1)
        self.truth = Truth()
        self.problems: list[str] = []
        self.happened: list[str] = []
        self.repeated = 0  # verbs that a kill had hit, or the service that they needed
        self._took_s = {"prune": PRUNE_S}  # by verb, when it last came to its end
        self._make_live()
        self.service = SoakService(data, sabotage)
        self.load = SoakLoad(data, self.service, self.truth, rng)
        self._began = time.monotonic()
        self.quiet_at = self._began + QUIET_FROM * seconds
        moments = (rng.uniform(KILLS_FROM, KILLS_UNTIL) for _ in range(max(2, round(seconds / 60))))
        self.kills = SoakKills(
            self.service, [self._began + share * seconds for share in moments], rng
        )

    def _make_live(self) -> None:
        first = list(documents(range(N_DOCUMENTS)))
        self.truth.documents.update({document.doc_id: document for document in first})
        self._data.corpus.put(first)
        watch = Stopwatch()
        name = verbs.build(self._data, self._next_model())
        self._took_s["build"] = watch.seconds
        watch = Stopwatch()
        verbs.go_live(self._data, name)
        self._took_s["go live"] = watch.seconds

    def run(self) -> None:
        self.load.start()
        try:
            self.kills.start()
            try:
                for share, what in HAPPENINGS:
                    self._sleep_until(self._began + share * self._seconds)
                    self._happen(what)
                self._sleep_until(self._began + KILLS_UNTIL * self._seconds)
            finally:
                self.kills.end()
            self.quiet_at = max(self.quiet_at, time.monotonic() + SETTLE_S)
            self._sleep_until(self.quiet_at + (1 - QUIET_FROM) * self._seconds)
        finally:
            self.load.end()
            head = self._data.corpus.head()
            self.service.end(lambda: self._is_at(head))

    def _sleep_until(self, at: float) -> None:
        while (now := time.monotonic()) < at:
            self._tell("load")
            time.sleep(min(0.5, at - now))

    def _tell(self, what: str) -> None:
        self._on_progress(round(time.monotonic() - self._began), round(self._seconds), what)

    def _is_at(self, seq: int) -> bool:
        return all(
            generation.watermark >= seq
            for generation in self._data.catalog.all({"live", "standby"})
        )

    # -- what happens --------------------------------------------------------------------------

    def _happen(self, what: str) -> None:
        try:
            {"upgrade": self._upgrade, "rollback": self._roll_back, "prune": self._prune}[what]()
            self.happened.append(what)
        except Exception as error:
            self.problems.append(f"{what}: {error}")

    def _upgrade(self) -> None:
        self._do("build", self._next_model())
        self._do("go live", self._data.catalog.all({"ready"})[-1].name)

    def _roll_back(self) -> None:
        standby = self._data.catalog.standby()
        if standby is None:
            raise VerbFailed("there is no standby generation")
        self._do("go live", standby.name)

    def _prune(self) -> None:
        self._do("prune", "")

    def _do(self, verb: str, argument: str) -> None:
        """One verb, again and again until it comes to its end. Raises VerbFailed when no kill is
        the reason that it does not."""
        deadline = time.monotonic() + VERB_S
        takes_s: float | None = self._took_s[verb]
        while True:
            self._tell(verb)
            began = time.monotonic()
            child = Child(self._data.settings, verb, argument, diary=self._data.path / "diary")
            self.kills.verb_begins(verb, child, takes_s)
            code = child.wait()
            ended = time.monotonic()
            was_hit = self.kills.verb_ended(was_killed=was_killed(code))
            if code == 0:
                self._took_s[verb] = ended - began
                return
            why = f"{verb} {argument} ended with exit code {code}: {child.read_diary().failure}"
            if not (was_hit or self.service.was_away(began, ended)):
                raise VerbFailed(why)
            if ended > deadline:
                raise VerbFailed(f"{why}; not done within {VERB_S:.0f} s")
            self.repeated += 1
            takes_s = None

    def _next_model(self) -> str:
        return f"word@{next(self._models)}"
