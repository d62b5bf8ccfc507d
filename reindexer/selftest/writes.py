"""`selftest writes`: four writers, while everything else happens, against a model of the truth."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
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
# What is done to a document, and how often.
UPSERT, METADATA, DELETE = 0.5, 0.2, 0.2  # the rest: delete, and insert again as it was


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

    def tell(before: int, done: int, what: str) -> None:
        on_progress(before + done, operations * seeds, what)

    for number in range(seed, seed + seeds):
        with sandbox(own) as settings, WordDirectory(settings) as data:
            before = (number - seed) * operations
            world = _World(data, operations, number, partial(tell, before))
            found = world.run()
        faults += [f"seed {number}: {fault}" for fault in found]
        rates.append(world.operations_per_s)
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
        return self._failures + self._truth.faults(self._data)

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
        corpus, truth = self._data.corpus, self._truth
        at, kind = rng.randrange(self._n_ids), rng.random()
        doc_id = f"d{at}"
        with truth.lock(doc_id):
            known = truth.documents.get(doc_id)
            if known is None or kind < UPSERT:
                what = "insert" if known is None else "edit"
                fresh = document(at, version=number, group=number % 7)
                truth.put(corpus, fresh, f"{what} in operation {number} ({self._phase})")
            elif kind < UPSERT + METADATA:
                changed = Document.of(
                    doc_id=doc_id,
                    text=known.text,
                    title=known.title,
                    metadata={"number": at, "group": f"g{number % 7}", "changed": number},
                )
                truth.put(corpus, changed, f"metadata in operation {number} ({self._phase})")
            elif kind < UPSERT + METADATA + DELETE:
                truth.delete(corpus, doc_id, f"delete in operation {number} ({self._phase})")
            else:
                truth.delete(corpus, doc_id, f"delete in operation {number} ({self._phase})")
                truth.put(corpus, known, f"insert again in operation {number} ({self._phase})")
