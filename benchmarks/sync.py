"""What it costs to keep a generation in step: nothing to do, and 50 changes, in a small and in a
large corpus.

    python benchmarks/sync.py [--documents 10000 100000] [--changes 50] [--rounds 5]

Measured twice: the command as a user runs it, Python's start included, and its work alone,
`reindexer.sync.sync_once` in a process that has everything imported: it opens the generation,
replays and closes. A model of token vectors encodes the made-up text, so building takes little and
what is measured is everything else. The sizes take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.corpus import doc_id, documents, fill
from benchmarks.report import Report, ratio, read_arguments, seconds
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.journal import SYNC_LEASE
from reindexer.settings import Settings
from reindexer.sync import SyncReport, sync_once
from reindexer.upgrade import upgrade
from tests.tiny_models import make_tiny_model


@dataclass(slots=True)
class Measured:
    """One corpus, and what its rounds took."""

    data: DataDirectory
    n_documents: int
    nothing_s: list[float] = field(default_factory=list)
    changes_s: list[float] = field(default_factory=list)
    command_nothing_s: list[float] = field(default_factory=list)
    command_changes_s: list[float] = field(default_factory=list)
    encoded: set[int] = field(default_factory=set)  # passages, of any round
    encoded_of_nothing: set[int] = field(default_factory=set)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--changes", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = read_arguments(parser)
    sizes: list[int] = arguments.documents
    report = Report(
        f"sync: {' and '.join(f'{size:,}' for size in sizes)} documents", path=arguments.report
    )
    with tempfile.TemporaryDirectory() as temporary:
        model = make_tiny_model(Path(temporary) / "model", kind="static")
        measured = [_prepare(Path(temporary) / str(size), model, size) for size in sizes]
        for number in range(1, arguments.rounds + 1):
            for one in measured:
                _round(one, number, arguments.changes)
        for one in measured:
            _report(report, one, arguments.changes)
        if len(measured) > 1:
            sizes_text = f"{sizes[-1]:,} / {sizes[0]:,} documents"
            report.figure(
                f"`reindexer sync`, {arguments.changes} changes, {sizes_text}",
                ratio(measured[-1].command_changes_s, measured[0].command_changes_s),
                at_most=1.5,
            )
            report.figure(
                f"its work alone, {sizes_text}",
                ratio(measured[-1].changes_s, measured[0].changes_s),
                note="the rest is the engine loading its ids and indexes",
            )
        for one in measured:
            one.data.close()
    return report.exit_code()


def _prepare(folder: Path, model: Path, n_documents: int) -> Measured:
    """A live generation in step with its corpus."""
    data = open_data_directory(Settings(data_dir=folder))
    fill(data.corpus, documents(n_documents))
    began = time.perf_counter()
    upgrade(data, str(model))
    print(f"  built {n_documents:,} documents in {time.perf_counter() - began:.0f} s", flush=True)
    one = Measured(data=data, n_documents=n_documents)
    _change(one, 0, 1)
    _sync(one)  # imports and compiles what the first run of a process needs
    return one


def _round(one: Measured, number: int, n_changes: int) -> None:
    one.nothing_s.append(seconds(lambda: one.encoded_of_nothing.add(_sync(one).encoded)))
    _change(one, 2 * number, n_changes)
    one.changes_s.append(seconds(lambda: one.encoded.add(_sync(one).encoded)))
    one.command_nothing_s.append(seconds(lambda: one.encoded_of_nothing.add(_command(one))))
    _change(one, 2 * number + 1, n_changes)
    one.command_changes_s.append(seconds(lambda: one.encoded.add(_command(one))))


def _change(one: Measured, version: int, n_changes: int) -> None:
    """New texts for documents from all over the corpus."""
    corpus = one.data.corpus
    step = one.n_documents // n_changes
    stored = corpus.get_many([doc_id(at * step) for at in range(n_changes)]).values()
    edited = [
        replace(change.document, text=f"{change.document.text} edition {version}")
        for change in stored
        if change.document is not None
    ]
    assert corpus.put(edited).changed == n_changes


def _sync(one: Measured) -> SyncReport:
    with one.data.journal.lease(SYNC_LEASE) as lease:
        return sync_once(one.data, lease)


def _command(one: Measured) -> int:
    """The command as a user runs it; passages it encoded."""
    folder = str(one.data.path)
    command = [sys.executable, "-m", "reindexer", "--data-dir", folder, "sync", "--json"]
    done = subprocess.run(command, check=True, capture_output=True)
    encoded: int = json.loads(done.stdout)["encoded"]
    return encoded


def _report(report: Report, one: Measured, n_changes: int) -> None:
    size = f"{one.n_documents:,} documents"
    for name, taken_s, at_most in (
        (f"{size}, nothing to do: `reindexer sync`", one.command_nothing_s, 1.0),
        ("  its work alone", one.nothing_s, None),
        (f"{size}, {n_changes} changes: `reindexer sync`", one.command_changes_s, None),
        ("  its work alone", one.changes_s, None),
    ):
        median = statistics.median(taken_s)
        report.figure(name, median, "s", digits=3, at_most=at_most, note=_spread(taken_s))
    for what, counts, expected in (
        ("nothing", one.encoded_of_nothing, 0),
        (f"{n_changes} changes", one.encoded, n_changes),
    ):
        for encoded in sorted(counts):
            report.figure(f"  encoded for {what}", encoded, "passages", digits=0, exactly=expected)


def _spread(taken_s: Sequence[float]) -> str:
    return f"{min(taken_s):.3f} to {max(taken_s):.3f} s"


if __name__ == "__main__":
    sys.exit(main())
