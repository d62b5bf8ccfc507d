"""A collection in a process of its own: what happens when that process, or this one, goes away.

That it does what a collection does is in tests/contract/test_dense.py.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reindexer.opening import Opener
from reindexer.selftest.resources import take_sample
from search import edge_process
from search.dense import CollectionSpec
from search.dense_edge import EdgeStore
from search.edge_process import CHANNELS, EdgeProcessCollection
from search.errors import InvalidQuery, StoreError, StoreLocked, StoreUnavailable
from search.generations import Generation
from search.processes import run_module
from tests.cached_files import forget, share_cached
from tests.plain_points import points, vectors
from tests.word_directory import WordDirectory
from training.errors import ModelNotFound

DIM = 4
SPEC = CollectionSpec(generation="docs@1", fingerprint="f", dim=DIM)
N_POINTS = 20
ROWS = vectors(N_POINTS, DIM)
WAIT_S = 60


@pytest.fixture
def store(tmp_path: Path) -> EdgeStore:
    return EdgeStore(tmp_path / "collections")


@pytest.fixture
def collection(store: EdgeStore) -> Iterator[EdgeProcessCollection]:
    store.create("docs-1", SPEC).close()
    opened = store.open_apart("docs-1", "f")
    opened.upsert(points(N_POINTS), ROWS)
    yield opened
    opened.close()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGABRT])
def test_a_process_that_dies_costs_one_call_and_loses_nothing(
    collection: EdgeProcessCollection, how: signal.Signals
) -> None:
    before = collection.search(ROWS[0], 5)
    first = collection.pid
    assert first is not None
    os.kill(first, how)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    with pytest.raises(StoreUnavailable, match=rf"process {first} .* is gone \(signal {how}\)"):
        collection.count()

    assert collection.count() == N_POINTS
    assert collection.search(ROWS[0], 5) == before
    assert collection.pid not in (first, None)


def test_a_process_that_hangs_is_replaced(
    collection: EdgeProcessCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_process, "SEARCH_WAIT_S", 0.2)
    assert collection.pid is not None
    os.kill(collection.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, collection.pid, os.WSTOPPED)
    with pytest.raises(StoreUnavailable, match="is gone"):
        collection.search(ROWS[0], 5)
    monkeypatch.undo()
    assert len(collection.search(ROWS[0], 5)) == 5


@pytest.mark.parametrize("method", ["upsert", "finish"])
def test_a_process_that_does_nothing_is_replaced_whatever_it_was_asked(
    collection: EdgeProcessCollection, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(edge_process, "STILL_S", 0.2)
    monkeypatch.setattr(edge_process, "LOOK_S", 0.05)
    assert collection.pid is not None
    os.kill(collection.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, collection.pid, os.WSTOPPED)
    arguments = (points(N_POINTS), ROWS) if method == "upsert" else ()
    with pytest.raises(StoreUnavailable, match=r"signal 9, after it did nothing .* be short"):
        getattr(collection, method)(*arguments)
    monkeypatch.undo()
    getattr(collection, method)(*arguments)
    assert collection.count() == N_POINTS


def test_what_is_read_page_by_page_never_goes_on_in_another_process(
    collection: EdgeProcessCollection,
) -> None:
    first, second = (collection.scan_points(batch=3) for _ in range(2))
    assert len(next(first)) == len(next(second)) == 3
    assert collection.pid is not None
    os.kill(collection.pid, signal.SIGKILL)
    with pytest.raises(StoreUnavailable, match="is gone"):
        next(first)
    whole = collection.scan_points(batch=3)
    n_read = len(next(whole))
    with pytest.raises(StoreUnavailable, match="is gone"):  # its pages are no part of `whole`
        next(second)
    assert n_read + sum(map(len, whole)) == N_POINTS


def test_one_that_cannot_be_started_again_says_why_and_is_not_tried_at_every_call(
    collection: EdgeProcessCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = tmp_path / "collections" / "docs-1" / "collection.json"
    content = described.read_bytes()
    described.write_bytes(b"{")
    assert collection.pid is not None
    os.kill(collection.pid, signal.SIGKILL)
    messages = set()
    for _ in range(20):
        with pytest.raises(StoreError) as refused:
            collection.count()
        messages.add(str(refused.value))
    assert len(messages) == 2, messages  # that it is gone, and why it does not come back
    described.write_bytes(content)
    monkeypatch.setattr(edge_process, "RESTART_S", 0.0)
    assert collection.count() == N_POINTS


def test_it_searches_while_the_caller_does_something_else(
    collection: EdgeProcessCollection,
) -> None:
    expected = collection.search(ROWS[0], 5)
    with collection.begin_search(ROWS[0], 5) as hits:
        assert collection.count() == N_POINTS
        assert hits() == expected
    for _ in range(2 * CHANNELS):  # an answer that nobody fetched is in nobody's way
        with collection.begin_search(ROWS[0], 3):
            pass
        with pytest.raises(InvalidQuery), collection.begin_search(ROWS[0], 0) as hits:
            hits()
    assert collection.search(ROWS[0], 5) == expected


def test_more_callers_than_channels_take_turns(collection: EdgeProcessCollection) -> None:
    expected = [collection.search(row, 3) for row in ROWS]
    wrong: list[int] = []

    def ask() -> None:
        wrong.extend(
            number
            for number, row in enumerate(ROWS)
            if collection.search(row, 3) != expected[number]
        )

    callers = [threading.Thread(target=ask) for _ in range(3 * CHANNELS)]
    for caller in callers:
        caller.start()
    pages = [point.doc_id for page in collection.scan_points(batch=3) for point in page]
    for caller in callers:
        caller.join()
    assert wrong == []
    assert sorted(pages) == sorted(point.doc_id for point in points(N_POINTS))


def test_it_is_locked_in_the_name_of_the_process_that_asked_for_it(
    collection: EdgeProcessCollection, store: EdgeStore
) -> None:
    with pytest.raises(StoreLocked, match=f"already open in this process .pid {os.getpid()}"):
        store.open("docs-1", "f", wait_s=0.0)
    collection.close()
    with pytest.raises(StoreError, match="has been closed"):
        collection.count()
    store.open("docs-1", "f", wait_s=0.0).close()


def test_a_folder_of_the_same_name_where_the_user_stands_is_not_run(
    collection: EdgeProcessCollection,
    store: EdgeStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collection.close()
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "__init__.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    again = store.open_apart("docs-1", "f")
    assert again.count() == N_POINTS
    again.close()


def test_what_it_takes_up_is_counted_with_its_owner(
    collection: EdgeProcessCollection, tmp_path: Path
) -> None:
    with_it = take_sample(os.getpid(), tmp_path)
    collection.close()
    without = take_sample(os.getpid(), tmp_path)
    assert with_it is not None
    assert without is not None
    assert with_it.memory is not None
    assert without.memory is not None
    assert with_it.memory - without.memory > 10_000_000


def test_a_model_that_cannot_be_loaded_leaves_no_collection_open(
    directory: WordDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection is opened meanwhile."""

    def gone(_directory: WordDirectory, _generation: Generation) -> Any:
        raise ModelNotFound("no model 'word@1'")

    directory.put("a", "text")
    generation = directory.catalog.get(directory.build("word@1"))
    monkeypatch.setattr(WordDirectory, "encoder", gone)
    opener = Opener(directory, writable=False, apart=True)
    with pytest.raises(ModelNotFound):
        opener.open(generation.name)
    directory.store.open(generation.collection, generation.recipe.fingerprint, wait_s=0.0).close()


