"""An ingest that stops half-way goes on there, and what has not changed is not fetched again."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from reindexer.ingest import IngestReport, ingest
from reindexer.sources import Positions, Rejected, Row, open_source
from reindexer.sources.positions import PartedSource, Position, SourcePart
from reindexer.sources.rows import DocumentSource
from search.corpus import Corpus
from search.database import Database, open_database, sqlite_url

N_ROWS = 23
BATCH = 5


class Stopped(Exception):
    """The process dies here."""


class StoppingSource:
    """A source of one part that stops when it is asked for one row more than it may give."""

    def __init__(self, source: DocumentSource, n_rows: int) -> None:
        assert isinstance(source, PartedSource)
        (self.part,) = source.parts()
        self.n_rows = n_rows
        self.given: list[str] = []
        self.name = source.name
        self.share_read = None

    def parts(self) -> tuple[SourcePart, ...]:
        return (self,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.part, name)

    def __iter__(self) -> Iterator[Row | Rejected]:
        return self.rows(None)

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        for row in self.part.rows(after):
            if len(self.given) == self.n_rows:
                raise Stopped
            self.given.append(row.where)
            yield row


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    database = open_database(sqlite_url(tmp_path_factory.mktemp("resume") / "reindexer.db"))
    yield database
    database.close()


@pytest.fixture
def database(empty: Database) -> Iterator[Database]:
    yield empty
    with empty.write() as connection:
        for statement in (
            "DELETE FROM documents",
            "DELETE FROM positions",
            "UPDATE corpus_head SET seq = 0",
        ):
            connection.execute(sa.text(statement))


@pytest.fixture
def corpus(database: Database) -> Corpus:
    return Corpus(database)


@pytest.fixture
def positions(database: Database) -> Positions:
    return Positions(database)


@pytest.fixture(autouse=True)
def memory() -> Iterator[dict[str, Any]]:
    """Files behind memory:// URLs."""
    store: dict[str, Any] = fsspec.filesystem("memory").store
    yield store
    store.clear()


