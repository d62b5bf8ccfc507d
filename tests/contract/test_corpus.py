"""What the corpus promises, on SQLite and on PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search import tables
from search.corpus import Corpus
from search.database import Database
from search.documents import Change, Document
from search.errors import DatabaseError

REUSED_FIXTURE = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def corpus(database: Database) -> Corpus:
    return Corpus(database)


def doc(doc_id: str, text: str = "text", **fields: object) -> Document:
    return Document.of(doc_id=doc_id, text=text, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE documents; --", "' OR '1'='1", "%", "_", "\\", ":seq", "%(seq)s", "{}", "$1"],
)
def test_sql_in_ids_sources_and_metadata_is_text(corpus: Corpus, text: str) -> None:
    corpus.put([doc("other")])
    hostile = doc(text, text, title=text, metadata={text: text}, source=text)

    corpus.put([hostile])

    assert corpus.get(text) == hostile
    assert corpus.get_many([text, "other"]).keys() == {text, "other"}
    assert list(corpus.doc_ids(text)) == [text]
    assert dict(corpus.sources()) == {"default": 1, text: 1}
    assert corpus.delete([text], source=text).deleted == 1
    assert corpus.count() == 1


def test_put_counts_what_is_new_changed_and_unchanged(corpus: Corpus) -> None:
    corpus.put([doc("a"), doc("b")])

    result = corpus.put([doc("a"), doc("b", "edited"), doc("c")])

    assert (result.added, result.changed, result.unchanged) == (1, 1, 1)
    assert result.head_seq == corpus.head() == 4


def test_an_unchanged_document_takes_no_seq(corpus: Corpus) -> None:
    first = corpus.put([doc("a", title="T", metadata={"year": 2, "tags": ["x", "y"]})])
    again = corpus.put([doc("a", title="T", metadata={"tags": ("x", "y"), "year": 2.0})])

    assert again.unchanged == 1
    assert first.head_seq == again.head_seq == 1
    assert corpus.changes(1, 10) == []


@pytest.mark.parametrize(
    "edit",
    [{"text": "other"}, {"title": "other"}, {"metadata": {"year": 3}}],
    ids=["text", "title", "metadata"],
)
def test_an_edit_of_any_part_is_a_change(corpus: Corpus, edit: dict[str, object]) -> None:
    fields: dict[str, object] = {"text": "text", "title": "T", "metadata": {"year": 2}}
    corpus.put([doc("a", **fields), doc("b", **fields)])  # type: ignore[arg-type]

    assert corpus.put([doc("a", **fields | edit)]).changed == 1  # type: ignore[arg-type]
    assert [(change.seq, change.doc_id) for change in corpus.changes(0, 10)] == [(2, "b"), (3, "a")]


def test_a_delete_leaves_a_tombstone_with_the_next_seq(corpus: Corpus) -> None:
    corpus.put([doc("a"), doc("b")])

    result = corpus.delete(["a"])

    assert (result.deleted, result.head_seq) == (1, 3)
    assert corpus.changes(2, 10) == [Change(seq=3, doc_id="a", content_hash="", document=None)]
    assert corpus.get("a") is None
    assert corpus.get_many(["a"]) == {}
    assert corpus.count() == 1


def test_a_tombstone_keeps_nothing_of_the_document(corpus: Corpus, database: Database) -> None:
    corpus.put([doc("a", "private", title="private", metadata={"name": "private"})])
    corpus.delete(["a"])

    with database.read() as connection:
        row = connection.execute(sa.select(tables.documents)).one()
    assert "private" not in str(row)


def test_deleting_what_is_not_there_takes_no_seq(corpus: Corpus) -> None:
    corpus.put([doc("a")])
    corpus.delete(["a"])

    assert corpus.delete(["a", "never", "a"]) == corpus.delete([])
    assert corpus.head() == 2


def test_a_deleted_document_can_be_put_again(corpus: Corpus) -> None:
    corpus.put([doc("a")])
    corpus.delete(["a"])

    assert corpus.put([doc("a")]).added == 1
    assert corpus.get("a") == doc("a")
    assert corpus.head() == 3


def test_a_document_is_not_moved_to_another_source(corpus: Corpus) -> None:
    corpus.put([doc("a", "mine", source="one")])

    result = corpus.put([doc("a", "theirs", source="two"), doc("b", source="two")])

    assert result.refused == {"a": "one"}
    assert (result.added, result.changed, result.unchanged) == (1, 0, 0)
    assert corpus.get("a") == doc("a", "mine", source="one")


def test_any_source_may_put_what_was_deleted(corpus: Corpus) -> None:
    corpus.put([doc("a", source="one")])
    corpus.delete(["a"])

    assert corpus.put([doc("a", source="two")]).refused == {}
    assert corpus.sources() == [("two", 1)]


def test_delete_can_be_held_to_one_source_and_one_moment(corpus: Corpus) -> None:
    corpus.put([doc("a", source="one"), doc("b", source="two"), doc("c", source="one")])
    moment = corpus.head()
    corpus.put([doc("c", "edited since", source="one")])

    assert corpus.delete(["a", "b", "c"], source="one", until=moment).deleted == 1
    assert [change.doc_id for change in corpus.changes(0, 10) if change.document] == ["b", "c"]


def test_of_two_documents_with_one_id_in_one_put_the_last_counts(corpus: Corpus) -> None:
    result = corpus.put([doc("a", "first"), doc("b"), doc("a", "last")])

    assert (result.added, result.head_seq) == (2, 2)
    assert corpus.get("a") == doc("a", "last")


def test_a_put_that_fails_stores_nothing(corpus: Corpus) -> None:
    corpus.put([doc("a")])
    unstorable = Document(doc_id="c", text="half a pair: \ud800")

    with pytest.raises((DatabaseError, UnicodeEncodeError)):
        corpus.put([doc("b"), unstorable])

    assert corpus.head() == corpus.count() == 1
    assert corpus.put([doc("b")]).head_seq == 2


def test_changes_come_in_seq_order_a_page_at_a_time(corpus: Corpus) -> None:
    corpus.put([doc(f"d{i}") for i in range(10)])
    corpus.put([doc("d3", "edited")])

    pages = [corpus.changes(0, 4), corpus.changes(5, 4), corpus.changes(9, 4)]

    assert [[c.seq for c in page] for page in pages] == [[1, 2, 3, 5], [6, 7, 8, 9], [10, 11]]
    assert [c.seq for c in corpus.changes(0, 100, until=6)] == [1, 2, 3, 5, 6]
    assert corpus.changes(11, 4) == []


def test_counts_and_lag_speak_of_a_moment(corpus: Corpus) -> None:
    corpus.put([doc(f"d{i}") for i in range(10)])
    corpus.delete(["d0", "d9"])

    assert corpus.count() == 8
    assert corpus.count(until=5) == 4  # d0 is a tombstone with a later seq
    assert corpus.lag(0) == 10
    assert corpus.lag(10) == 2
    assert corpus.lag(corpus.head()) == 0


def test_an_empty_corpus_answers(corpus: Corpus) -> None:
    assert corpus.head() == corpus.count() == corpus.lag(0) == 0
    assert corpus.changes(0, 10) == corpus.sources() == list(corpus.identities()) == []
    assert corpus.put([]).head_seq == 0
    assert corpus.get_many([]) == {}


def test_get_many_returns_the_live_ones_with_their_seq(corpus: Corpus) -> None:
    corpus.put([doc(f"d{i}") for i in range(1_200)])
    corpus.delete(["d7"])

    found = corpus.get_many([f"d{i}" for i in range(1_200)] + ["d3", "unknown"])

    assert len(found) == 1_199
    assert found["d1000"].seq == 1_001
    assert found["d1000"].document == doc("d1000")
    assert found["d1000"].content_hash == doc("d1000").content_hash


def test_a_large_put_does_what_small_ones_do(corpus: Corpus, database: Database) -> None:
    """New, put again after a delete, edited, unchanged and refused, past the size from which
    PostgreSQL copies rows."""
    n = 200
    awkward = "tab\t, backslash \\N \\., quote ', line\nend, \r\n, \u2028 \U0001f600"
    corpus.put([doc(f"d{i:03}", source="other" if i < 5 else "default") for i in range(n)])
    corpus.delete([f"d{i:03}" for i in range(100, 180)])
    head = corpus.head()

    result = corpus.put([doc(f"d{i:03}", awkward if i < 90 else "text") for i in range(2 * n)])

    assert (result.added, result.changed, result.unchanged) == (n + 80, 85, 30)
    assert set(result.refused) == {f"d{i:03}" for i in range(5)}
    changes = corpus.changes(head, 1_000)
    assert [change.seq for change in changes] == list(range(head + 1, result.head_seq + 1))
    assert len(changes) == n + 80 + 85
    assert corpus.get("d050") == doc("d050", awkward)
    assert corpus.get("d150") == doc("d150")
    assert corpus.count() == 2 * n
    with database.read() as connection:
        nulls = connection.execute(
            sa.select(sa.func.count()).where(tables.documents.c.changed_at.is_(None))
        ).scalar_one()
    assert nulls == 0


def test_a_large_put_that_fails_stores_nothing(corpus: Corpus, database: Database) -> None:
    """Somebody has written past the head: the seq that comes next is taken."""
    corpus.put([doc("a"), doc("b")])
    with database.write() as connection:
        connection.execute(sa.update(tables.corpus_head).values(seq=1))

    with pytest.raises(DatabaseError, match="seq"):
        corpus.put([doc(f"d{i}") for i in range(200)])

    assert corpus.count() == 2
    assert corpus.head() == 1


def test_identities_stream_every_row(corpus: Corpus) -> None:
    corpus.put([doc(f"d{i}") for i in range(10)])
    corpus.delete(["d0"])

    rows = list(corpus.identities(batch=3))

    assert [row.seq for row in rows] == list(range(2, 12))
    assert [row.doc_id for row in rows if row.deleted] == ["d0"]
    assert rows[0].content_hash == doc("d1").content_hash
    assert [row.seq for row in corpus.identities(until=4, batch=3)] == [2, 3, 4]


def test_sources_and_their_ids_leave_tombstones_out(corpus: Corpus) -> None:
    ids = {f"d{i}" for i in range(10)} | {"Ä", "a b", "Z", "é"}
    corpus.put([doc(doc_id, source="one") for doc_id in ids])
    corpus.put([doc("other", source="two")])
    corpus.delete(["d3"])

    assert corpus.sources() == [("one", 13), ("two", 1)]
    found = list(corpus.doc_ids("one", batch=3))
    assert len(found) == 13
    assert set(found) == ids - {"d3"}


scalars = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1)
documents = st.builds(
    lambda text, title, metadata: Document.of(
        doc_id="a", text=text + "!", title=title, metadata=metadata
    ),
    texts,
    texts,
    st.dictionaries(texts, scalars | st.lists(scalars, max_size=3), max_size=4),
)


@REUSED_FIXTURE
@given(document=documents)
def test_what_comes_out_is_what_went_in(corpus: Corpus, document: Document) -> None:
    corpus.put([document])

    found = corpus.get("a")

    assert found == document
    assert found.content_hash == document.content_hash
    assert corpus.put([found]).unchanged == 1


operations = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete"]),
        st.lists(
            st.tuples(st.sampled_from("abcd"), st.sampled_from(["one", "two"])),
            min_size=1,
            max_size=4,
        ),
        st.sampled_from(["x", "y"]),
    ),
    max_size=12,
)


@REUSED_FIXTURE
@given(operations=operations)
def test_a_follower_that_replays_the_changes_has_the_corpus(
    database: Database, corpus: Corpus, operations: list[tuple[str, list[tuple[str, str]], str]]
) -> None:
    _clear(database)
    expected: dict[str, Document] = {}
    follower: dict[str, Document] = {}
    watermark = 0
    for verb, targets, text in operations:
        if verb == "put":
            batch = {doc_id: doc(doc_id, text, source=source) for doc_id, source in targets}
            refused = {
                doc_id
                for doc_id, new in batch.items()
                if doc_id in expected and expected[doc_id].source != new.source
            }
            assert corpus.put(list(batch.values())).refused.keys() == refused
            expected |= {doc_id: new for doc_id, new in batch.items() if doc_id not in refused}
        else:
            corpus.delete([doc_id for doc_id, _ in targets])
            for doc_id, _ in targets:
                expected.pop(doc_id, None)
        for change in corpus.changes(watermark, 100):
            watermark = change.seq
            if change.document:
                follower[change.doc_id] = change.document
            else:
                follower.pop(change.doc_id, None)
        assert follower == expected
    assert watermark == corpus.head()
    assert corpus.count() == len(expected)


def _clear(database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.delete(tables.documents))
        connection.execute(sa.update(tables.corpus_head).values(seq=0))


class Follower:
    """Polls the log as a replay does, and notes every way in which it could lose a change."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.seqs: list[int] = []
        self.problems: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        after = 0
        while True:
            last_round = self._stop.is_set()
            head = self.corpus.head()
            seqs = [change.seq for change in self.corpus.changes(after, 1_000)]
            if seqs and seqs != list(range(after + 1, after + 1 + len(seqs))):
                self.problems.append(f"after {after} came {seqs[:5]}…")
            after = seqs[-1] if seqs else after
            if head > after and len(seqs) < 1_000:
                self.problems.append(f"the head was {head}, the last visible change {after}")
            self.seqs += seqs
            if last_round:
                return