def test_what_was_begun_is_taken_over_or_given_back(directory: WordDirectory) -> None:
    directory.put("a", "text")
    generation = directory.catalog.get(directory.build("word@1"))
    name, fingerprint = generation.collection, generation.recipe.fingerprint
    opener = Opener(directory, writable=False, apart=True)
    opener.begin(generation)
    opened = opener.open(generation.name)  # would wait for itself, had it started another one
    with pytest.raises(StoreLocked):
        directory.store.open(name, fingerprint, wait_s=0.0)
    opened.close()

    opener.begin(generation)
    opener.close()
    directory.store.open(name, fingerprint, wait_s=0.0).close()


def test_it_ends_with_the_process_that_asked_for_it(store: EdgeStore, tmp_path: Path) -> None:
    store.create("docs-1", SPEC).close()
    program = (
        "import sys, time; from pathlib import Path; from search.dense_edge import EdgeStore\n"
        f"opened = EdgeStore(Path({str(tmp_path / 'collections')!r})).open_apart('docs-1', 'f')\n"
        "print(opened.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    child = int(owner.stdout.readline())
    for ignored in (signal.SIGINT, signal.SIGTERM):  # what a terminal or a supervisor sends to all
        os.kill(child, ignored)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    store.open("docs-1", "f", wait_s=WAIT_S).close()


@pytest.mark.parametrize("fingerprint", ["f", "another"])
def test_it_says_nothing_when_who_asked_for_it_is_gone_before_it_is_open(
    store: EdgeStore, tmp_path: Path, fingerprint: str
) -> None:
    store.create("docs-1", SPEC).close()
    ours, theirs = socket.socketpair()
    ours.close()
    arguments = [str(tmp_path / "collections"), "docs-1", fingerprint, "5", "bulk", "1"]
    ended = subprocess.run(
        run_module(edge_process.CHILD, *arguments, str(theirs.fileno())),
        pass_fds=[theirs.fileno()],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    theirs.close()
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    store.open("docs-1", "f", wait_s=0.0).close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the file cache, and reads /proc")
def test_what_describes_the_hits_is_read_before_the_first_query(
    store: EdgeStore, tmp_path: Path
) -> None:
    """Over a million documents a query read 42 pages from the disk for it."""
    made = store.create_apart("docs-1", SPEC)
    made.upsert(points(3_000), vectors(3_000, DIM))
    made.close()
    segments = tmp_path / "collections" / "docs-1" / "shard" / "segments"
    payloads = list(segments.glob("*/payload_storage/page_*.dat"))
    forget(payloads)

    opened = store.open_apart("docs-1", "f")
    deadline = time.monotonic() + WAIT_S
    while share_cached(payloads) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert share_cached(payloads) == 1
    opened.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks the file cache")
def test_what_was_read_stays_in_memory_for_the_next_that_opens_it(
    store: EdgeStore, tmp_path: Path
) -> None:
    """The engine's own close takes the files of a finished collection out of it."""
    n, dim = 2_700, 1_024  # as much as gets a graph, in a file of its own
    made = store.create_apart(
        "docs-1", CollectionSpec(generation="docs@1", fingerprint="f", dim=dim)
    )
    made.upsert(points(n), vectors(n, dim))
    made.finish()
    made.close()
    graph = list((tmp_path / "collections").glob("docs-1/shard/segments/*/vector_index/links*"))
    forget(graph)
    opened = store.open_apart("docs-1", "f")
    assert opened.indexed() == 1
    opened.close()

    assert share_cached(graph) > 0.5
    again = store.open("docs-1", "f")
    assert again.count() == n
    again.close()