def upload(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def rows(n_rows: int = N_ROWS) -> list[dict[str, Any]]:
    # Line ends inside fields, so that rows and lines are two things.
    return [{"id": f"d{i:02}", "text": f"text {i}\nof two lines"} for i in range(n_rows)]


def as_jsonl(values: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def as_csv(values: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["id", "text"])
    writer.writeheader()
    writer.writerows(values)
    return text.getvalue().encode()


def as_parquet(values: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(values), file, row_group_size=7)
    return file.getvalue()


def as_zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def as_table(path: Path) -> str:
    engine = sa.create_engine(sqlite_url(path))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE docs (id TEXT PRIMARY KEY, text TEXT)"))
        connection.execute(sa.text("INSERT INTO docs VALUES (:id, :text)"), rows())
    engine.dispose()
    return sqlite_url(path)


def texts(corpus: Corpus) -> dict[str, str]:
    return {c.doc_id: c.document.text for c in corpus.changes(0, 10_000) if c.document}


def expected(n_rows: int = N_ROWS) -> dict[str, str]:
    return {row["id"]: row["text"] for row in rows(n_rows)}


def stopped_at(corpus: Corpus, positions: Positions, source: DocumentSource, n_rows: int) -> None:
    with pytest.raises(Stopped):
        ingest(corpus, StoppingSource(source, n_rows), positions=positions, batch=BATCH)


Opened = Callable[[], DocumentSource]


@pytest.fixture(params=["jsonl", "jsonl.gz", "jsonl.zst", "csv", "parquet", "sql", "local"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Opened:
    """Opens the same rows out of each kind of source."""
    kind = request.param
    if kind == "sql":
        monkeypatch.setattr("reindexer.sources.sql.PAGE_ROWS", 4)
        url = as_table(tmp_path / "shop.db")
        return lambda: open_source(url, table="docs")
    if kind == "local":
        path = tmp_path / "docs.jsonl"
        path.write_bytes(as_jsonl(rows()))
        return lambda: open_source(path)
    content = {
        "jsonl": as_jsonl,
        "jsonl.gz": lambda values: gzip.compress(as_jsonl(values)),
        "jsonl.zst": lambda values: as_zstd(as_jsonl(values)),
        "csv": as_csv,
        "parquet": as_parquet,
    }[kind](rows())
    url = upload(f"memory://docs.{kind}", content)
    return lambda: open_source(url)


@pytest.mark.parametrize("n_rows", [0, 4, 5, 12, 20])
def test_a_source_that_stopped_goes_on_behind_the_last_committed_batch(
    corpus: Corpus, positions: Positions, opened: Opened, n_rows: int
) -> None:
    stopped_at(corpus, positions, opened(), n_rows)
    committed = n_rows - n_rows % BATCH
    assert corpus.count() == committed

    rest = StoppingSource(opened(), 1_000)
    report = ingest(corpus, rest, positions=positions, batch=BATCH)

    assert texts(corpus) == expected()
    assert corpus.head() == N_ROWS
    assert len(rest.given) == report.added == N_ROWS - committed
    assert report.went_on == (committed > 0)


def test_a_death_between_the_batch_and_its_mark_loses_nothing(
    corpus: Corpus, positions: Positions, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl(rows()))
    kept = positions.keep

    def die(*arguments: Any) -> None:
        if corpus.count() == 3 * BATCH:
            raise Stopped
        kept(*arguments)

    monkeypatch.setattr(positions, "keep", die)
    with pytest.raises(Stopped):
        ingest(corpus, open_source(url), positions=positions, batch=BATCH)
    monkeypatch.undo()

    report = ingest(corpus, open_source(url), positions=positions, batch=BATCH)

    assert (report.unchanged, report.added) == (BATCH, N_ROWS - 3 * BATCH)
    assert texts(corpus) == expected()


def test_what_has_changed_meanwhile_is_read_from_its_beginning(
    corpus: Corpus, positions: Positions
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl(rows()))
    stopped_at(corpus, positions, open_source(url), 12)
    edited = [{**row, "text": "edited"} for row in rows()]
    upload(url, as_jsonl(edited))

    ingest(corpus, open_source(url), positions=positions)

    assert set(texts(corpus).values()) == {"edited"}


@pytest.mark.parametrize(
    "options",
    [{"again": True}, {"delete_missing": True}],
    ids=["again", "delete_missing"],
)
def test_everything_is_read_when_everything_has_to_be(
    corpus: Corpus, positions: Positions, options: dict[str, bool]
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl(rows()))
    stopped_at(corpus, positions, open_source(url), 12)

    whole = StoppingSource(open_source(url), 1_000)
    report = ingest(corpus, whole, positions=positions, **options)

    assert len(whole.given) == N_ROWS
    assert (report.unchanged, report.went_on, report.deleted) == (10, 0, 0)


def test_another_field_for_the_text_is_another_reading(
    corpus: Corpus, positions: Positions
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl([{**row, "body": "b"} for row in rows()]))
    stopped_at(corpus, positions, open_source(url), 12)

    report = ingest(corpus, open_source(url, text_field="body"), positions=positions)

    assert (report.changed, report.added, report.went_on) == (10, 13, 0)


def test_two_sources_at_one_location_have_a_position_each(
    corpus: Corpus, positions: Positions
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl(rows()))
    stopped_at(corpus, positions, open_source(url), 12)

    report = ingest(corpus, open_source(url, name="other"), positions=positions)

    assert (report.went_on, report.added, report.rejected_total) == (0, 13, 10)


# -- read to the end -------------------------------------------------------------------------------


def ingest_all(corpus: Corpus, positions: Positions, url: str) -> IngestReport:
    return ingest(corpus, open_source(url), positions=positions)


def test_of_many_files_only_new_and_changed_ones_are_fetched(
    corpus: Corpus, positions: Positions
) -> None:
    def day(name: str, text: str) -> None:
        upload(f"memory://log/{name}.jsonl", as_jsonl([{"id": name, "text": text}]))

    for name in ("mon", "tue", "wed"):
        day(name, "t")
    assert ingest_all(corpus, positions, "memory://log/*.jsonl").added == 3
    day("tue", "edited")
    day("thu", "t")

    report = ingest_all(corpus, positions, "memory://log/*.jsonl")

    assert (report.added, report.changed, report.unchanged, report.passed_over) == (1, 1, 0, 2)
    assert report.warnings == ()


def test_a_file_with_a_bad_row_is_told_about_every_time(
    corpus: Corpus, positions: Positions
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl([{"id": "a", "text": "t"}, {"id": "b"}]))

    first = ingest_all(corpus, positions, url)
    second = ingest_all(corpus, positions, url)

    assert first.rejected == second.rejected
    assert [bad.where for bad in second.rejected] == ["docs.jsonl:2"]


def test_a_bad_row_before_the_stop_keeps_the_file_from_being_passed_over(
    corpus: Corpus, positions: Positions
) -> None:
    url = upload("memory://docs.jsonl", as_jsonl([{"id": "bad"}, *rows()]))
    stopped_at(corpus, positions, open_source(url), 12)
    assert ingest_all(corpus, positions, url).rejected_total == 0  # told by the first

    assert ingest_all(corpus, positions, url).rejected_total == 1


def test_a_local_file_is_compared_every_time(
    corpus: Corpus, positions: Positions, tmp_path: Path
) -> None:
    """Reading it costs little, and documents that were deleted over the API come back."""
    path = tmp_path / "docs.jsonl"
    path.write_bytes(as_jsonl(rows()))
    ingest_all(corpus, positions, str(path))
    corpus.delete(["d07"])

    report = ingest_all(corpus, positions, str(path))

    assert (report.added, report.unchanged, report.went_on) == (1, N_ROWS - 1, 0)


def test_one_unreadable_file_does_not_keep_the_others_out(
    corpus: Corpus, positions: Positions
) -> None:
    upload("memory://all/1.jsonl", as_jsonl([{"id": "a", "text": "t"}]))
    upload("memory://all/2.jsonl", b"PAR1")
    upload("memory://all/3.jsonl", as_jsonl([{"id": "c", "text": "t"}]))

    report = ingest_all(corpus, positions, "memory://all/*.jsonl")

    assert set(texts(corpus)) == {"a", "c"}
    assert [bad.where for bad in report.rejected] == ["2.jsonl"]
    assert "is a Parquet file" in report.rejected[0].reason
