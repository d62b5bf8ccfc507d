"""A disk that is full to the last byte at each place where something is written.

Nothing is lost, nothing is half there, the message says what is full and what to do, and the same
goes on once there is room. The embedded engine runs in a process of its own: where it met a full
disk unprepared, the kernel would end that process.
"""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from reindexer.backup import make_backup
from reindexer.build import BuildRun, run_to_its_end
from reindexer.build_job import BuildJob
from reindexer.cutover import cut_over
from reindexer.doctor_files import look_at_disk
from reindexer.errors import ReindexerError
from reindexer.ingest import ingest
from reindexer.jobs import JobQueue
from reindexer.journal import BUILD_LEASE
from reindexer.schedule import Schedules
from reindexer.sources.opening import open_source
from search.dense import CollectionSpec, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.edge_collection import EdgeCollection
from search.errors import DatabaseUnavailable, DiskFull, SearchError
from tests.bad_input_targets import service
from tests.judged_world import make_judged_world
from tests.small_disk import SmallDisk, small_disk
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory
from training import kill_points
from training.errors import TrainingError, TrainingFailed
from training.model_version import ModelVersion
from training.outcome import TrainingTask
from training.registry import ModelRegistry
from training.training_recipe import TrainingRecipe

OURS = (SearchError, ReindexerError, TrainingError)
N_DOCUMENTS = 300


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as mounted:
        yield mounted


