"""`selftest gate`: generations with one planted fault each, and healthy ones, before the gate.

Every fault must be refused for the right reason, and nothing else may be refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reindexer.selftest.gate_faults import FAULTS, Fault
from reindexer.selftest.gate_world import World
from reindexer.selftest.proof import Promise, Proof, Stopwatch, at_most, nothing_wrong
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.word_directory import WordDirectory
from reindexer.settings import Settings

MAX_FALSE_REFUSALS = 0.01  # of the healthy
MAX_SECONDS = 60.0


def prove_gate(
    *,
    documents: int = 2_000,
    queries: int = 300,
    healthy: int = 20,
    seed: int = 0,
    own: Settings | None = None,
    faults: Sequence[Fault] | None = None,
    on_progress: Callable[[int, int, str], None] = lambda _done, _total, _what: None,
) -> Proof:
    """Every fault once, and so many healthy generations. own: as in `sandbox`.

    documents: at least 1,000, so that a thousandth of them is one. queries: judged ones; with
    fewer than 300, chance alone may look like a loss. faults: instead of all.
    """
    watch = Stopwatch()
    faults = FAULTS if faults is None else faults
    total = len(faults) + healthy
    results: dict[str, str] = {}
    wrong: list[str] = []
    refused: list[str] = []
    with (
        sandbox(own) as settings,
        WordDirectory(settings) as data,
    ):
        world = World(data, max(1_000, documents), queries, seed)
        for number, fault in enumerate(faults):
            on_progress(number, total, fault.name)
            reasons = {check.name: check for check in fault.refused(world) if not check.passed}
            results[fault.name] = ", ".join(sorted(reasons)) or "not refused"
            if fault.check not in reasons:
                wrong.append(f"{fault.name}: {results[fault.name]}, expected {fault.check}")
        for number in range(healthy):
            on_progress(len(faults) + number, total, "healthy generations")
            failed = [check for check in world.healthy(number) if not check.passed]
            if failed:
                refused.append("; ".join(f"{check.name}: found {check.found}" for check in failed))
    promises = []  # of what was asked for: nothing is promised of what nobody looked at
    if faults:
        promises.append(
            Promise(
                name="every fault is refused for its reason",
                kept=not wrong,
                found=f"{len(faults) - len(wrong)} of {len(faults)}",
                expected=f"{len(faults)} of {len(faults)}",
                detail=tuple(wrong),
            )
        )
    if healthy:
        promises.append(
            nothing_wrong(
                "what is healthy passes",
                refused if len(refused) > MAX_FALSE_REFUSALS * healthy else [],
                looked_at=f"{len(refused)} of {healthy} refused",
                expected="at most 1 in 100 refused",
            )
        )
        promises.append(
            at_most(
                "one verification",
                max(world.seconds, default=None),
                MAX_SECONDS,
                "s",
                about=f" for {world.n_documents:,} documents and {queries} queries",
            )
        )
    return Proof(
        tool="gate",
        repeat=f"reindexer selftest gate --documents {documents} --queries {queries} "
        f"--healthy {healthy} --seed {seed}",
        seed=seed,
        promises=tuple(promises),
        figures={
            "faults": results,
            "healthy": healthy,
            "refused_healthy": len(refused),
            "documents": world.n_documents,
            "queries": queries,
            "slowest_verification_s": round(max(world.seconds), 2) if world.seconds else None,
        },
        seconds=watch.seconds,
    )
