"""The promises at full size: kills, writes, switches, gate, soak, and the first write after a kill.

    python benchmarks/selftest.py [kill writes switch gate soak gate-large restart] [--seed 0]
    python benchmarks/selftest.py --small        # minutes instead of hours: does it still run?

Every tool is `reindexer selftest` itself; its seed and command are printed beside the figures.
`restart` measures the first new write after a kill in a small and in a large corpus, which must be
alike. Everything is embedded, in the temporary folder: TMPDIR says on which disk.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.report import Report, read_arguments
from reindexer.selftest.child import Child, KillAt, prepare_children
from reindexer.selftest.gate import prove_gate
from reindexer.selftest.kill import prove_kills
from reindexer.selftest.proof import Proof
from reindexer.selftest.sandbox import sandbox
from reindexer.selftest.soak import prove_soak
from reindexer.selftest.switch import prove_switch
from reindexer.selftest.texts import documents
from reindexer.selftest.word_directory import WordDirectory
from reindexer.selftest.writes import prove_writes

Prove = Callable[..., Proof]

TOOLS: Mapping[str, tuple[Prove, Mapping[str, Any], Mapping[str, Any]]] = {
    # tool: what it runs, full size, small size
    "kill": (prove_kills, {"kills": 300}, {"kills": 20}),
    "writes": (prove_writes, {"operations": 50_000, "seeds": 20}, {"operations": 1_000}),
    "switch": (
        prove_switch,
        {"queries": 200_000, "switches": 100},
        {"queries": 2_000, "switches": 4},
    ),
    "gate": (prove_gate, {"documents": 2_000, "healthy": 100}, {"healthy": 2}),
    "soak": (prove_soak, {"minutes": 60.0}, {"minutes": 1.0}),
}
OTHERS = ("gate-large", "restart")
LARGE, SMALL_CORPUS = 1_000_000, 10_000  # documents, for `restart`
PAGE = 5_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", nargs="*", metavar="TOOL", help="all of them unless named")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true")
    arguments = read_arguments(parser)
    wanted = arguments.tools or [*TOOLS, *OTHERS]
    if unknown := set(wanted) - {*TOOLS, *OTHERS}:
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    prepare_children()
    report = Report("selftest" + (", small" if arguments.small else ""), path=arguments.report)
    for name in wanted:
        if name in TOOLS:
            prove, full, small = TOOLS[name]
            sizes = small if arguments.small else full
            _show(report, prove(seed=arguments.seed, on_progress=_tell(name), **sizes))
        elif name == "gate-large":
            n = 2_000 if arguments.small else 100_000
            proof = prove_gate(documents=n, queries=300, healthy=1, seed=arguments.seed, faults=[])
            seconds = proof.figures["slowest_verification_s"]
            report.figure(f"one gate, {n:,} documents, 300 queries", seconds, "s", at_most=60)
        else:
            _restart(report, 20_000 if arguments.small else LARGE)
    return report.exit_code()


def _tell(name: str) -> Callable[[int, int, str], None]:
    told = time.monotonic()

    def tell(done: int, total: int, what: str) -> None:
        nonlocal told
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"  {name}: {done:,}/{total:,} {what}", file=sys.stderr, flush=True)

    return tell


def _show(report: Report, proof: Proof) -> None:
    """A line a promise: 0 broken is what each promises."""
    print(f"  {proof.repeat}", flush=True)
    for promise in proof.promises:
        report.figure(
            f"{proof.tool}: {promise.name}",
            0 if promise.kept else 1,
            "broken",
            digits=0,
            exactly=0,
            note=f"{promise.found}; {'; '.join(promise.detail)}".rstrip("; "),
        )
    for name, value in proof.figures.items():
        if isinstance(value, int | float):
            report.figure(f"  {name}", float(value), digits=3 if value % 1 else 0)
        else:
            print(f"  {name}: {value}", flush=True)


def _restart(report: Report, large: int) -> None:
    """Killed in the middle of a build, started again: seconds to the first new write."""
    for n in (SMALL_CORPUS, large):
        with sandbox() as settings:
            with WordDirectory(settings) as data:
                for start in range(0, n, PAGE):
                    data.corpus.put(list(documents(range(start, start + PAGE))))
            diary = settings.data_dir / "diary"
            middle = KillAt(point="checkpoint.commit", nth=n // 64)
            Child(settings, "build", "word@1", diary=diary, kill_at=middle).wait()
            again = Child(
                settings, "build", "word@1", diary=diary, kill_at=KillAt(
                    point="checkpoint.commit", nth=3)
            )  # fmt: skip
            again.wait()
            first = again.read_diary().first_write_s
            assert first is not None, "the restarted build wrote nothing"
        report.figure(f"restart: first new write, {n:,} documents", first, "s", at_most=3)


if __name__ == "__main__":
    sys.exit(main())