def test_no_reader_sees_a_seq_before_the_one_below_it(corpus: Corpus) -> None:
    """Writers only insert, so every seq stays visible and a gap is a change that came late."""

    def write(writer: int) -> None:
        for i in range(25):
            corpus.put([doc(f"w{writer}-{i}-{j}") for j in range(1 + (i + writer) % 5)])

    with Follower(corpus) as follower, ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    assert follower.problems == []
    assert follower.seqs == list(range(1, corpus.head() + 1))
    assert corpus.head() == corpus.count() == 4 * 25 * 3


def test_writers_in_other_processes_keep_the_order_too(corpus: Corpus, database: Database) -> None:
    script = (
        "import sys\n"
        "from search.corpus import Corpus\n"
        "from search.database import Database\n"
        "from search.documents import Document\n"
        "corpus = Corpus(Database(sys.argv[1]))\n"
        "for i in range(60):\n"
        "    corpus.put([Document(doc_id=f'{sys.argv[2]}-{i}-{j}', text='x') for j in range(3)])\n"
    )
    with Follower(corpus) as follower:
        writers = [
            subprocess.Popen([sys.executable, "-c", script, database.url, str(number)])
            for number in range(2)
        ]
        assert [writer.wait(60) for writer in writers] == [0, 0]

    assert follower.problems == []
    assert follower.seqs == list(range(1, 2 * 60 * 3 + 1))


