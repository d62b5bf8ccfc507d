"""The screen of `status --watch`. Readable at 80 columns; wider terminals get a longer bar."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from reindexer.status_screen import jobs_text, stages_text, state_text
from reindexer.terminal import count, duration, pace, rate

if TYPE_CHECKING:
    from reindexer.watch import History, Status

BLOCKS = "▁▂▃▄▅▆▇█"
PLAIN_BLOCKS = "_.-~=+*#"  # for a terminal without Unicode
LABEL_COLUMNS = 9
MAX_COLUMNS = 120
STATE_STYLES = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "stopped": "red",
    "cancelled": "yellow",
    "paused": "yellow",
}


def terminal() -> Console:
    """stdout as rich sees it; NO_COLOR and TERM are respected."""
    return Console(file=sys.stdout, highlight=False, soft_wrap=False)


def draw(
    found: Status, history: History, source: str, away: str | None, console: Console
) -> RenderableType:
    """The whole screen. away: why there are no newer figures."""
    columns = min(console.width, MAX_COLUMNS)
    corpus = found["corpus"]
    grid = _grid()
    grid.add_row("corpus", f"{count(corpus['documents'], 'document')}, seq {corpus['head_seq']:,}")
    grid.add_row("live", _pointer(found["live"]))
    grid.add_row("standby", _pointer(found["standby"]))
    parts: list[RenderableType] = [_head(source, columns), grid]
    for build in _shown(found["builds"]):
        parts += [Text(), _build(build, history, console, columns)]
    parts += [Text(), _fleet(found, history, console, columns)]
    if found["events"]:
        parts += [Text(), _events(found["events"])]
    parts += [Text(), _foot(away)]
    return Group(*parts)


def _head(source: str, columns: int) -> RenderableType:
    left, right = f"reindexer, from {source}", time.strftime("%H:%M:%S")
    room = columns - len(right) - 1
    return Text(f"{left[:room]:<{room}} {right}", style="bold", no_wrap=True, overflow="crop")


def _foot(away: str | None) -> RenderableType:
    if away is None:
        return Text("Ctrl-C ends this.", style="dim")
    return Text(f"{away}. These figures are old; watching goes on.", style="bold red")


def _grid() -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=LABEL_COLUMNS, style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _pointer(pointer: Status | None) -> Text:
    if pointer is None:
        return Text("none", style="dim")
    text = Text()
    text.append(pointer["generation"], style="bold")
    text.append(f"  {pointer['model']}, {count(pointer['documents'], 'document')}, ")
    lag = pointer["lag_docs"]
    if lag:
        text.append(
            f"{count(lag, 'change')} behind, the oldest {duration(pointer['lag_s'])}",
            style="yellow",
        )
    else:
        text.append("in step", style="green")
    return text


def _shown(builds: Sequence[Status]) -> Iterable[Status]:
    """The newest, and whatever else runs or waits to go on."""
    return [
        build
        for number, build in enumerate(builds)
        if number == 0 or build["state"] in ("running", "queued", "paused")
    ]


def _build(build: Status, history: History, console: Console, columns: int) -> Table:
    grid = _grid()
    is_running = build["state"] == "running"
    title = Text()
    title.append(f"{build['generation']}", style="bold")
    title.append(f"  {build['model']}, ")
    title.append(state_text(build), style=STATE_STYLES.get(build["state"], ""))
    if build["wanted"]:
        title.append(f", asked to {build['wanted']}", style="yellow")
    grid.add_row(f"build {build['build_id']}", title)
    grid.add_row("", _bar(build, console, columns))
    if is_running and build["pace"] is not None and build["pace_reason"]:
        text = f"{100 * build['pace']:.0f} % of full speed: {build['pace_reason']}"
        grid.add_row("pace", Text(text, style="yellow"))
    if stages := stages_text(build):
        grid.add_row("time in", stages)
    if build["reason"] and build["state"] != "done":
        grid.add_row(
            "reason", Text(str(build["reason"]), style=STATE_STYLES.get(build["state"], ""))
        )
    if is_running and (throughput := history.builds.get(build["build_id"])) is not None:
        values = throughput.rates(history.seen_at, _plot_columns(columns))
        if values:
            grid.add_row("docs/s", _plot(values, console))
    return grid


def _bar(build: Status, console: Console, columns: int) -> Table:
    done, total = build["docs_done"], max(1, build["docs_total"])
    figures = [f"{100 * min(done, total) / total:3.0f} %", f"{done:,}/{build['docs_total']:,}"]
    if build["docs_per_s"]:
        figures.append(pace(build["docs_per_s"]))
    if build["eta_s"] is not None:
        figures.append(f"{duration(build['eta_s'])} left")
    text = "  ".join(figures)
    width = max(10, min(40, columns - LABEL_COLUMNS - len(text) - 4))
    line = Table.grid(padding=(0, 2, 0, 0))
    bar: RenderableType = ProgressBar(total=total, completed=min(done, total), width=width)
    if console.options.ascii_only:
        filled = width * min(done, total) // total
        bar = "#" * filled + "-" * (width - filled)
    line.add_row(bar, Text(text, no_wrap=True))
    return line


def _fleet(found: Status, history: History, console: Console, columns: int) -> RenderableType:
    grid = _grid()
    if found["searchers"]:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
        table.header_style = "dim"
        for name in ("process", "answers from", "prepared"):
            table.add_column(name, no_wrap=True)
        for name in ("queries/s", "p50 ms", "p99 ms"):
            table.add_column(name, justify="right", no_wrap=True)
        problems = []
        for searcher in found["searchers"]:
            table.add_row(*_searcher(searcher))
            if searcher["problem"]:
                problems.append(Text(str(searcher["problem"]), style="red"))
        grid.add_row("serving", Group(table, *problems))
    else:
        grid.add_row("serving", Text("nobody", style="dim"))
    asked = [value for _, value in history.queries]
    if any(asked):
        grid.add_row("queries/s", _plot(_thinned(asked, _plot_columns(columns)), console))
    if waiting := jobs_text(found["jobs"]):
        grid.add_row("jobs", waiting)
    return grid


def _searcher(searcher: Status) -> tuple[str, ...]:
    host, _, rest = str(searcher["name"]).partition(":")
    load = ["-"] * 3
    if searcher["p99_ms"] is not None:
        load = [
            rate(searcher["queries_per_s"]),
            f"{searcher['p50_ms']:.1f}",
            f"{searcher['p99_ms']:.1f}",
        ]
    return (
        f"{host.partition('/')[0][:16]}:{rest.partition(':')[0]}",
        searcher["generation"] or "-",
        searcher["prepared"] or "-",
        *load,
    )


def _events(events: Sequence[Status]) -> Table:
    grid = _grid()
    for number, event in enumerate(events):
        text = Text(no_wrap=True, overflow="ellipsis")
        text.append(f"{_local_time(event['at'])}  ", style="dim")
        text.append(f"{str(event['kind']).replace('_', ' ')} {event['generation'] or ''}")
        grid.add_row("" if number else "events", text)
    return grid


def _local_time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%H:%M:%S")


# -- plots -----------------------------------------------------------------------------------------


def _plot_columns(columns: int) -> int:
    return max(10, min(60, columns - LABEL_COLUMNS - 28))


def _plot(values: Sequence[float], console: Console) -> Text:
    """Values as blocks of eight heights, with the last and the highest in figures."""
    blocks = PLAIN_BLOCKS if console.options.ascii_only else BLOCKS
    highest = max(values) or 1.0
    text = Text(no_wrap=True, overflow="crop")
    text.append(sparkline(values, highest, blocks), style="cyan")
    text.append(f"  now {rate(values[-1])}, most {rate(max(values))}", style="dim")
    return text


def sparkline(values: Iterable[float], highest: float, blocks: str = BLOCKS) -> str:
    """One block a value; nothing at all is the lowest block."""
    top = len(blocks) - 1
    return "".join(blocks[min(top, max(0, round(value / highest * top)))] for value in values)


def _thinned(values: Sequence[float], columns: int) -> list[Any]:
    """At most so many values: the mean of each of so many equal parts."""
    if len(values) <= columns:
        return list(values)
    edges = [len(values) * column // columns for column in range(columns + 1)]
    return [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(edges)]
