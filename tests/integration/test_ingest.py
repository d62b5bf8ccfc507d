"""Ingest: files on disk into a real corpus."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reindexer.ingest import MAX_KEPT_REJECTIONS, IngestProgress, IngestReport, ingest
from reindexer.sources import Rejected, Row, open_source
from search.corpus import Corpus
from search.database import open_database, sqlite_url
from search.documents import Document


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    database = open_database(sqlite_url(tmp_path / "reindexer.db"))
    yield Corpus(database)
    database.close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows (objects, or bytes as they are) as JSON Lines."""

    def write(*rows: dict[str, Any] | bytes, name: str = "docs.jsonl") -> Path:
        path = tmp_path / name
        lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write


Write = Callable[..., Path]


def row(doc_id: str, text: str = "text", **fields: Any) -> dict[str, Any]:
    return {"_id": doc_id, "text": text, **fields}


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return (
        report.added,
        report.changed,
        report.unchanged,
        report.deleted,
        report.rejected_total,
    )


def texts(corpus: Corpus) -> dict[str, str]:
    return {
        change.doc_id: change.document.text
        for change in corpus.changes(0, 10_000)
        if change.document
    }


def test_a_second_ingest_reports_what_is_different(corpus: Corpus, write: Write) -> None:
    first = ingest(corpus, open_source(write(row("a"), row("b"), row("c"))))
    second = ingest(corpus, open_source(write(row("a"), row("b", "edited"), row("d"))))

    assert counts(first) == (3, 0, 0, 0, 0)
    assert counts(second) == (1, 1, 1, 0, 0)
    assert texts(corpus) == {"a": "text", "c": "text", "b": "edited", "d": "text"}
    assert (first.head_seq, second.head_seq) == (3, 5)


def test_the_same_file_again_changes_nothing(corpus: Corpus, write: Write) -> None:
    path = write(*(row(f"d{i}", year=i, tags=["x"]) for i in range(100)))
    ingest(corpus, open_source(path), batch=7)

    again = ingest(corpus, open_source(path), batch=7, delete_missing=True)

    assert counts(again) == (0, 0, 100, 0, 0)
    assert again.head_seq == 100


def test_every_bad_row_is_reported_and_the_rest_goes_in(corpus: Corpus, write: Write) -> None:
    corpus.put([Document.of(doc_id="stored", text="kept")])
    path = write(
        row("first"),
        {"text": "no id"},
        row("first", "again"),
        b'{"_id": "x", "text": "caf\xe9"}',
        {"_id": "null", "text": None},
        row("huge", "x" * 10_000_001),
        b'{"_id": "broken", "text": ',
        row("stored", "kept"),
        row("last"),
    )

    report = ingest(corpus, open_source(path))

    assert counts(report) == (2, 0, 1, 0, 6)
    assert texts(corpus) == {"stored": "kept", "first": "text", "last": "text"}
    assert [(bad.where, bad.reason.split(":")[0].split(" (")[0]) for bad in report.rejected] == [
        ("docs.jsonl:2", "no id"),
        ("docs.jsonl:3", "duplicate id 'first'; the first one is at docs.jsonl"),
        ("docs.jsonl:4", "not UTF-8"),
        ("docs.jsonl:5", "the text is null"),
        (
            "docs.jsonl:6",
            "the text has 10,000,001 bytes, at most 10,000,000 are allowed; split the document",
        ),
        ("docs.jsonl:7", "broken JSON at character 27"),
    ]
    assert report.rejected[1].reason.endswith("is at docs.jsonl:1")


def test_the_report_as_json_has_the_promised_fields(corpus: Corpus, write: Write) -> None:
    report = ingest(corpus, open_source(write(row("a"), {"text": "t"}), name="mine"))

    value = json.loads(json.dumps(report.to_json()))

    assert value.pop("seconds") > 0
    assert value == {
        "source": "mine",
        "added": 1,
        "changed": 0,
        "unchanged": 0,
        "deleted": 0,
        "rejected": [
            {"where": "docs.jsonl:2", "reason": "no id: looked for _id, id, doc_id"},
        ],
        "rejected_total": 1,
        "head_seq": 1,
        "warnings": [],
        "passed_over": 0,
        "went_on": 0,
    }


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_the_first_of_two_rows_with_one_id_counts(corpus: Corpus, write: Write, batch: int) -> None:
    path = write(row("a", "first"), row("b"), row("a", "second"), row("a", "third"))

    report = ingest(corpus, open_source(path), batch=batch)

    assert texts(corpus)["a"] == "first"
    assert {bad.where for bad in report.rejected} == {"docs.jsonl:3", "docs.jsonl:4"}
    assert {bad.reason for bad in report.rejected} == {
        "duplicate id 'a'; the first one is at docs.jsonl:1"
    }


