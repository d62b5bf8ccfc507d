"""Sources of every kind that hold bad input, and the promise that `ingest` keeps with them: what is
said to be stored is stored as the source has it, and nothing else is.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from hypothesis import strategies as st

from reindexer.errors import ReindexerError
from reindexer.ingest import ingest
from reindexer.sources import DocumentSource, Positions, Row, open_source, sql
from search import tables
from search.corpus import Corpus
from search.database import open_database
from search.documents import Document
from search.errors import SearchError
from tests import bad_inputs as bad
from training.errors import TrainingError
from training.judgments import count_documents, read_documents, read_judgments, splits

OURS = (SearchError, ReindexerError, TrainingError)

Check = Callable[[Any], None]
Ingested = Callable[[Callable[[], DocumentSource]], None]


@contextmanager
def scratch_corpus() -> Iterator[Ingested]:
    """Ingests a source into an empty corpus in memory, and compares what is there then with what
    the source has and with what the report says."""
    database = open_database("sqlite://")
    corpus = Corpus(database)

    def check(opened: Callable[[], DocumentSource]) -> None:
        with suppress(*OURS):
            _check_ingest(corpus, opened, Positions(database))
        with database.write() as connection:
            connection.execute(sa.delete(tables.documents))
            connection.execute(sa.delete(tables.positions))

    try:
        yield check
    finally:
        database.close()


def _check_ingest(
    corpus: Corpus, opened: Callable[[], DocumentSource], positions: Positions
) -> None:
    source = opened()
    wanted: dict[str, Document | None] = {}
    n_rows, broke_off = 0, True
    with suppress(*OURS):
        for row in source:
            n_rows += 1
            if isinstance(row, Row):
                wanted.setdefault(row.document.doc_id, row.document)
        broke_off = False
    head = corpus.head()
    try:
        report = ingest(corpus, opened(), positions=positions)
    except OURS:
        assert broke_off
        stored = _stored(corpus, head)
        assert corpus.head() == head + len(stored)
        assert stored.items() <= wanted.items()
        raise
    assert not broke_off
    assert (report.added, report.changed, report.unchanged) == (len(wanted), 0, 0)
    assert report.rejected_total == n_rows - len(wanted)
    assert corpus.head() == report.head_seq == head + len(wanted)
    assert _stored(corpus, head) == wanted
    again = ingest(corpus, opened(), positions=positions)
    assert (again.added, again.changed, corpus.head()) == (0, 0, report.head_seq)


def _stored(corpus: Corpus, head: int) -> dict[str, Document | None]:
    """What was stored behind a head."""
    return {change.doc_id: change.document for change in corpus.changes(head, 1_000_000)}


# -- files -----------------------------------------------------------------------------------------


@contextmanager
def a_file(folder: Path, ending: str) -> Iterator[Check]:
    path = folder / f"input{ending}"
    with scratch_corpus() as ingested:

        def check(content: bytes) -> None:
            path.write_bytes(content)
            ingested(lambda: open_source(path))

        yield check


# -- a folder --------------------------------------------------------------------------------------

_MARKDOWN = (
    b"---\ntitle: x\n---\n# A heading #\n\nText.\n\n```\n# no heading\n```\n\nUnder\n=====\nmore\n"
)
_HTML = b"<!doctype html><title>t</title><body><script>alert(1)</script><p>Text &amp; more</p>"
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "cp1252", "cp037", "gb18030")
_NAMES = (
    b"a.md", b"b.txt", b"c.markdown", b"d.html", b"in/e.md", b"in/f/g.TXT", b".hidden.md", b"h",
    b"\xff\xfe.md", "\u202e.md".encode(), b"new\nline.txt", b" .md", b"a.md/inside.md",
)  # fmt: skip

Files = Mapping[bytes, bytes]  # content by path

folders: st.SearchStrategy[Files] = st.dictionaries(
    st.sampled_from(_NAMES),
    st.one_of(
        bad.near(_MARKDOWN, _HTML),
        st.tuples(bad.texts, st.sampled_from(_ENCODINGS)).map(
            lambda item: f"# é{item[0]}\n".encode(item[1], "replace")
        ),
        st.binary(max_size=40),
    ),
    max_size=5,
)


@contextmanager
def a_folder(folder: Path) -> Iterator[Check]:
    """Files of every encoding and name, with a link that leads out of the folder."""
    (folder / "secret.md").write_text("of somebody else")
    root = folder / "texts"
    with scratch_corpus() as ingested:

        def check(files: Files) -> None:
            shutil.rmtree(root, ignore_errors=True)
            root.mkdir()
            (root / "out.md").symlink_to(folder / "secret.md")
            for name, content in files.items():
                path = root / os.fsdecode(name)
                with suppress(OSError):  # a file where this one would need a folder
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
            ingested(lambda: open_source(root))

        yield check


# -- a BEIR folder ---------------------------------------------------------------------------------

_CORPUS_LINE = {"_id": "d1", "title": "A title", "text": "Some text.", "metadata": {"a": 1}}
_QUERY_LINE = {"_id": "q1", "text": "a query", "slice": ["s"], "metadata": {"topic": "t"}}
_QRELS = b"query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t0\n"

Judged = tuple[bytes, bytes, bytes]  # corpus.jsonl, queries.jsonl, qrels/test.tsv

judged: st.SearchStrategy[Judged] = st.tuples(
    bad.lines_of(bad.almost(_CORPUS_LINE), bad.to_json(_CORPUS_LINE)),
    st.one_of(
        st.just(bad.to_json(_QUERY_LINE)),
        bad.lines_of(bad.almost(_QUERY_LINE), bad.to_json(_QUERY_LINE)),
    ),
    st.one_of(st.just(_QRELS), bad.near(_QRELS), st.binary(max_size=40)),
)


@contextmanager
def a_judged_folder(folder: Path) -> Iterator[Check]:
    """Documents for the corpus, and judgments in which every query has a text and a grade."""
    (folder / "qrels").mkdir()
    with scratch_corpus() as ingested:

        def check(files: Judged) -> None:
            for name, content in zip(
                ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"), files, strict=True
            ):
                (folder / name).write_bytes(content)
            ingested(lambda: open_source(folder))
            with suppress(*OURS):
                (split,) = splits(folder)
                judgments = read_judgments(folder, split)
                assert judgments.queries.keys() == judgments.qrels.keys()
                assert any(judgments.relevant(query_id) for query_id in judgments.qrels)
            with suppress(*OURS):
                assert len(list(read_documents(folder))) == count_documents(folder)

        yield check


# -- a database ------------------------------------------------------------------------------------

Rows = list[tuple[Any, Any, Any, Any]]  # id, text, year, updated
TableOrFile = tuple[Rows | bytes, bool]  # or a database file; whether to order by `updated`

_cells = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.none(), st.binary(max_size=6),
    bad.texts.map(lambda text: text.encode("utf-8", "replace").decode()),
)  # fmt: skip


def _database_file(rows: Rows) -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE docs (id, text, year, updated)")
        connection.executemany("INSERT INTO docs VALUES (?, ?, ?, ?)", rows)
        connection.commit()
        content = connection.serialize()
    connection.close()
    return content


_SOME_ROWS: Rows = [(f"d{n}", f"text {n}", n, n) for n in range(8)]
table_rows: st.SearchStrategy[TableOrFile] = st.tuples(
    st.one_of(
        st.lists(st.tuples(_cells, _cells, _cells, _cells), max_size=7),
        st.lists(
            st.tuples(st.integers(0, 9), bad.texts.map(ascii), _cells, st.integers(0, 3)),
            max_size=9,
            unique_by=lambda row: row[0],
        ),
        bad.near(_database_file(_SOME_ROWS)),
    ),
    st.booleans(),
)


@contextmanager
def a_database(folder: Path) -> Iterator[Check]:
    """A table that is read three rows at a time, by key and by time; or a damaged file."""
    path = folder / "source.db"
    before, sql.PAGE_ROWS = sql.PAGE_ROWS, 3
    try:
        with scratch_corpus() as ingested:

            def check(item: TableOrFile) -> None:
                rows, by_time = item
                path.write_bytes(rows if isinstance(rows, bytes) else _database_file(rows))
                ingested(
                    lambda: open_source(
                        f"sqlite:///{path}",
                        table="docs",
                        updated_at="updated" if by_time else None,
                    )
                )

            yield check
    finally:
        sql.PAGE_ROWS = before
