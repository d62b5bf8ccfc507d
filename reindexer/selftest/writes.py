"""`selftest writes`: four writers, while everything else happens, against a model of the truth."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from reindexer.cutover import cut_over, rollback
from reindexer.selftest.child import Child, prepare_children
from reindexer.selftest.proof import Promise, Proof, Stopwatch, nothing_wrong
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.serving import Serving
from reindexer.selftest.texts import document, text_of
from reindexer.selftest.truth import Truth
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings
from search.documents import Document
from search.errors import SearchError

N_WRITERS = 4
N_INGESTED = 300  # documents that come from a file meanwhile, under a source of their own
IDS_PER_OPERATION = 0.25  # so that a document is written about four times
MIN_OPERATIONS_PER_S = 200
KNOWN_AT_FIRST = 0.5  # of the ids, so that every kind of operation finds one from the beginning
# What is done, and its share. The last is for one that was deleted earlier, as it was then.
SHARES: Mapping[str, float] = {"upsert": 0.5, "metadata": 0.2, "delete": 0.2, "insert again": 0.1}


def prove_writes(
    *,
    operations: int = 5_000,
    seeds: int = 1,
    seed: int = 0,
    own: Settings | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """So many operations for each of so many seeds, from `seed` on. own: as in `sandbox`."""
    prepare_children(own)
    watch = Stopwatch()
    faults: list[str] = []
    rates: list[float] = []
    by_kind: Counter[str] = Counter()

    def tell(before: int, done: int, what: str) -> None:
        on_progress(before + done, operations * seeds, what)

    for number in range(seed, seed + seeds):
        with sandbox(own) as settings, WordDirectory(settings) as data:
            before = (number - seed) * operations
            world = _World(data, operations, number, partial(tell, before))
            found = world.run()
        faults += [f"seed {number}: {fault}" for fault in found]
        rates.append(world.operations_per_s)
        by_kind += world.by_kind
    slowest = min(rates)
    return Proof(
        tool="writes",
        repeat=f"reindexer selftest writes --operations {operations} --seeds {seeds} --seed {seed}",
        seed=seed,
        promises=(
            nothing_wrong(
                "no write lost, stale or resurrected",
                faults,
                looked_at=f"{operations:,} operations a seed, {seeds} seeds, {N_WRITERS} writers",
                expected="corpus, live, standby and lexical index equal the truth, both ways",
            ),
            Promise(
                name="writes go on meanwhile",
                kept=slowest >= MIN_OPERATIONS_PER_S,
                found=f"{slowest:,.0f} a second while writers wrote",
                expected=f"at least {MIN_OPERATIONS_PER_S} a second",
                of_speed=True,
            ),
        ),
        figures={
            "operations": operations * seeds,
            "seeds": seeds,
            "operations_per_s": [round(rate) for rate in rates],
            "by_kind": dict(by_kind),
        },
        seconds=watch.seconds,
    )


class _World:
    """One seed: the writers, and what happens around them, phase after phase."""

    def __init__(
        self,
        data: WordDirectory,
        operations: int,
        seed: int,
        on_progress: Callable[[int, str], None],
    ) -> None:
        self._data = data
        self._operations = operations
        self._seed = seed
        self._on_progress = on_progress
        self._truth = Truth()
        self._n_ids = max(20, int(operations * IDS_PER_OPERATION))
        self.by_kind: Counter[str] = Counter()
        self._failures: list[str] = []
        self._done = 0
        self._allowed = 0
        self._phase = ""
        self._turn = threading.Condition()
        self._writing_s = 0.0

    @property
    def operations_per_s(self) -> float:
        return self._done / self._writing_s if self._writing_s else 0.0

    def run(self) -> list[str]:
        """What is not as it should be."""
        for at in range(int(self._n_ids * KNOWN_AT_FIRST)):
            self._truth.put(self._data.corpus, document(at), "insert before the first operation")
        writers = [
            threading.Thread(target=self._write, args=(number,)) for number in range(N_WRITERS)
        ]
        for writer in writers:
            writer.start()
        try:
            with Serving(self._data) as serving:
                self._all_phases()
                self._allow(self._operations, "the end")
                for writer in writers:
                    writer.join()
                serving.wait_until(serving.is_in_step, "live and standby in step with the corpus")
                self._failures += serving.problems
        finally:
            self._allow(self._operations, "the end")
            for writer in writers:
                writer.join()
        return self._failures + self._truth.faults(self._data, in_step=True)

    def _all_phases(self) -> None:
        phases: list[tuple[str, Callable[[], object]]] = [
            ("ingest", self._ingest),
            ("build", lambda: self._build("word@1")),
            ("cut-over", lambda: cut_over(self._data, "docs@1")),
            ("build", lambda: self._build("word@2")),
            ("cut-over", lambda: cut_over(self._data, "docs@2")),
            ("standby", lambda: None),
            ("rollback", lambda: rollback(self._data)),
            ("cut-over back", lambda: rollback(self._data)),
        ]
        for number, (name, happen) in enumerate(phases, 1):
            self._allow(self._operations * number // len(phases), name)
            try:
                happen()
            except Exception as error:
                self._failures.append(f"{name}: {type(error).__name__}: {error}")
                return
            self._wait_for_writers()

    # -- what happens meanwhile ----------------------------------------------------------------

    def _ingest(self) -> None:
        path = self._data.path / "ingested.jsonl"
        self._write_file(path)
        self._child("ingest", str(path))

    def _write_file(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            for number in range(N_INGESTED):
                item = Document.of(
                    doc_id=f"file-{number}", text=text_of(-number - 1), source="selftest"
                )
                file.write(json.dumps({"_id": item.doc_id, "text": item.text}) + "\n")
                self._truth.documents[item.doc_id] = item

    def _build(self, model: str) -> None:
        self._child("build", model)

    def _child(self, verb: str, argument: str) -> None:
        child = Child(
            self._data.settings, verb, argument, diary=self._data.path / "diary"
        )  # as a build always runs: in a process of its own
        if code := child.wait():
            self._failures.append(f"{verb} {argument} ended with exit code {code}")

    # -- writers -------------------------------------------------------------------------------

    def _allow(self, operations: int, phase: str) -> None:
        with self._turn:
            self._allowed, self._phase = operations, phase
            self._turn.notify_all()

    def _wait_for_writers(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._done >= self._allowed or bool(self._failures), 600)

    def _next(self) -> int | None:
        """The number of the next operation, once its phase has come; None at the end."""
        with self._turn:
            if self._done >= self._operations:
                return None
            while self._done >= self._allowed:
                self._turn.wait()
                if self._done >= self._operations:
                    return None
            self._done += 1
            self._turn.notify_all()
            return self._done

    def _write(self, writer: int) -> None:
        rng = random.Random(f"{self._seed} {writer}")
        while (number := self._next()) is not None:
            began = time.monotonic()
            try:
                self._operate(rng, number)
            except SearchError as error:
                self._failures.append(f"operation {number} failed: {error}")
                return
            with self._turn:
                self._writing_s += (time.monotonic() - began) / N_WRITERS
            if number % 100 == 0:
                self._on_progress(number, f"seed {self._seed}, {self._phase}")

    def _operate(self, rng: random.Random, number: int) -> None:
        """Draw what is done, and then a document that it can be done to."""
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        first = rng.randrange(self._n_ids)
        for at in itertools.chain(range(first, self._n_ids), range(first)):
            if self._fits(kind, at):
                with self._truth.lock(f"d{at}"):
                    if self._fits(kind, at):  # still, now that nobody else can write it
                        self._do(kind, at, number)
                        break
        else:  # as yet there is none
            kind = "upsert"
            with self._truth.lock(f"d{first}"):
                self._do(kind, first, number)
        with self._turn:
            self.by_kind[kind] += 1

    def _fits(self, kind: str, at: int) -> bool:
        if kind == "upsert":
            return True
        return f"d{at}" in (
            self._truth.deleted if kind == "insert again" else self._truth.documents
        )

    def _do(self, kind: str, at: int, number: int) -> None:
        """Under the document's lock."""
        corpus, truth, doc_id = self._data.corpus, self._truth, f"d{at}"
        what = f"{kind} in operation {number} ({self._phase})"
        if kind == "upsert":
            truth.put(corpus, document(at, version=number, group=number % 7), what)
        elif kind == "metadata":
            known = truth.documents[doc_id]
            changed = Document.of(
                doc_id=doc_id,
                text=known.text,
                title=known.title,
                metadata={"number": at, "group": f"g{number % 7}", "changed": number},
            )
            truth.put(corpus, changed, what)
        elif kind == "delete":
            truth.delete(corpus, doc_id, what)
        else:
            truth.put(corpus, truth.deleted[doc_id], what)
