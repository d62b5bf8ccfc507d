"""`selftest kill`: SIGKILL between any two writes, go on, and end up where nobody was killed.

The same verbs run in two sandboxes, one verb after another. In one of them nothing happens to
them, and each notes what it passes. In the other they are killed at these points, or at random
moments, and done again until they come to their end. After every round both must hold the same.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from reindexer.data_directory import DataDirectory
from reindexer.selftest import verbs
from reindexer.selftest.child import (
    Child,
    Diary,
    KillAt,
    Sabotage,
    prepare_children,
    was_killed,
)
from reindexer.selftest.digest import differences, take_digest
from reindexer.selftest.proof import Promise, Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.sandbox import WINDOW, sandbox
from reindexer.selftest.static_model import write_pairs, write_static_model
from reindexer.selftest.texts import document
from reindexer.settings import Settings
from reindexer.sync import SYNC_WINDOW
from search.errors import LexicalDamaged, SearchError
from search.lexical_files import open_files
from training.errors import TrainingError
from training.kill_points import KillPoint

N_DOCUMENTS = 300
N_CHANGED = 60  # in every round
KILLS_PER_STEP = 4
ALONE_FROM_ROUND = 2
RANDOM_SHARE = 0.25  # of the kills come at a moment without a name
MAX_FIRST_WRITE_S = 3.0
# Rounds in which a model is trained: an import of torch, some seconds, for every attempt.
TRAINS_FIRST, TRAINS_EVERY = 8, 16
_TRAIN = "train"


class VerbFailed(Exception):
    """A verb did not come to its end although nobody killed it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    verb: str
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {Path(self.argument).name}".strip()


@dataclass(slots=True)
class _Tally:
    kills: Counter[str] = field(default_factory=Counter)  # by point; "random" is one
    faults: list[str] = field(default_factory=list)
    encoded_again: list[str] = field(default_factory=list)  # where it was more than a window
    most_encoded_again: int = 0  # passages a kill
    encoding_steps: int = 0  # that were killed
    first_writes_s: list[float] = field(default_factory=list)  # of a restart
    rounds: int = 0

    @property
    def total(self) -> int:
        return self.kills.total()


