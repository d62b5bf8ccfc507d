"""Processes that are forked from one that has imported already what takes seconds to import.

They are real ones: each has an environment of its own, and is killed, frozen and waited for by its
pid. `reindexer` as a shell starts it is run by tests/integration/test_cli.py and test_tour.py.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from search.processes import die_with_parent

_IMPORTED = [
    "alembic.command",
    "reindexer.build",
    "reindexer.cli_service",
    "reindexer.cli_upgrade",
    "reindexer.ingest",
    "reindexer.quality",
    "reindexer.service",
    "reindexer.sync",
    "search.dense_edge",
    "search.dense_qdrant",
    "search.lexical",
    "training.static_encoder",
]
_context = multiprocessing.get_context("forkserver")
_started: list[int] = []


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    """Call target in a process of its own."""
    if not _started:
        # Another test's server has imported less; a process belongs to the server that forked it.
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        _context.set_forkserver_preload(_IMPORTED)
        _started.append(os.getpid())
    process = _context.Process(target=target, args=args)
    process.start()
    return process


def start_verb(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: Path | None = None,
    stderr: Path | None = None,
) -> BaseProcess:
    """`reindexer` with these arguments. stdout, stderr: files that it appends to; left out, what it
    prints is thrown away, and what it complains of is shown."""
    return start(_verb, [*arguments], {**environment}, stdout, stderr)


def _verb(
    arguments: list[str], environment: dict[str, str], stdout: Path | None, stderr: Path | None
) -> None:
    from reindexer.cli import main

    die_with_parent(os.getppid())
    os.environ.clear()
    os.environ.update(environment)
    _redirect(1, stdout or Path(os.devnull))
    if stderr is not None:
        _redirect(2, stderr)
    sys.argv = ["reindexer", *arguments]
    main()


def _redirect(descriptor: int, path: Path) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(file, descriptor)
    os.close(file)
