"""Progress of whatever takes longer than a second: a bar on a terminal, a line every few seconds
elsewhere. Always on stderr.

A line can be read by people and by grep: `build docs@2: 12288/57638 21.3%; 812.0/s; elapsed 15.1 s;
eta 55.8 s; encoding`.
"""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from reindexer.terminal import duration, pace

if TYPE_CHECKING:
    import rich.progress

LINE_S = 5.0  # between two lines when stderr is not a terminal
APPEAR_S = 0.7  # what is done by then never shows a bar
REDRAW_S = 0.1
RATE_WINDOW_S = 10.0


class Progress:
    """One piece of work. `update` says how far it is; without a total only the time runs."""

    def __init__(self, what: str, *, total: int | None = None, quiet: bool = False) -> None:
        self.what = what
        self.done = 0
        self.total = total
        self.state = ""
        self.rate: float | None = None
        self._given_rate: float | None = None
        self._seen: list[tuple[float, int]] = []
        self._quiet = quiet
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._ticker: threading.Thread | None = None

    def update(
        self,
        done: int | None = None,
        *,
        total: int | None = None,
        rate: float | None = None,
        state: str | None = None,
    ) -> None:
        """done, total: counted in what the work is counted in; rate: so many a second, measured
        from the updates unless given."""
        with self._lock:
            if total is not None:
                self.total = total
            if state is not None:
                self.state = state
            if done is not None:
                self.done = done
                self._measure()
            self._given_rate = rate if rate is not None else self._given_rate
            self.rate = self._given_rate if self._given_rate is not None else self.rate

    def begin(self, what: str) -> None:
        """Go on to another piece of work, of unknown size."""
        with self._lock:
            self.what, self.done, self.total, self.state = what, 0, None, ""
            self.rate = self._given_rate = None
            self._seen.clear()
            self._began = time.monotonic()

    def line(self) -> str:
        """Where it stands, on one line."""
        with self._lock:
            parts = []
            if self.total:
                parts.append(f"{self.done}/{self.total} {100 * self.done / self.total:.1f}%")
            elif self.done:
                parts.append(str(self.done))
            if self.rate:
                parts.append(pace(self.rate, f"{self.rate:.1f}"))
            parts.append(f"elapsed {duration(time.monotonic() - self._began)}")
            if (eta_s := self.eta_s()) is not None:
                parts.append(f"eta {duration(eta_s)}")
            if self.state:
                parts.append(self.state)
            return f"{self.what}: {'; '.join(parts)}"

    def eta_s(self) -> float | None:
        """Seconds to go; None while that cannot be told."""
        if not self.total or not self.rate or self.done >= self.total:
            return None
        return (self.total - self.done) / self.rate

    def _measure(self) -> None:
        now = time.monotonic()
        if not self._seen or now - self._seen[-1][0] >= 0.2:
            self._seen.append((now, self.done))
        while len(self._seen) > 2 and now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.pop(0)
        first_at, first_done = self._seen[0]
        if now - first_at >= 1.0:
            self.rate = (self.done - first_done) / (now - first_at)

    # -- showing it ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if not self._quiet:
            self._ticker = threading.Thread(target=self._show, name="progress", daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._ticker is not None:
            self._ticker.join()

    def _show(self) -> None:
        if sys.stderr.isatty():
            if self._stop.wait(APPEAR_S):
                return
            bar = _Bar()
            bar.draw(self)
            with bar:
                while not self._stop.wait(REDRAW_S):
                    bar.draw(self)
        else:
            while not self._stop.wait(LINE_S):
                click.echo(self.line(), err=True)


class _Bar:
    """The bar of a terminal; gone when the work is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

        self._progress: rich.progress.Progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # so that what is said stands above the bar
        )
        self._task = self._progress.add_task("", total=None, figures="")

    def draw(self, progress: Progress) -> None:
        figures: list[str] = []
        if progress.total:
            figures.append(f"{100 * progress.done / progress.total:.0f} %")
            figures.append(f"{progress.done:,}/{progress.total:,}")
        elif progress.done:
            figures.append(f"{progress.done:,}")
        if progress.rate:
            figures.append(pace(progress.rate))
        if (eta_s := progress.eta_s()) is not None:
            figures.append(f"{duration(eta_s)} left")
        if progress.state:
            figures.append(progress.state)
        self._progress.update(
            self._task,
            description=progress.what,
            total=progress.total,
            completed=progress.done,
            figures="  ".join(figures),
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._progress.stop()
