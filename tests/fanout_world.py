"""A build that is fanned out, over a directory whose actors leave a note of what they do.

python -m tests.fanout_world SETTINGS    runs the newest build in a process that can be killed
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from reindexer.build import BuildRun
from reindexer.build_job import BuildJob
from reindexer.journal import BUILD_LEASE
from reindexer.settings import Settings
from search import tables
from search.generations import Generation
from tests.noted_directory import NotedDirectory
from tests.word_directory import WordDirectory

ROOT = Path(__file__).parents[1]
N_DOCUMENTS = 240
CHUNK_DOCS = 20  # 12 chunks
WINDOW = 8


def settings_of(folder: Path, **more: Any) -> Settings:
    chosen = {"chunk_docs": CHUNK_DOCS, "window": WINDOW, **more}
    return Settings(data_dir=folder, **chosen)


def fill(directory: WordDirectory, n_documents: int = N_DOCUMENTS) -> None:
    directory.put_many(f"d{number}" for number in range(n_documents))
    directory.corpus.delete(["d7", "d77"])
    directory.put("long", "one two three four five six seven eight nine ten " * 20)


def begin(directory: WordDirectory, model: str = "word@1") -> Generation:
    """A generation with a build that has done nothing yet."""
    generation = directory.record(model)
    head, count = directory.corpus.head(), directory.corpus.count()
    directory.journal.record_build(generation.name, start_head=head, docs_total=count)
    return generation


def run(directory: WordDirectory, generation: Generation) -> None:
    """The build, in this process, to its end."""
    with directory.journal.lease(BUILD_LEASE, wait_s=5.0) as lease:
        directory.journal.start_run(directory.journal.build_of(generation.name))
        job = BuildJob(generation=generation.name, token=lease.token, settings={})
        report = BuildRun(directory, job, open_data=NotedDirectory).run()
    assert report.passed, report.reasons


def contents(directory: WordDirectory, generation: Generation) -> dict[str, tuple[Any, ...]]:
    """Every point by its id: seq, content hash, vector."""
    collection = directory.store.open(generation.collection, generation.recipe.fingerprint)
    try:
        return {
            point.id: (point.seq, point.content_hash, tuple(np.round(vector, 5).tolist()))
            for points, vectors in collection.scan()
            for point, vector in zip(points, vectors, strict=True)
        }
    finally:
        collection.close()


def assert_equal_to_one_process(directory: WordDirectory, generation: Generation) -> None:
    """The generation is what a build without any actor makes of the corpus."""
    with NotedDirectory(settings_of(directory.path, fanout="none")) as alone:
        expected = contents(alone, alone.catalog.get(alone.build("word@1")))
    assert contents(directory, generation) == expected
    assert directory.catalog.watermark(generation.name) == directory.corpus.head()


def n_encoded(directory: WordDirectory) -> int:
    """Passages that went through a model in another process."""
    notes = (directory.path / "notes").glob("*")
    others = [note for note in notes if int(note.name) != os.getpid()]
    return sum(int(line) for note in others for line in note.read_text().split())


def actors(directory: WordDirectory) -> list[int]:
    """The living actors that have encoded something."""
    found = []
    for note in (directory.path / "notes").glob("*"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(note.name), 0)
            if int(note.name) != os.getpid():
                found.append(int(note.name))
    return found


def n_done(directory: WordDirectory) -> int:
    chunks = tables.chunks
    with directory.database.read() as connection:
        query = sa.select(sa.func.count()).where(chunks.c.done_at.is_not(None))
        return connection.execute(query).scalar_one()


@contextlib.contextmanager
def killing(directory: WordDirectory, times: int) -> Iterator[list[int]]:
    """Meanwhile, so many actors are killed, one after another in the middle of their work."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while len(killed) < times and not over.wait(0.1):
            for actor in [pid for pid in actors(directory) if pid not in killed][:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(actor, signal.SIGKILL)
                    killed.append(actor)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield killed
    finally:
        over.set()
        killer.join()


def die_in_the_middle(directory: WordDirectory, **settings: Any) -> int:
    """Run the newest build in a process that is killed once some chunks are done; returns how many
    that were. None of its actors survives it."""
    values = json.dumps({"data_dir": str(directory.path), **settings})
    process = subprocess.Popen([sys.executable, "-m", "tests.fanout_world", values], cwd=ROOT)
    try:
        while n_done(directory) < 3:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10.0
    while actors(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert actors(directory) == []
    return n_done(directory)


def main() -> None:
    values = json.loads(sys.argv[1])
    folder = Path(values.pop("data_dir"))
    with NotedDirectory(settings_of(folder, **values)) as directory:
        run(directory, directory.catalog.all()[-1])


if __name__ == "__main__":
    main()