@pytest.mark.parametrize("batch", [1, 100])
def test_a_good_row_is_not_a_duplicate_of_a_rejected_one(
    corpus: Corpus, write: Write, batch: int
) -> None:
    path = write({"_id": "a", "text": None}, row("a", "good"))

    report = ingest(corpus, open_source(path), batch=batch)

    assert counts(report) == (1, 0, 0, 0, 1)
    assert texts(corpus) == {"a": "good"}


def test_a_document_of_another_source_is_rejected_with_both_names(
    corpus: Corpus, write: Write
) -> None:
    ingest(corpus, open_source(write(row("a", "theirs")), name="wiki"))

    report = ingest(corpus, open_source(write(row("a", "ours"), row("b")), name="tickets"))

    assert counts(report) == (1, 0, 0, 0, 1)
    assert report.rejected[0].where == "docs.jsonl:1"
    assert "'a' belongs to source 'wiki', this is source 'tickets'" in report.rejected[0].reason
    assert texts(corpus) == {"a": "theirs", "b": "text"}


# delete_missing


def test_what_the_source_no_longer_has_is_deleted(corpus: Corpus, write: Write) -> None:
    ingest(corpus, open_source(write(*(row(f"d{i}") for i in range(1_300)))))

    report = ingest(
        corpus, open_source(write(*(row(f"d{i}") for i in range(0, 1_300, 2)))), delete_missing=True
    )

    assert counts(report) == (0, 0, 650, 650, 0)
    assert report.head_seq == corpus.head() == 1_950
    assert texts(corpus).keys() == {f"d{i}" for i in range(0, 1_300, 2)}


def test_other_sources_are_left_alone(corpus: Corpus, write: Write) -> None:
    ingest(corpus, open_source(write(row("a")), name="wiki"))
    ingest(corpus, open_source(write(row("b"), row("c")), name="tickets"))

    report = ingest(corpus, open_source(write(row("b")), name="tickets"), delete_missing=True)

    assert report.deleted == 1
    assert texts(corpus).keys() == {"a", "b"}


def test_nothing_is_deleted_without_being_asked(corpus: Corpus, write: Write) -> None:
    ingest(corpus, open_source(write(row("a"), row("b"))))

    assert ingest(corpus, open_source(write(row("a")))).deleted == 0
    assert texts(corpus).keys() == {"a", "b"}


def test_a_rejected_row_protects_its_stored_document(corpus: Corpus, write: Write) -> None:
    ingest(corpus, open_source(write(row("a"), row("b"), row("c"))))

    report = ingest(
        corpus, open_source(write({"_id": "a", "text": None}, row("b"))), delete_missing=True
    )

    assert report.deleted == 1
    assert texts(corpus).keys() == {"a", "b"}


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([b'{"_id": "a", "text": '], "which document docs.jsonl:2 is cannot be told"),
        ([{"text": "no id"}], "no id: looked for"),
        ([b"\xff\xfe\xff"], "not UTF-8"),
    ],
)
def test_nothing_is_deleted_when_a_row_cannot_be_told(
    corpus: Corpus, write: Write, rows: list[Any], why: str
) -> None:
    ingest(corpus, open_source(write(row("a"), row("b"))))

    report = ingest(corpus, open_source(write(row("b"), *rows)), delete_missing=True)

    assert report.deleted == 0
    assert texts(corpus).keys() == {"a", "b"}
    (warning,) = report.warnings
    assert warning.startswith("nothing was deleted: ")
    assert why in warning
    assert "repair it and ingest again with --delete-missing" in warning


def test_nothing_is_deleted_when_the_source_is_empty(corpus: Corpus, write: Write) -> None:
    ingest(corpus, open_source(write(row("a"))))

    report = ingest(corpus, open_source(write()), delete_missing=True)

    assert counts(report) == (0, 0, 0, 0, 0)
    assert texts(corpus).keys() == {"a"}
    assert report.warnings == (
        "the source has no rows; nothing was read",
        "nothing was deleted: an empty source would delete every document of it; check the file",
    )


def test_nothing_is_deleted_when_the_source_breaks_off(
    corpus: Corpus, write: Write, tmp_path: Path
) -> None:
    rows = [row(f"d{i}", os.urandom(30).hex()) for i in range(2_000)]
    path = write(*rows)
    ingest(corpus, open_source(path))
    cut = tmp_path / "docs.jsonl.gz"
    cut.write_bytes(gzip.compress(path.read_bytes())[:-5_000])

    report = ingest(corpus, open_source(cut), delete_missing=True)

    assert report.deleted == 0
    assert report.unchanged > 1_000
    assert corpus.count() == 2_000
    assert "breaks off" in report.warnings[0]


