"""What people see: units, tables, questions, log lines. All screens are made of these."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Any

import click

from search.masking import mask_keys_in_logs

WIDTH = 80
OWN_LOGGERS = ("training", "search", "reindexer")


def print_json(value: Any) -> None:
    """The one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def say(text: str = "") -> None:
    click.echo(text)


def note(text: str) -> None:
    """To stderr: for people, never part of the answer."""
    click.echo(text, err=True)


def warn(text: str) -> None:
    click.echo(f"{click.style('Warning:', fg='yellow')} {text}", err=True)


def next_steps(*commands: str) -> None:
    """The last lines of a screen: what to type next."""
    for number, command in enumerate(commands):
        click.echo(f"{'Next:' if number == 0 else '     '} {click.style(command, bold=True)}")


def confirm(question: str) -> bool:
    """Ask on the terminal. Without a terminal nobody can answer: a usage error says so."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on; add --yes to go ahead")
    return click.confirm(question, err=True)


# -- units ----------------------------------------------------------------------------------------


def count(n: int, noun: str) -> str:
    """`1 document`, `12,288 documents`, `300 queries`."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {noun[:-1]}ies" if noun.endswith("y") else f"{n:,} {noun}s"


def size(n_bytes: float) -> str:
    """`512 B`, `1.2 MB`: powers of 1,000, as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(n_bytes) < 1_000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1_000
    return f"{n_bytes:,.1f} TB"


def rate(per_second: float) -> str:
    """`812`, `5.3`: three digits are enough."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.1f}"


def pace(per_second: float, text: str = "") -> str:
    """`812/s`, `5.3/s`, and `24.1 s each` where that says more. text: of the rate, if not as
    `rate` writes it."""
    if 0 < per_second < 0.1:
        return f"{duration(1 / per_second)} each"
    return f"{text or rate(per_second)}/s"


def duration(seconds: float) -> str:
    """`40 ms`, `3.2 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, in_big, in_small in (
        ("min", "s", 60, 1),
        ("h", "min", 3_600, 60),
        ("d", "h", 86_400, 3_600),
    ):
        if whole < in_big * (60 if big == "min" else 24) or big == "d":
            rest = whole % in_big // in_small
            return f"{whole // in_big:,} {big}" + (f" {rest} {small}" if rest else "")
    raise AssertionError("days are the last unit")


def when(at: float) -> str:
    """Unix seconds as local time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


# -- shapes ---------------------------------------------------------------------------------------


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]], *, indent: str = "") -> str:
    """Aligned columns, numbers to the right; the last column may run on."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([len(header), *(len(row[column]) for row in cells)])
        for column, header in enumerate(headers)
    ]
    right = [
        bool(rows) and all(isinstance(row[column], int | float) for row in rows)
        for column in range(len(headers))
    ]

    def line(values: Sequence[str]) -> str:
        parts = [
            value.rjust(width) if is_right else value.ljust(width)
            for value, width, is_right in zip(values, widths, right, strict=True)
        ]
        return (indent + "  ".join(parts)).rstrip()

    return "\n".join([click.style(line(headers), dim=True), *(line(row) for row in cells)])


def fields(pairs: Sequence[tuple[str, Any]], *, indent: str = "") -> str:
    """`name   value` lines; empty values are left out, long ones continue under themselves."""
    shown = [(name, _cell(value)) for name, value in pairs if value is not None and value != ""]
    width = max((len(name) for name, _ in shown), default=0)
    lines = []
    for name, value in shown:
        head = f"{indent}{name.ljust(width)}  "
        lines.append(wrapped(value, first=head, rest=" " * len(head)))
    return "\n".join(lines)


def wrapped(text: str, *, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        text,
        width=terminal_width(),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def terminal_width() -> int:
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, 40), 120)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


# -- logs -----------------------------------------------------------------------------------------


class _StderrHandler(logging.Handler):
    """Writes to whatever stderr is at that moment, which a progress bar may have taken over."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if record.levelno >= logging.WARNING:
                kind = "Error" if record.levelno >= logging.ERROR else "Warning"
                text = f"{kind}: {text}"
            click.echo(text, err=True)
        except Exception:
            self.handleError(record)


def configure_logging(verbosity: int, *, quiet: bool) -> None:
    """Warnings to stderr; -v adds what our packages do, -vv what everybody does."""
    mask_keys_in_logs()
    root = logging.getLogger()
    for handler in [item for item in root.handlers if isinstance(item, _StderrHandler)]:
        root.removeHandler(handler)
    root.addHandler(_StderrHandler())
    root.setLevel(logging.DEBUG if verbosity > 1 else logging.ERROR if quiet else logging.WARNING)
    for name in OWN_LOGGERS:
        level = (logging.NOTSET, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
        logging.getLogger(name).setLevel(level)
