"""A verb over the word models in a process of its own, and something that happens in its middle."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests import warm_processes

WAIT_S = 90


def run_verb(
    folder: Path,
    arguments: Sequence[str],
    *,
    at: str | None = None,
    happens: Callable[[], None] | None = None,
) -> tuple[int | None, str]:
    """Exit code, and everything it says. The data directory is folder / "data".

    at: a kill point, or a method as module:Class.method, which has returned by then. happens:
    called there, each time; it can be sent to another process.
    """
    said = folder / f"said-{time.monotonic_ns()}"
    process = warm_processes.start(_verb, folder / "data", list(arguments), at, happens, said)
    process.join(WAIT_S)
    text = said.read_text()
    said.unlink()
    return process.exitcode, text


def _verb(
    data_dir: Path,
    arguments: list[str],
    at: str | None,
    happens: Callable[[], None] | None,
    said: Path,
) -> None:
    from reindexer import cli, data_directory
    from search.processes import die_with_parent
    from training import kill_points

    die_with_parent(os.getppid())
    for descriptor in (1, 2):
        file = os.open(said, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(file, descriptor)
    data_directory.open_data_directory = _open  # type: ignore[assignment]
    if at is not None and happens is not None:
        if ":" in at:
            _after(at, happens)
        else:
            kill_points.listen(lambda point: happens() if point == at else None)
    cli.cli.main(["--data-dir", str(data_dir), *arguments])


def _open(settings: Any) -> Any:
    from reindexer.selftest.word_directory import WordDirectory as Words

    return Words(settings)


def _after(method: str, happens: Callable[[], None]) -> None:
    module, _, path = method.partition(":")
    owner_name, _, name = path.partition(".")
    owner = getattr(importlib.import_module(module), owner_name)
    before = getattr(owner, name)

    def and_then(*args: Any, **options: Any) -> Any:
        result = before(*args, **options)
        happens()
        return result

    setattr(owner, name, and_then)
