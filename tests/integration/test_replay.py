"""Replay against a real corpus and a real embedded collection, stopped at every boundary."""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reindexer.replay import Replay, ReplayProgress
from search.corpus import Corpus
from search.database import Database, open_database, sqlite_url
from search.dense import CollectionSpec, DenseCollection, FloatMatrix, Point
from search.dense_edge import EdgeStore
from search.documents import Change, Document
from search.errors import LeaseLost, StoreUnavailable
from search.recipe import SplitterRecipe
from search.splitter import Splitter
from tests.word_encoder import WordEncoder
from training.errors import EncodingFailed

WINDOW = 8  # documents
RECIPE = SplitterRecipe(max_tokens=12, overlap_tokens=2)
LONG = "one two three four five six seven eight nine ten " * 4  # several passages


class World:
    """A corpus, one collection, and a model: what a replay brings together."""

    def __init__(self, folder: Path) -> None:
        self.database: Database = open_database(sqlite_url(folder / "reindexer.db"))
        self.corpus = Corpus(self.database)
        self.encoder = WordEncoder()
        self.splitter = Splitter(RECIPE, self.encoder)
        self.store = EdgeStore(folder / "collections")
        self.spec = CollectionSpec(generation="docs@1", fingerprint="f", dim=self.encoder.dim)
        self.collection: DenseCollection = self.store.create("docs-1", self.spec)
        self.watermark = 0

    def put(self, doc_id: str, text: str, title: str = "", **metadata: Any) -> None:
        self.corpus.put([Document.of(doc_id=doc_id, text=text, title=title, metadata=metadata)])

    def put_many(self, n_documents: int, start: int = 0) -> None:
        self.corpus.put(
            [
                Document.of(doc_id=f"d{number}", text=f"text {number} {LONG[: number % 90]}")
                for number in range(start, start + n_documents)
            ]
        )

    def replay(
        self,
        *,
        until: int | None = None,
        fresh_until: int = 0,
        window: int = WINDOW,
        collection: DenseCollection | None = None,
        corpus: Corpus | None = None,
        checkpoint: Callable[[ReplayProgress], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> ReplayProgress:
        """From the watermark to the head."""

        def acknowledge(progress: ReplayProgress) -> None:
            if checkpoint is not None:
                checkpoint(progress)
            assert progress.watermark > self.watermark
            self.watermark = progress.watermark

        replay = Replay(
            corpus=corpus or self.corpus,
            collection=collection or self.collection,
            encoder=cast(Any, self.encoder),
            splitter=self.splitter,
            window=window,
            checkpoint=acknowledge,
            check=check,
        )
        head = self.corpus.head() if until is None else until
        return replay.run(self.watermark, head, fresh_until=fresh_until)

    def reopen(self) -> None:
        """As after the death of the process: nothing but what is on disk."""
        self.collection.close()
        self.collection = self.store.open("docs-1", "f")

    def assert_equal_to_corpus(self) -> None:
        """Every passage of every document, and nothing else, each with the right vector."""
        found = {
            (point.doc_id, point.number): (point, vector)
            for points, vectors in self.collection.scan()
            for point, vector in zip(points, vectors, strict=True)
        }
        expected = {}
        for change in self.corpus.changes(0, 1_000_000):
            if change.document is None:
                continue
            for passage in self.splitter.split(change.document):
                point = Point(
                    doc_id=change.doc_id,
                    number=passage.number,
                    count=passage.count,
                    seq=change.seq,
                    content_hash=change.content_hash,
                    text_hash=passage.text_hash,
                    start=passage.start,
                    end=passage.end,
                    metadata=change.document.metadata,
                )
                (vector,) = WordEncoder().encode_documents([passage.text])
                expected[change.doc_id, passage.number] = (point, vector)
        assert {key: point for key, (point, _) in found.items()} == {
            key: point for key, (point, _) in expected.items()
        }
        for key, (_, vector) in expected.items():
            np.testing.assert_allclose(found[key][1], vector, atol=1e-5)

    def close(self) -> None:
        self.collection.close()
        self.database.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


# -- what it leaves behind -------------------------------------------------------------------------


def test_a_build_from_nothing_equals_the_corpus(world: World) -> None:
    world.put_many(50)
    world.put("long", LONG, title="A title", year=1999, tags=["a", "b"])
    world.corpus.delete(["d3"])
    head = world.corpus.head()

    progress = world.replay(fresh_until=head)

    world.assert_equal_to_corpus()
    assert progress.watermark == world.watermark == head
    assert (progress.documents, progress.deletes, progress.reused) == (50, 1, 0)
    assert progress.passages == progress.encoded == world.collection.count()
    assert world.encoder.n_encoded == progress.encoded


def test_an_edit_replaces_the_old_passages(world: World) -> None:
    world.put("a", LONG)
    world.put("b", "untouched")
    world.replay()

    world.put("a", LONG.replace("three", "drei"))
    progress = world.replay()

    world.assert_equal_to_corpus()
    assert progress.documents == 1


def test_a_shorter_edit_leaves_no_stray_passage(world: World) -> None:
    world.put("a", LONG)
    world.replay()
    assert world.collection.count() > 2

    world.put("a", "short")
    world.replay()

    world.assert_equal_to_corpus()
    assert world.collection.count() == 1


def test_a_delete_removes_every_passage(world: World) -> None:
    world.put("a", LONG)
    world.put("b", "stays")
    world.replay()

    world.corpus.delete(["a"])
    progress = world.replay()

    world.assert_equal_to_corpus()
    assert world.collection.count() == 1
    assert (progress.documents, progress.deletes, progress.encoded) == (0, 1, 0)


def test_a_document_that_is_deleted_and_put_again_is_there(world: World) -> None:
    world.put("a", LONG)
    world.replay()
    world.corpus.delete(["a"])
    world.replay()

    world.put("a", "back again")
    world.replay()
    world.assert_equal_to_corpus()

    world.corpus.delete(["a"])
    world.put("a", LONG)  # both between two replays
    world.replay()
    world.assert_equal_to_corpus()


def test_a_change_of_metadata_encodes_nothing_and_shows(world: World) -> None:
    world.put("a", LONG, year=1999)
    world.put("b", "text", year=1999)
    world.replay()
    encoded_before = world.encoder.n_encoded

    world.put("a", LONG, year=2026)
    progress = world.replay()

    world.assert_equal_to_corpus()
    assert world.encoder.n_encoded == encoded_before
    assert (progress.encoded, progress.reused) == (0, progress.passages)
    points, _ = world.collection.stored(["a"])
    assert {point.metadata["year"] for point in points} == {2026}


def test_only_the_passages_that_changed_are_encoded(world: World) -> None:
    world.put("a", LONG)
    world.replay()

    world.put("a", LONG.replace("ten", "TEN", 1))
    progress = world.replay()

    world.assert_equal_to_corpus()
    assert progress.reused > 0
    assert 0 < progress.encoded < progress.passages


def test_a_changed_title_is_encoded_again(world: World) -> None:
    world.put("a", "text", title="old")
    world.replay()

    world.put("a", "text", title="new")

    assert world.replay().encoded == 1
    world.assert_equal_to_corpus()


def test_changes_that_arrive_during_a_build_end_up_right(world: World) -> None:
    world.put_many(60)
    start_head = world.corpus.head()
    rng = random.Random(4)
    changes_left = 25

    def change_something(_progress: ReplayProgress) -> None:
        nonlocal changes_left
        for _ in range(min(changes_left, 5)):
            changes_left -= 1
            doc_id = f"d{rng.randrange(60)}"
            if rng.random() < 0.3:
                world.corpus.delete([doc_id])
            else:
                world.put(doc_id, f"edited {rng.random()} {LONG[: rng.randrange(150)]}")

    world.replay(until=start_head, fresh_until=start_head, checkpoint=change_something)
    while world.watermark < world.corpus.head():
        world.replay()

    assert changes_left == 0
    world.assert_equal_to_corpus()


def test_the_last_version_of_a_document_that_moves_while_it_is_read_is_what_stays(
    world: World,
) -> None:
    """Each page of the log that is read finds the document edited once more."""
    world.put_many(30)
    until = world.corpus.head()

    class Moving(Corpus):
        def changes(self, after: int, limit: int, until: int | None = None) -> list[Change]:
            page = super().changes(after, limit, until)
            if page and page[0].seq < 30:
                world.put("d29", f"edited after {page[0].seq}")
            return page

    world.replay(until=until, corpus=Moving(world.database))
    world.replay()

    world.assert_equal_to_corpus()


def test_documents_of_any_shape_go_through(world: World) -> None:
    world.put("empty-text", "", title="only a title")
    world.put("space", "   word   ")
    world.put("one-word", "x" * 5_000)
    world.put("unicode", "naïve café 東京 \U0001f600 " * 20)
    world.put("many", "word " * 3_000)

    world.replay(fresh_until=world.corpus.head())

    world.assert_equal_to_corpus()


def test_with_nothing_to_do_nothing_is_read(world: World) -> None:
    world.put_many(3)
    world.replay()

    class Unreadable(Corpus):
        def changes(self, *_range: Any, **_until: Any) -> list[Change]:
            raise AssertionError("the log was read")

    progress = world.replay(corpus=Unreadable(world.database))

    assert (progress.watermark, progress.documents, progress.encoded) == (world.watermark, 0, 0)


def test_changes_past_the_end_of_the_range_wait(world: World) -> None:
    world.put_many(10)

    progress = world.replay(until=6)

    assert (progress.watermark, progress.documents) == (6, 6)
    points = [point for page in world.collection.scan_points() for point in page]
    assert {point.doc_id for point in points} == {f"d{number}" for number in range(6)}


# -- stopped at every boundary ---------------------------------------------------------------------


class Crash(BaseException):
    """The process dies here."""


class CrashingCollection:
    """The real collection, and a process that dies at one of its calls."""

    def __init__(self, collection: DenseCollection, where: str, call: int) -> None:
        self._collection = collection
        self._where = where
        self._calls_left = call

    def _maybe_crash(self, where: str) -> None:
        if where == self._where:
            self._calls_left -= 1
            if self._calls_left == 0:
                raise Crash(where)

    def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
        self._maybe_crash("before upsert")
        half = len(points) // 2
        self._collection.upsert(points[:half], vectors[:half])
        self._maybe_crash("during upsert")
        self._collection.upsert(points[half:], vectors[half:])
        self._maybe_crash("after upsert")

    def remove_older(self, seqs: Mapping[str, int]) -> None:
        self._maybe_crash("before removal")
        some = dict(list(seqs.items())[::2])
        self._collection.remove_older(some)
        self._maybe_crash("during removal")
        self._collection.remove_older(seqs)
        self._maybe_crash("after removal")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._collection, name)


BOUNDARIES = [
    "before upsert",
    "during upsert",
    "after upsert",
    "before removal",
    "during removal",
    "after removal",
    "checkpoint",
]


@pytest.mark.parametrize("call", [1, 3])
@pytest.mark.parametrize("where", BOUNDARIES)
def test_a_crash_at_any_boundary_is_made_good_by_running_again(
    world: World, where: str, call: int
) -> None:
    world.put_many(40)
    world.replay()
    for number in range(0, 40, 2):
        world.put(f"d{number}", f"edited {number} {LONG[:number]}", year=number)
    world.corpus.delete([f"d{number}" for number in range(1, 40, 4)])
    encoded_before = world.encoder.n_encoded
    crashing = CrashingCollection(world.collection, where, call)
    checkpoint_calls = 0

    def checkpoint(_progress: ReplayProgress) -> None:
        nonlocal checkpoint_calls
        checkpoint_calls += 1
        if where == "checkpoint" and checkpoint_calls == call:
            raise Crash(where)

    with pytest.raises(Crash, match=where):
        world.replay(collection=cast(DenseCollection, crashing), checkpoint=checkpoint)
    world.reopen()
    again = world.replay()

    world.assert_equal_to_corpus()
    assert world.watermark == again.watermark == world.corpus.head()
    needed = sum(
        len(world.splitter.split(change.document))
        for change in world.corpus.changes(0, 1_000)
        if change.document is not None and change.seq > 40
    )
    encoded_again = world.encoder.n_encoded - encoded_before - needed
    passages_of_a_document = 2  # at most, of these
    assert encoded_again <= WINDOW * passages_of_a_document


@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_a_crash_costs_at_most_one_window_of_encoding(world: World, window: int) -> None:
    """While one unit is being written for very long, the model does not run far ahead."""
    world.corpus.put([Document.of(doc_id=f"d{n}", text=f"text {n}") for n in range(60)])

    class Hanging(CrashingCollection):
        def upsert(self, points: Sequence[Point], vectors: FloatMatrix) -> None:
            if points[0].seq > 20:
                time.sleep(0.3)  # long enough to encode everything
                raise Crash("hanging")
            super().upsert(points, vectors)

    hanging = cast(DenseCollection, Hanging(world.collection, "nowhere", 0))
    with pytest.raises(Crash):
        world.replay(window=window, collection=hanging, fresh_until=60)

    assert world.encoder.n_encoded - world.watermark <= window
    world.reopen()
    world.replay(window=window, fresh_until=60)
    world.assert_equal_to_corpus()
    assert world.encoder.n_encoded <= 60 + window


def test_a_build_that_stopped_goes_on_with_what_was_edited_meanwhile(world: World) -> None:
    """The half-written unit holds versions that the log no longer has."""
    world.put_many(40)
    start_head = world.corpus.head()
    crashing = CrashingCollection(world.collection, "after upsert", 3)
    with pytest.raises(Crash):
        world.replay(collection=cast(DenseCollection, crashing), fresh_until=start_head)
    for number in range(40):
        if number % 3 == 0:
            world.put(f"d{number}", "short")
        if number % 3 == 1:
            world.corpus.delete([f"d{number}"])

    world.reopen()
    world.replay(until=start_head, fresh_until=start_head)
    world.replay()

    world.assert_equal_to_corpus()


# -- errors ----------------------------------------------------------------------------------------


def test_an_encoding_error_names_the_document(world: World) -> None:
    world.put_many(20)
    world.put("bad", f"{LONG} and then poison at the end")
    world.put_many(5, start=20)
    world.encoder.fails_on = "poison"

    with pytest.raises(EncodingFailed, match=r"document 'bad', passage [1-9]: text \d+ could not"):
        world.replay()

    world.encoder.fails_on = None
    world.replay()
    world.assert_equal_to_corpus()


def test_what_was_encoded_before_an_encoding_error_is_kept(world: World) -> None:
    world.put_many(20)
    world.put("bad", "poison")
    world.encoder.fails_on = "poison"

    with pytest.raises(EncodingFailed):
        world.replay()

    assert world.watermark >= 16


@pytest.mark.parametrize("n_documents", [1, 4, 40])
def test_an_error_of_the_writer_comes_out(world: World, n_documents: int) -> None:
    world.put_many(n_documents)

    class Failing(CrashingCollection):
        def upsert(self, *_points: Any) -> None:
            raise StoreUnavailable("the store is gone")

    with pytest.raises(StoreUnavailable, match="the store is gone"):
        world.replay(collection=cast(DenseCollection, Failing(world.collection, "", 0)))

    assert world.watermark == 0
    assert not [thread for thread in threading.enumerate() if "replay" in thread.name]


def test_an_error_of_the_reader_comes_out(world: World) -> None:
    world.put_many(40)

    class Broken(Corpus):
        def changes(self, after: int, limit: int, until: int | None = None) -> list[Change]:
            if after > 10:
                raise StoreUnavailable("the database is gone")
            return super().changes(after, limit, until)

    with pytest.raises(StoreUnavailable, match="the database is gone"):
        world.replay(corpus=Broken(world.database))

    world.replay()
    world.assert_equal_to_corpus()


def test_of_two_errors_at_once_neither_is_lost(world: World) -> None:
    world.put_many(4)
    world.put("bad", "poison")
    world.encoder.fails_on = "poison"

    class Failing(CrashingCollection):
        def upsert(self, *_points: Any) -> None:
            time.sleep(0.2)  # the encoder fails meanwhile
            raise StoreUnavailable("the store is gone")

    with pytest.raises(EncodingFailed) as caught:
        world.replay(collection=cast(DenseCollection, Failing(world.collection, "", 0)))

    assert "the store is gone" in "".join(caught.value.__notes__)


def test_a_lost_lease_stops_before_the_next_write(world: World) -> None:
    world.put_many(40)
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise LeaseLost("somebody else has it")

    with pytest.raises(LeaseLost):
        world.replay(check=check)

    assert world.watermark == 2 * (WINDOW // 2)
    points = [point for page in world.collection.scan_points() for point in page]
    assert max(point.seq for point in points) == world.watermark


def test_a_refused_checkpoint_stops_the_replay(world: World) -> None:
    world.put_many(40)

    def refuse(_progress: ReplayProgress) -> None:
        raise LeaseLost("somebody else has it")

    with pytest.raises(LeaseLost):
        world.replay(checkpoint=refuse)

    assert world.watermark == 0


def test_a_late_writer_does_not_undo_what_a_newer_one_wrote(world: World) -> None:
    """A process that was stopped in the middle of a write goes on after another took over."""
    world.put("a", LONG)
    old = world.corpus.changes(0, 10)[0]
    world.replay()
    world.put("a", "newer")
    world.replay()

    assert old.document is not None
    passages = world.splitter.split(old.document)
    first = passages[0]
    late = Point(
        doc_id="a", number=0, count=len(passages), seq=old.seq, content_hash=old.content_hash,
        text_hash=first.text_hash, start=first.start, end=first.end, metadata={},
    )  # fmt: skip
    world.collection.upsert([late], WordEncoder().encode_documents([first.text]))
    world.collection.remove_older({"a": old.seq})

    world.assert_equal_to_corpus()


# -- anything, in any order ------------------------------------------------------------------------

DOC_IDS = st.integers(0, 11).map(lambda number: f"d{number}")
TEXTS = st.integers(0, 6).map(lambda size: f"v{size} " + LONG[: size * 30])


class AnyHistory(RuleBasedStateMachine):
    """Puts, edits, deletes, replays and crashes in any order, against a dict as the truth."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.world = World(Path(tempfile.mkdtemp(dir=self.folder)))
        self.truth: dict[str, tuple[str, int]] = {}
        self.in_step = True

    @rule(doc_id=DOC_IDS, text=TEXTS, year=st.integers(0, 2))
    def put(self, doc_id: str, text: str, year: int) -> None:
        self.world.put(doc_id, text, year=year)
        self.truth[doc_id] = (text.strip(), year)
        self.in_step = False

    @rule(doc_id=DOC_IDS)
    def delete(self, doc_id: str) -> None:
        self.world.corpus.delete([doc_id])
        self.truth.pop(doc_id, None)
        self.in_step = False

    @rule(window=st.sampled_from([1, 2, 3, 8]))
    def replay(self, window: int) -> None:
        self.world.replay(window=window)
        self.in_step = True

    @rule(
        where=st.sampled_from(BOUNDARIES[:-1]),
        call=st.integers(1, 3),
        window=st.sampled_from([1, 2, 8]),
    )
    def crash(self, where: str, call: int, window: int) -> None:
        crashing = CrashingCollection(self.world.collection, where, call)
        try:
            self.world.replay(collection=cast(DenseCollection, crashing), window=window)
        except Crash:
            self.world.reopen()

    @invariant()
    def equal_when_in_step(self) -> None:
        if not hasattr(self, "world") or not self.in_step:
            return
        self.world.assert_equal_to_corpus()
        found: dict[str, int] = {}
        for points in self.world.collection.scan_points():
            for point in points:
                found[point.doc_id] = cast(int, point.metadata["year"])
        assert found == {doc_id: year for doc_id, (_, year) in self.truth.items()}

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.close()


def test_any_history_ends_in_what_the_corpus_holds(tmp_path: Path) -> None:
    AnyHistory.folder = tmp_path
    state_machine = AnyHistory.TestCase
    state_machine.settings = settings(
        max_examples=10,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    state_machine().runTest()