def test_writers_of_the_same_documents_do_not_collide(corpus: Corpus) -> None:
    ids = [f"d{i}" for i in range(8)]
    results: list[tuple[int, str]] = []  # head after the write, what it wrote

    def write(writer: int) -> None:
        for i in range(20):
            order = ids if writer % 2 else ids[::-1]  # the order that makes row locks deadlock
            if i % 7 == 6:
                corpus.delete(order[:3])
            text = f"{writer}-{i}"
            result = corpus.put([doc(doc_id, text) for doc_id in order])
            results.append((result.head_seq, text))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    last_text = max(results)[1]
    changes = corpus.changes(0, 100)
    assert {change.doc_id for change in changes} == set(ids)
    assert [change.document.text for change in changes if change.document] == [last_text] * 8
    assert [change.seq for change in changes] == list(range(corpus.head() - 7, corpus.head() + 1))


def test_of_two_sources_that_race_for_an_id_one_gets_it(corpus: Corpus) -> None:
    rounds = 25
    start = threading.Barrier(2)

    def write(source: str) -> list[bool]:
        won = []
        for i in range(rounds):
            start.wait()
            won.append(corpus.put([doc(f"d{i}", source, source=source)]).added == 1)
        return won

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.map(write, ["one", "two"])

    assert [a + b for a, b in zip(one, two, strict=True)] == [1] * rounds
    owners = [corpus.get(f"d{i}") for i in range(rounds)]
    assert [document and document.source == "one" for document in owners] == one