def prove_kills(
    *,
    kills: int = 60,
    seed: int = 0,
    own: Settings | None = None,
    sabotage: Sabotage | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """So many kills. own: as in `sandbox`. sabotage: a fault to be found, for the test of this."""
    prepare_children(own)
    watch, tally = Stopwatch(), _Tally()
    rng = random.Random(seed)
    with sandbox(own) as calm, sandbox(own) as killed:
        matrix = _Matrix(calm, killed, kills, rng, tally, sabotage, on_progress)
        with contextlib.suppress(_Stop):
            while tally.total < kills:
                before = tally.total
                matrix.round(tally.rounds)
                tally.rounds += 1
                if tally.total == before:
                    break  # nobody can be hit any more
    slowest_s = max(tally.first_writes_s, default=None)
    return Proof(
        tool="kill",
        repeat=f"reindexer selftest kill --kills {kills} --seed {seed}",
        seed=seed,
        promises=(
            nothing_wrong(
                "nothing lost, nothing twice",
                tally.faults,
                looked_at=f"{tally.total} kills at {len(tally.kills)} kinds of moments, "
                f"{tally.rounds} rounds compared",
                expected="the same rows, vectors, postings and models as without a kill",
                n=tally.total,
            ),
            nothing_wrong(
                "no more than a window encoded again",
                tally.encoded_again,
                looked_at=f"at the most {tally.most_encoded_again} passages a kill",
                expected="one window a kill at the most",
                n=tally.encoding_steps,
            ),
            at_most(
                "first new write after the restart",
                slowest_s,
                MAX_FIRST_WRITE_S,
                "s",
                about=f", {len(tally.first_writes_s)} restarts",
            ),
            Promise(
                name="every kill hit",
                kept=tally.total >= kills or bool(tally.faults),
                found=f"{tally.total} of {kills}",
                expected="a process that was alive each time",
            ),
        ),
        figures={
            "kills": tally.total,
            "rounds": tally.rounds,
            "by_point": dict(sorted(tally.kills.items())),
            "not_hit": sorted(set(get_args(KillPoint)) - set(tally.kills)),
            "most_encoded_again": tally.most_encoded_again,
            "first_write_s": {
                "median": round(sorted(tally.first_writes_s)[len(tally.first_writes_s) // 2], 3)
                if tally.first_writes_s
                else None,
                "slowest": round(slowest_s, 3) if slowest_s is not None else None,
            },
        },
        seconds=watch.seconds,
    )


class _Stop(Exception):
    """A fault was found; what comes after it says nothing."""


class _Matrix:
    """Both sandboxes, side by side."""

    def __init__(
        self,
        calm: Settings,
        killed: Settings,
        kills: int,
        rng: random.Random,
        tally: _Tally,
        sabotage: Sabotage | None,
        on_progress: Callable[[int, int, str], None],
    ) -> None:
        self._calm = calm
        self._killed = killed
        self._wanted = kills
        self._rng = rng
        self._tally = tally
        self._sabotage = sabotage
        self._on_progress = on_progress
        self._versions = dict.fromkeys(range(N_DOCUMENTS), 0)  # of the documents that there are
        self._next_number = N_DOCUMENTS

    def round(self, number: int) -> None:
        """Everything once; raises _Stop when the two do not hold the same afterwards."""
        for step in self._steps(number):
            diary, seconds = self._run_calmly(step)
            self._run_with_kills(step, diary, seconds)
        with DataDirectory(self._calm) as data:
            expected = take_digest(data)
        with DataDirectory(self._killed) as data:
            try:
                faults = differences(take_digest(data), expected)
                for version in data.registry.list():
                    version.verify()
            except (SearchError, TrainingError) as error:
                faults = [f"it cannot be read: {error}"]
        self._tally.faults += [f"round {number}: {fault}" for fault in faults]
        if self._tally.faults:
            raise _Stop

    def _steps(self, number: int) -> Iterator[_Step]:
        if number:
            self._change()
        yield _Step(verb="ingest", argument=str(self._write_source(number)))
        yield _Step(verb="sync")
        if number % 2 == 0 or number < 2:
            model = write_static_model(self._calm.data_dir / f"static-{number}", number)
            yield _Step(verb="register", argument=str(model))
            if number % TRAINS_EVERY == TRAINS_FIRST and verbs.can_train():
                pairs = write_pairs(self._calm.data_dir / f"pairs-{number}.jsonl", number)
                yield _Step(verb=_TRAIN, argument=str(pairs))
            yield _Step(verb="build", argument=f"word@{number}")
            with DataDirectory(self._calm) as data:
                ready = data.catalog.all({"ready"})[-1].name
            yield _Step(verb="go live", argument=ready)
        else:
            with DataDirectory(self._calm) as data:
                standby = data.catalog.standby()
            assert standby is not None
            yield _Step(verb="go live", argument=standby.name)
        yield _Step(verb="sync")
        yield _Step(verb="prune")

    def _change(self) -> None:
        """Some documents are edited, some deleted, some new."""
        numbers = sorted(self._versions)
        for number in self._rng.sample(numbers, N_CHANGED):
            if self._rng.random() < 0.25:
                del self._versions[number]
                self._versions[self._next_number] = 0
                self._next_number += 1
            else:
                self._versions[number] += 1

    def _write_source(self, number: int) -> Path:
        path = self._calm.data_dir / f"documents-{number}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for at, version in self._versions.items():
                item = document(at, version)
                row = {
                    "_id": item.doc_id,
                    "title": item.title,
                    "text": item.text,
                    "metadata": dict(item.metadata),
                }
                file.write(json.dumps(row) + "\n")
        return path

    def _run_calmly(self, step: _Step) -> tuple[Diary, float]:
        watch = Stopwatch()
        child = self._child(self._calm, step, sabotage=None)
        if code := child.wait():
            raise VerbFailed(
                f"{step} ended with exit code {code} although nobody killed it: "
                f"{child.read_diary().failure}"
            )
        return child.read_diary(), watch.seconds

    def _run_with_kills(self, step: _Step, calm: Diary, seconds: float) -> None:
        kills, encoded, restarted = 0, 0, False
        moments = self._moments(calm, seconds)
        while True:
            moment = next(moments, None)
            kill_at = moment if isinstance(moment, KillAt) else None
            child = self._child(self._killed, step, kill_at=kill_at, sabotage=self._sabotage)
            code = child.kill_after(moment) if isinstance(moment, float) else child.wait()
            diary = child.read_diary()
            encoded += diary.encoded
            if restarted and diary.first_write_s is not None and step.verb != _TRAIN:
                self._tally.first_writes_s.append(diary.first_write_s)
            if not was_killed(code):
                break
            kills, restarted = kills + 1, True
            self._tally.kills[kill_at.point if kill_at is not None else "random"] += 1
            self._check_lexical_files(f"{step}, killed at {kill_at or 'a random moment'}")
            self._on_progress(self._tally.total, self._wanted, str(step))
        if code:
            self._tally.faults.append(
                f"{step} could not go on after {kills} kills: it ended with exit code {code}: "
                f"{diary.failure}"
            )
            raise _Stop
        if kills and calm.encoded:
            self._count_encoded(step, encoded - calm.encoded, kills)

    def _check_lexical_files(self, when: str) -> None:
        """What a kill left, before it is opened: a damaged index is made again without a word."""
        for folder in (self._killed.data_dir / "lexical").glob("*"):
            try:
                open_files(folder)
            except LexicalDamaged as error:
                self._tally.faults.append(f"{when}: {error}")
                raise _Stop from error

    def _moments(self, calm: Diary, seconds: float) -> Iterator[KillAt | float]:
        """When to kill, attempt after attempt: a point, or so many seconds after the start.

        The points that were hit least, in the order in which they come by: what was killed at an
        early one still has the later ones before it, mostly. Where it has not, a point would never
        be hit, and is aimed at alone after some rounds.
        """
        n = min(KILLS_PER_STEP, self._wanted - self._tally.total)
        in_order = list(calm.reached)
        rarest = sorted(in_order, key=lambda point: self._tally.kills[point])[:n]
        never = [point for point in rarest if not self._tally.kills[point]]
        if never and self._tally.rounds >= ALONE_FROM_ROUND:
            rarest = [self._rng.choice(never)]
        for point in [point for point in in_order if point in rarest]:
            if self._tally.total >= self._wanted:
                return
            if self._rng.random() < RANDOM_SHARE:
                yield self._rng.uniform(0.0, seconds)
            else:
                yield KillAt(point=point, nth=self._rng.randint(1, calm.reached[point]))

    def _count_encoded(self, step: _Step, again: int, kills: int) -> None:
        self._tally.encoding_steps += 1
        self._tally.most_encoded_again = max(self._tally.most_encoded_again, -(-again // kills))
        window = SYNC_WINDOW if step.verb in ("sync", "go live") else WINDOW
        if again > window * kills:
            self._tally.encoded_again.append(
                f"{step}: {again} passages encoded again after {kills} kills, a window is {window}"
            )

    def _child(
        self,
        settings: Settings,
        step: _Step,
        *,
        kill_at: KillAt | None = None,
        sabotage: Sabotage | None,
    ) -> Child:
        return Child(
            settings,
            step.verb,
            step.argument,
            diary=settings.data_dir / "diary",
            kill_at=kill_at,
            sabotage=sabotage,
        )
