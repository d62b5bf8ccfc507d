"""`status --watch`: the same figures again and again, from the database or over the API."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from reindexer.errors import ReindexerError
from reindexer.settings import Settings
from reindexer.status_screen import line
from search.errors import SearchError
from training.outgoing import check_address

INTERVAL_S = 1.0
LINE_INTERVAL_S = 5.0  # when nobody watches the terminal: what happens is told at once all the same
LOOK_S = 1.0
BUSY_SHARE = 0.1  # of the time at most is spent reading, however large the corpus
PLOT_S = 300.0  # of the past that is plotted
CONNECT_S = 5.0

Status = Mapping[str, Any]


class StatusUnreachable(ReindexerError):
    """The service that is asked for its status gives no usable answer."""


class StatusSource(Protocol):
    """Where the figures come from."""

    @property
    def name(self) -> str: ...

    def read(self) -> Status:
        """As `status --json` prints it. Raises SearchError or ReindexerError."""
        ...


class DatabaseStatus:
    """Straight from the database; no service is needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.name = "the database"

    def read(self) -> Status:
        from reindexer.status import read_status

        return read_status(self._settings)


class ServiceStatus:
    """Over the API of a service, near or far."""

    def __init__(self, url: str, key: str | None) -> None:
        import httpx

        check_address(url)
        self.name = f"the service at {url}"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=CONNECT_S)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise StatusUnreachable(f"{url!r} is no address of a service: {error}") from error

    def read(self) -> Status:
        import httpx

        try:
            response = self._http.get("/status")
        except httpx.HTTPError as error:
            raise StatusUnreachable(
                f"{self.name} does not answer: {error}; `reindexer serve` starts one"
            ) from error
        try:
            value = response.json()
        except ValueError:
            value = None
        if response.status_code in (401, 403):
            raise StatusUnreachable(
                f"{self.name} asks for an API key with the scope `search`; give it with --key or "
                "REINDEXER_KEY"
            )
        if not response.is_success or not isinstance(value, dict) or "builds" not in value:
            detail = value.get("detail") if isinstance(value, dict) else None
            raise StatusUnreachable(
                f"{self.name} answered HTTP {response.status_code}: "
                f"{detail or 'not the status of a reindexer service; see --url'}"
            )
        return value


@dataclass(slots=True)
class Throughput:
    """How many a second, in the course of time, of something that only grows in leaps."""

    leaps: list[tuple[float, float]] = field(default_factory=list)  # (when, how many in all)
    _before: float | None = None  # what there was when it was first seen

    def see(self, now: float, total: float) -> None:
        if self._before is None or (self.leaps and total < self.leaps[-1][1]):
            self._before, self.leaps = total, [(now, 0.0)] if total == 0 else []
        elif total > (self.leaps[-1][1] if self.leaps else self._before):
            # Since when the first one was under way is not known unless it began at nothing.
            self.leaps.append((now, total))
        while len(self.leaps) > 2 and self.leaps[1][0] < now - PLOT_S:
            self.leaps.pop(0)

    def rates(self, now: float, columns: int) -> list[float]:
        """The rate in each of so many parts of the time that was seen, oldest first; a leap counts
        for all the time since the one before."""
        if len(self.leaps) < 2:
            return []
        start = max(self.leaps[0][0], now - PLOT_S)
        width = max(now - start, 1e-3) / columns
        leaps = [*self.leaps, self._next(now)]
        return [
            _rise(leaps, start + column * width, start + (column + 1) * width) / width
            for column in range(columns)
        ]

    def _next(self, now: float) -> tuple[float, float]:
        """The leap under way: as the last one, until it takes twice as long."""
        (began, low), (ended, high) = self.leaps[-2:]
        if now - ended > 2 * (ended - began):
            return now, high
        return now, high + (high - low) * (now - ended) / (ended - began)


def _rise(leaps: Sequence[tuple[float, float]], start: float, end: float) -> float:
    rise = 0.0
    for (begin, low), (finish, high) in itertools.pairwise(leaps):
        shared = min(end, finish) - max(start, begin)
        if shared > 0:
            rise += (high - low) * shared / (finish - begin)
    return rise


@dataclass(slots=True)
class History:
    """What a single look does not show."""

    builds: dict[int, Throughput] = field(default_factory=dict)
    queries: list[tuple[float, float]] = field(default_factory=list)  # (when, a second)
    seen_at: float = 0.0

    def see(self, now: float, found: Status) -> None:
        self.seen_at = now
        for build in found["builds"]:
            if build["state"] == "running":
                self.builds.setdefault(build["build_id"], Throughput()).see(now, build["docs_done"])
        asked = [searcher["queries_per_s"] for searcher in found["searchers"]]
        self.queries.append((now, sum(value for value in asked if value is not None)))
        while self.queries[0][0] < now - PLOT_S:
            self.queries.pop(0)


def watch_lines(source: StatusSource, interval_s: float | None, say: Callable[[str], None]) -> None:
    """One line every few seconds, and one whenever something has happened. Until interrupted.

    Raises what the source raises when it cannot be read the first time.
    """
    found: Status = source.read()
    shape, told_at, is_away = None, 0.0, False
    every_s = LINE_INTERVAL_S if interval_s is None else interval_s
    while True:
        began = time.monotonic()
        if found and (_shape(found) != shape or began - told_at >= every_s or is_away):
            say(f"{_clock()} {line(found)}")
            shape, told_at, is_away = _shape(found), began, False
        time.sleep(_pause_s(min(every_s, LOOK_S), time.monotonic() - began))
        try:
            found = source.read()
        except (SearchError, ReindexerError) as error:
            if not is_away:
                say(f"{_clock()} away: {error}; watching goes on")
            is_away, found = True, {}


def watch_screen(source: StatusSource, interval_s: float | None) -> None:
    """A live screen. Until interrupted. Raises what the source raises the first time."""
    from rich.live import Live

    from reindexer.watch_screen import draw, terminal

    every_s = INTERVAL_S if interval_s is None else interval_s
    history, console = History(), terminal()
    away: str | None = None
    began = time.monotonic()
    found = source.read()
    # Drawn by this thread alone, and not taller than the terminal, so that nothing is left behind.
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            now = time.monotonic()
            if away is None:
                history.see(now, found)
            live.update(draw(found, history, source.name, away, console), refresh=True)
            time.sleep(_pause_s(every_s, now - began))
            began = time.monotonic()
            try:
                found, away = source.read(), None
            except (SearchError, ReindexerError) as error:
                away = away or str(error)


def watch(
    source: StatusSource,
    interval_s: float | None,
    *,
    is_terminal: bool,
    say: Callable[[str], None],
) -> None:
    """Until Ctrl-C, which is how it ends."""
    with contextlib.suppress(KeyboardInterrupt):
        if is_terminal:
            watch_screen(source, interval_s)
        else:
            watch_lines(source, interval_s, say)


def _pause_s(interval_s: float, took_s: float) -> float:
    return max(interval_s - took_s, took_s * (1 / BUSY_SHARE - 1), 0.0)


def _shape(found: Status) -> tuple[Any, ...]:
    """Changes when something has happened, as opposed to: has gone on."""
    builds = [(build["build_id"], build["state"], build["step"]) for build in found["builds"]]
    pointers = [(found[name] or {}).get("generation") for name in ("live", "standby")]
    return builds, pointers, [searcher["name"] for searcher in found["searchers"]]


def _clock() -> str:
    return time.strftime("%H:%M:%S")
