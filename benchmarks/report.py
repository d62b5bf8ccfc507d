"""What a benchmark prints: hardware, figures beside their targets, and whether they were met."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

BLOCK = 100  # queries before it is the other's turn

Ask = Callable[[str], object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One figure of a report."""

    name: str
    figure: str
    value: float
    bound: float | None  # the first of the targets
    target: str  # "" for a figure that promises nothing
    met: bool
    note: str

    @property
    def verdict(self) -> str:
        return "" if not self.target else "met" if self.met else "MISSED"


@dataclass(slots=True)
class Report:
    """Figures in the order they came, printed as they come."""

    title: str
    hardware: Sequence[str] = ()  # facts beyond the machine's own: threads, number format
    path: Path | None = None  # where a page of it is written, with its Markdown beside it
    lines: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(self.title)
        print(self.ran_on, flush=True)

    @property
    def ran_on(self) -> str:
        """The machine, and the further facts."""
        return ", ".join([machine(), *self.hardware])

    def figure(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        digits: int = 2,
        at_least: float | None = None,
        at_most: float | None = None,
        exactly: float | None = None,
        note: str = "",
    ) -> None:
        """One line of the table; `note` names the baseline or how the figure spread."""
        targets = [
            (sign, bound, met)
            for sign, bound, met in (
                ("≥", at_least, at_least is None or value >= at_least),
                ("≤", at_most, at_most is None or value <= at_most),
                ("=", exactly, exactly is None or value == exactly),
            )
            if bound is not None
        ]
        line = Line(
            name=name,
            figure=f"{value:,.{digits}f} {unit}".rstrip(),
            value=value,
            bound=targets[0][1] if targets else None,
            target=" ".join(f"{sign} {bound:,g}" for sign, bound, _ in targets),
            met=all(met for _, _, met in targets),
            note=note,
        )
        self.lines.append(line)
        print(
            f"  {line.name:<52}{line.figure:>18}  {line.target:<10} {line.verdict:<7}{line.note}",
            flush=True,
        )

    def exit_code(self) -> int:
        """1 when a target was missed. The page is written, if one was asked for."""
        if self.path is not None:
            from benchmarks.report_page import write_page

            page, markdown = write_page(self, self.path)
            print(f"the page is {page}, in Markdown {markdown}")
        missed = [line.name for line in self.lines if not line.met]
        if missed:
            print(f"missed: {'; '.join(missed)}")
        return 1 if missed else 0


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """What the script was given, with --report FILE, which is for the path of its report."""
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write a page with a plot to FILE, and the same as Markdown beside it",
    )
    return parser.parse_args()


def machine() -> str:
    """Cores this process may use, processor, system and Python."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores, {_processor()}, {platform.system()}, Python {platform.python_version()}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def interleaved(works: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each piece of work in each round, A B A B: a machine that slows down slows down
    all of them."""
    taken: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for times, work in zip(taken, works, strict=True):
            times.append(seconds(work))
    return taken


def queries_by_turns(asks: Sequence[Ask], texts: Sequence[str]) -> list[list[float]]:
    """Milliseconds of each query, block by block in turn; the first block is asked twice."""
    taken_ms: list[list[float]] = [[] for _ in asks]
    for ask in asks:
        for text in texts[:BLOCK]:
            ask(text)
    for start in range(0, len(texts), BLOCK):
        for ask, times in zip(asks, taken_ms, strict=True):
            times += [ask_ms(ask, text) for text in texts[start : start + BLOCK]]
    return taken_ms


def ask_ms(ask: Ask, text: str) -> float:
    return seconds(lambda: ask(text)) * 1e3


def ratio(ours: Sequence[float], baseline: Sequence[float]) -> float:
    """Median of ours over the median of the baseline."""
    return statistics.median(ours) / statistics.median(baseline)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1) of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