def test_a_reader_does_not_wait_for_a_writer(corpus: Corpus, database: Database) -> None:
    corpus.put([doc("a", "old")])
    with database.write() as connection:
        connection.execute(sa.update(tables.corpus_head).values(seq=99))
        started = time.monotonic()
        assert corpus.get("a") == doc("a", "old")
        assert corpus.head() == 1
        assert time.monotonic() - started < 5.0


def test_reads_use_an_index(corpus: Corpus, database: Database) -> None:
    corpus.put([doc(f"d{i}", f"text {i} " * 20) for i in range(3_000)])
    with database.engine.connect() as connection:
        connection.exec_driver_sql("ANALYZE")
        connection.commit()
    reads = {
        "changes": lambda: corpus.changes(2_900, 50),
        "lag": lambda: corpus.lag(2_900),
        "count": lambda: corpus.count(until=100),
        "identities": lambda: next(corpus.identities(until=100, batch=50)),
        "doc_ids": lambda: next(corpus.doc_ids("default", batch=50)),
    }
    explain, index, scan = (
        ("EXPLAIN QUERY PLAN ", "USING", "SCAN documents")
        if database.is_sqlite
        else ("EXPLAIN ", "Index", "Seq Scan")
    )
    statements = {name: _statement_of(database, read) for name, read in reads.items()}
    live = corpus._live_documents  # what get_many runs, past the engine's events
    statements["get_many"] = (live.sql, live.values(doc_ids=["d1", "d2"]))
    for name, (sql, parameters) in statements.items():
        with database.read() as connection:
            rows = connection.exec_driver_sql(explain + sql, parameters)
            plan = "\n".join(str(row[-1]) for row in rows)
        assert index in plan, f"{name}: {plan}"
        assert scan not in plan, f"{name}: {plan}"


def test_a_lookup_that_fails_raises_our_error(corpus: Corpus, database: Database) -> None:
    with database.write() as connection:
        connection.execute(sa.text("DROP TABLE documents"))
    with pytest.raises(DatabaseError, match="documents"):
        corpus.get("a")


def _statement_of(database: Database, read: Callable[[], object]) -> tuple[str, Any]:
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, sql: str, parameters: Any, *_rest: Any) -> None:
        statements.append((sql, parameters))

    sa.event.listen(database.engine, "before_cursor_execute", note)
    read()
    sa.event.remove(database.engine, "before_cursor_execute", note)
    return next(statement for statement in statements if statement[0].startswith("SELECT"))