class InterruptedSource:
    """Somebody else writes while it is read."""

    name = "default"
    share_read = None

    def __init__(self, between: Callable[[], object]) -> None:
        self._between = between

    def __iter__(self) -> Iterator[Row | Rejected]:
        yield Row(where="x:1", document=Document.of(doc_id="a", text="text"))
        self._between()
        yield Row(where="x:2", document=Document.of(doc_id="b", text="text"))


def test_what_others_write_meanwhile_is_not_deleted(corpus: Corpus) -> None:
    corpus.put([Document.of(doc_id=doc_id, text="old") for doc_id in ("gone", "edited")])

    report = ingest(
        corpus,
        InterruptedSource(
            lambda: corpus.put(
                [Document.of(doc_id=doc_id, text="new") for doc_id in ("added", "edited")]
            )
        ),
        delete_missing=True,
    )

    assert report.deleted == 1
    assert texts(corpus).keys() == {"a", "b", "added", "edited"}


def test_an_error_of_the_source_keeps_what_was_committed_and_deletes_nothing(
    corpus: Corpus,
) -> None:
    corpus.put([Document.of(doc_id="old", text="old")])

    def fail() -> None:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        ingest(corpus, InterruptedSource(fail), delete_missing=True, batch=1)
    assert texts(corpus).keys() == {"old", "a"}


ids = st.sampled_from("abcdef")
bad_rows = st.sampled_from([{"_id": "a", "text": None}, {"_id": "b", "text": "x\x00"}])
source_rows = st.lists(
    st.one_of(st.builds(row, ids, st.sampled_from(["x", "y"])), bad_rows), min_size=1, max_size=10
)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(ingests=st.lists(st.tuples(source_rows, st.integers(1, 4)), min_size=1, max_size=4))
def test_after_delete_missing_the_corpus_is_the_source(
    corpus: Corpus, write: Write, ingests: list[tuple[list[dict[str, Any]], int]]
) -> None:
    expected = texts(corpus)
    for rows, batch in ingests:
        report = ingest(corpus, open_source(write(*rows)), batch=batch, delete_missing=True)

        first = {}
        for value in rows:
            if value["text"] in ("x", "y"):
                first.setdefault(value["_id"], value["text"])
        seen = {value["_id"] for value in rows}
        before = {doc_id: text for doc_id, text in expected.items() if doc_id in seen}
        assert texts(corpus) == before | first
        assert report.deleted == len(expected) - len(before)
        assert report.added == len(first.keys() - expected.keys())
        assert report.added + report.changed + report.unchanged == len(first)
        assert report.rejected_total == len(rows) - len(first)
        expected = before | first


# large and interrupted


def test_only_the_first_rejected_rows_are_kept(corpus: Corpus, write: Write) -> None:
    rows = [row("good"), *({"text": "t"} for _ in range(MAX_KEPT_REJECTIONS + 5))]

    report = ingest(corpus, open_source(write(*rows)))

    assert report.rejected_total == MAX_KEPT_REJECTIONS + 5
    assert len(report.rejected) == MAX_KEPT_REJECTIONS
    assert report.warnings == ("1,005 rows were rejected; the first 1,000 are listed",)


def test_progress_is_told_after_each_batch(corpus: Corpus, write: Write) -> None:
    seen: list[IngestProgress] = []
    path = write(*(row(f"d{i}") for i in range(10)), {"text": "t"})

    ingest(corpus, open_source(path), batch=4, on_progress=seen.append)

    assert [(progress.rows, progress.rejected) for progress in seen] == [(4, 0), (8, 0), (11, 1)]
    assert all(p.share_read is None or 0 <= p.share_read <= 1 for p in seen)


def test_a_killed_ingest_goes_on_where_it_was(tmp_path: Path, corpus: Corpus, write: Write) -> None:
    n_docs = 20_000
    path = write(*(row(f"d{i}", f"text {i}") for i in range(n_docs)))
    url = sqlite_url(tmp_path / "reindexer.db")
    script = (
        "import sys\n"
        "from reindexer.ingest import ingest\n"
        "from reindexer.sources import open_source\n"
        "from search.corpus import Corpus\n"
        "from search.database import Database\n"
        "ingest(Corpus(Database(sys.argv[1])), open_source(sys.argv[2]), batch=100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, url, str(path)])
    deadline = time.monotonic() + 60
    while corpus.head() < 500 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    stored = corpus.count()

    report = ingest(corpus, open_source(path))

    assert 500 <= stored < n_docs
    assert stored % 100 == 0
    assert counts(report) == (n_docs - stored, 0, stored, 0, 0)
    assert corpus.head() == corpus.count() == n_docs