def in_a_process(work: Callable[[Path], None], folder: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == 0, "it failed, or was ended by a signal (below 0)"


# -- vectors, checkpoint, graph, lexical index, what the journal says ------------------------------

# Where the disk is full from then on; how far the build is by then, and what it says.
PLACES = {
    "upsert.begin": (0, "cannot write to collection .* is full: 0 MB free"),
    "checkpoint.write": (0, "database or disk is full"),
    "index.begin": (N_DOCUMENTS, "cannot index collection .* is full: 0 MB free"),
    "lexical.arrays": (N_DOCUMENTS, "No space left on device"),
    "verification.kept": (N_DOCUMENTS, "database or disk is full"),
}


@pytest.mark.parametrize("apart", [True, False])
def test_a_build_stops_on_a_full_disk_and_goes_on(disk: SmallDisk, apart: bool) -> None:
    in_a_process(partial(_build_with_full_disks, apart=apart), disk.folder)


def _build_with_full_disks(folder: Path, *, apart: bool) -> None:
    disk = SmallDisk(folder)
    with WordDirectory(folder / "data", window=64) as data:
        data.put_many(f"d{number}" for number in range(N_DOCUMENTS))
        name = data.record("word@1").name
        data.journal.record_build(name, start_head=data.corpus.head(), docs_total=N_DOCUMENTS)
        for place, (watermark, said) in PLACES.items():
            told = _build(data, name, disk, apart=apart, full_at=place)
            assert re.search(f"build 1 of docs@1 stopped: .*{said}", told), f"{place}: {told}"
            assert "make room" in told or "free some disk space" in told, f"{place}: {told}"
            assert data.catalog.watermark(name) == watermark, place
            assert data.catalog.get(name).state != "ready", place

        assert _build(data, name, disk, apart=apart, full_at=None) == ""

        assert data.catalog.get(name).state == "ready"
        generation = data.catalog.get(name)
        collection = data.store.open(generation.collection, generation.recipe.fingerprint)
        stored = [point.doc_id for page in collection.scan_points() for point in page]
        assert sorted(stored) == sorted(f"d{number}" for number in range(N_DOCUMENTS))
        collection.close()


def _build(
    data: WordDirectory, name: str, disk: SmallDisk, *, apart: bool, full_at: str | None
) -> str:
    """What its process says on standard error."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger("reindexer").addHandler(handler)

    def listener(point: str) -> None:
        if point == full_at:
            disk.fill()

    with data.journal.lease(BUILD_LEASE) as lease:
        job = BuildJob(generation=name, token=lease.token, settings={})
        run = BuildRun(data, job, apart_from=0 if apart else N_DOCUMENTS + 1)
        kill_points.listen(listener)
        assert run_to_its_end(data, run, name) == (1 if full_at else 0), full_at
        kill_points.listen(None)
        disk.make_room()
    logging.getLogger("reindexer").removeHandler(handler)
    return said.getvalue()


def test_a_collection_on_a_full_disk_refuses_and_answers(disk: SmallDisk) -> None:
    in_a_process(_write_until_full, disk.folder)


def _write_until_full(folder: Path) -> None:
    disk, store = SmallDisk(folder), EdgeStore(folder / "collections")
    spec = CollectionSpec(generation="docs@1", fingerprint="aaaa", dim=384)
    collection = store.create("docs-1", spec)
    disk.fill(leave_bytes=70_000_000)
    stored, told = _write_all(collection)
    assert stored > 0
    assert re.search(r"is full: 6\d MB free, .*`reindexer prune`", told)
    disk.fill()
    assert collection.count() == stored
    assert len(collection.search(_points(0, 1)[1][0], 3)) == 3
    with pytest.raises(DiskFull):
        collection.remove_older({"d0": 2})
    collection.close()  # what could not be flushed is in the log
    with pytest.raises(DiskFull, match="cannot open"):
        store.open("docs-1", "aaaa")
    with pytest.raises(DiskFull, match="cannot create"):
        store.create("docs-2", spec)

    disk.make_room()
    collection = store.open("docs-1", "aaaa")
    assert collection.count() == stored
    collection.upsert(*_points(stored, 500))
    collection.finish()
    assert collection.count() == stored + 500
    collection.close()


def _write_all(collection: EdgeCollection) -> tuple[int, str]:
    """How many points went in before it refused, and what it said."""
    for stored in range(0, 10_000, 500):
        try:
            collection.upsert(*_points(stored, 500))
        except DiskFull as error:
            return stored, str(error)
    return 10_000, ""


def _points(first: int, n: int) -> tuple[list[Point], FloatMatrix]:
    points = [
        Point(
            doc_id=f"d{number}",
            number=0,
            count=1,
            seq=1,
            content_hash="c",
            text_hash="t",
            start=0,
            end=1,
            metadata={},
        )
        for number in range(first, first + n)
    ]
    return points, np.eye(384, dtype=np.float32)[np.arange(first, first + n) % 384]


# -- a running installation ------------------------------------------------------------------------


def test_a_service_on_a_full_disk_answers_refuses_and_goes_on(disk: SmallDisk) -> None:
    """Every write that a request or a verb asks for is refused with a reason, and reads go on."""
    with service(disk.folder) as running:
        data, queue = running.directory, JobQueue(running.directory.database)
        target = data.build("word@2")
        head, pointers = data.corpus.head(), data.catalog.pointers()
        writes: dict[str, Callable[[], object]] = {
            "the request of a cut-over": lambda: cut_over(data, target),
            "a job": lambda: queue.ask("sync", {}, who="ann"),
            "a schedule": lambda: Schedules(data.database).set("s", "sync", "every 1h"),
            "a new generation": lambda: data.record("word@3"),
        }
        requests = {
            "/documents/new": ("PUT", b'{"text": "%s"}' % (b"word " * 20_000)),
            "/documents/d1": ("DELETE", b""),
            "/documents": ("PUT", b'{"documents": [{"doc_id": "new", "text": "t"}]}'),
        }
        _fill_to_the_last_page(disk, data)

        for path, (method, body) in requests.items():
            status, content = running.ask(method, path, body)
            assert status == 503, (path, status, content)
            assert b"disk is full" in content, content
        for write in writes.values():
            with pytest.raises(OURS, match="disk is full"):
                write()
        assert running.ask("POST", "/search", b'{"query": "all"}')[0] == 200
        assert (data.corpus.head(), data.catalog.pointers()) == (head, pointers)

        disk.make_room()
        for path, (method, body) in requests.items():
            assert running.ask(method, path, body)[0] in (200, 204), path
        del writes["the request of a cut-over"]  # it waits for somebody who follows
        for write in writes.values():
            write()
        assert data.corpus.head() == head + 3


def test_a_query_log_on_a_full_disk_waits_and_feedback_is_refused(disk: SmallDisk) -> None:
    with service(disk.folder) as running:
        _fill_to_the_last_page(disk, running.directory)

        status, content = running.ask("POST", "/search", b'{"query": "all"}')

        assert status == 200
        answer = json.loads(content)
        click = {"query_id": answer["query_id"], "doc_id": answer["hits"][0]["doc_id"]}
        status, content = running.ask("POST", "/feedback", json.dumps(click).encode())
        assert status == 503, content
        assert b"nothing was stored, since the query log cannot be written now" in content
        assert b"disk is full; free some disk space" in content
        disk.make_room()
        status, content = running.ask("POST", "/feedback", json.dumps(click).encode())
        assert (status, json.loads(content)["stored"]) == (200, 1)


def _fill_to_the_last_page(disk: SmallDisk, data: WordDirectory) -> None:
    """What the log of the database has room for is used up by leases, which nobody misses."""
    disk.fill()
    for number in range(1_000):
        try:
            data.journal.lease(f"filling-{number}").release()
        except DatabaseUnavailable:
            return
    raise AssertionError("the disk is not full")


# -- files of our own ------------------------------------------------------------------------------


def test_an_ingest_stops_on_a_full_disk_and_goes_on(disk: SmallDisk, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(
        "".join(f'{{"id": "d{n}", "text": "{"word " * 400}{n}"}}\n' for n in range(5_000))
    )
    with WordDirectory(disk.folder / "data", run_worker=False) as data:
        disk.fill(leave_bytes=4_000_000)
        with pytest.raises(DatabaseUnavailable, match="disk is full; free some disk space"):
            ingest(data.corpus, open_source(str(source)))
        stored = data.corpus.count()
        assert stored == data.corpus.head() < 5_000
        assert look_at_disk(data.settings).state == "problem"
        disk.make_room()
        report = ingest(data.corpus, open_source(str(source)))
        assert (data.corpus.count(), report.added) == (5_000, 5_000 - stored)


def test_a_version_on_a_full_disk_is_not_registered(disk: SmallDisk, tmp_path: Path) -> None:
    registry = ModelRegistry(disk.folder / "models")
    folder = make_tiny_model(tmp_path / "model", dim=64)
    disk.fill(leave_bytes=30_000)
    with pytest.raises(TrainingError, match="No space left on device"):
        registry.register(folder, name="tiny")
    assert registry.list() == []
    disk.make_room()
    registry.register(folder, name="tiny")
    registry.verify("tiny@1")


def test_a_backup_to_a_full_disk_is_none(disk: SmallDisk, tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data", run_worker=False) as data:
        data.put_many(f"d{number}" for number in range(N_DOCUMENTS))
        disk.fill(leave_bytes=8_000)
        with pytest.raises(OURS, match="No space left on device"):
            make_backup(data, str(disk.folder / "backups"))
        assert list((disk.folder / "backups").glob("backups/*")) == []
        disk.make_room()
        assert make_backup(data, str(disk.folder / "backups")).backup.documents == N_DOCUMENTS


def test_a_training_on_a_full_disk_goes_on_from_its_checkpoint(
    disk: SmallDisk, tmp_path: Path
) -> None:
    from training.finetune import fine_tune

    world = make_judged_world(tmp_path / "world")
    registry = ModelRegistry(tmp_path / "models")
    base = registry.register(make_tiny_model(tmp_path / "base", kind="static"), name="base")
    steps: list[int] = []
    checkpoints = 0

    def fill_after_the_second(point: str) -> None:
        nonlocal checkpoints
        checkpoints += point == "training.checkpoint"
        if checkpoints == 2:
            disk.fill(leave_bytes=20_000)

    def train() -> ModelVersion | None:
        outcome = fine_tune(
            TrainingTask(
                recipe=TrainingRecipe(epochs=4, batch_size=32, dtype="fp32"),
                pairs_file=world.pairs,
                base=base,
                name="tuned",
                evaluation=None,
                command="reindexer train ...",
            ),
            registry=registry,
            work=disk.folder / "work",
            device="cpu",
            encoder_dtype="fp32",
            on_progress=lambda stage, done, _total, _text: (
                steps.append(done) if stage == "train" else None
            ),
        )
        return None if outcome is None else outcome.version

    kill_points.listen(fill_after_the_second)
    try:
        with pytest.raises(TrainingFailed, match=r"is full: .* Make room .* goes on from the last"):
            train()
    finally:
        kill_points.listen(None)
    disk.make_room()
    before = max(steps)
    steps.clear()
    assert train() is not None
    assert 0 < steps[0] <= before
