"""Sources that lie elsewhere: files behind URLs, databases, Qdrant collections, data sets."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from reindexer.errors import SourceInvalid, SourceStopped
from reindexer.ingest import ingest
from reindexer.sources import Positions, Row, open_source
from reindexer.sources.locations import location_of, without_credentials
from reindexer.sources.positions import PartedSource, SourcePart
from reindexer.sources.rows import DocumentSource
from search.corpus import Corpus
from search.database import Database, open_database, sqlite_url
from tests.qdrant_server import QdrantServer

SECRET = "hunter2"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = open_database(sqlite_url(tmp_path / "reindexer.db"))
    yield database
    database.close()


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    yield
    fsspec.filesystem("memory").store.clear()


def upload(url: str, content: bytes) -> str:
    with fsspec.open(url, "wb") as file:
        file.write(content)
    return url


def as_jsonl(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def read(source: DocumentSource) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Texts by id, and places with reasons of what was left out."""
    texts: dict[str, str] = {}
    rejected: list[tuple[str, str]] = []
    for row in source:
        if isinstance(row, Row):
            texts[row.document.doc_id] = row.document.text
        else:
            rejected.append((row.where, row.reason))
    return texts, rejected


def part_of(source: DocumentSource) -> SourcePart:
    assert isinstance(source, PartedSource)
    (part,) = source.parts()
    return part


# -- files -----------------------------------------------------------------------------------------


@dataclass
class WebFiles:
    """A web server with files, ranges and ETags, that counts what it sends."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    n_bytes: int = 0
    has_ranges: bool = True
    failures: int = 0  # requests for content that fail from now on


@pytest.fixture
def web() -> Iterator[WebFiles]:
    state = WebFiles()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            content = state.files.get(self.path.partition("?")[0])
            if content is None:
                self.send_error(404)
                return
            start, end = 0, len(content)
            wanted = self.headers.get("Range") if state.has_ranges else None
            if wanted:
                first, _, last = wanted.removeprefix("bytes=").partition("-")
                start, end = int(first), min(int(last) + 1 if last else end, end)
            if self.command == "GET" and state.failures:
                state.failures -= 1
                self.send_error(503)
                return
            self.send_response(206 if wanted else 200)
            if state.has_ranges:
                self.send_header("Content-Length", str(end - start))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{hash(content)}"')
            else:
                self.close_connection = True  # its end is the end of the file
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            self.end_headers()
            if self.command == "GET":
                state.n_bytes += end - start
                self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("ending", "packed"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".zst", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
    ],
)
@pytest.mark.parametrize("format", ["jsonl", "csv"])
def test_text_behind_a_url_may_be_packed(format: str, ending: str, packed: Any) -> None:
    content = as_jsonl({"id": "a", "text": "one"}, {"id": "b"})
    if format == "csv":
        content = b"id,text\na,one\nb\n"
    url = upload(f"memory://bucket/docs.{format}{ending}", packed(content))

    texts, rejected = read(open_source(url))

    assert texts == {"a": "one"}
    line = 2 if format == "jsonl" else 3
    assert [where for where, _ in rejected] == [f"docs.{format}{ending}:{line}"]


def test_a_pattern_stands_for_files_in_order_in_whatever_folder(tmp_path: Path) -> None:
    for name in ("2026/b.jsonl", "2025/a.jsonl", "2026/c.csv"):
        content = as_jsonl({"id": name, "text": "t"}, {"id": name + "!"})
        upload(f"memory://bucket/{name}", content)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)

    for pattern in ("memory://bucket/*/*.jsonl", f"{tmp_path}/20*/*.jsonl"):
        texts, rejected = read(open_source(pattern))
        assert list(texts) == ["2025/a.jsonl", "2026/b.jsonl"]
        assert [where for where, _ in rejected] == ["2025/a.jsonl:2", "2026/b.jsonl:2"]


def parquet(n_rows: int) -> bytes:
    file = io.BytesIO()
    texts = np.random.default_rng(0).bytes(n_rows * 500).hex()
    pq.write_table(
        pa.table(
            {
                "id": [f"d{i}" for i in range(n_rows)],
                "text": [texts[i * 1_000 : (i + 1) * 1_000] for i in range(n_rows)],
            }
        ),
        file,
        row_group_size=200,
        compression="none",
    )
    return file.getvalue()


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_file_on_the_web_is_streamed(
    web: WebFiles, format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first rows come, and the rows behind a position, without most of the file."""
    monkeypatch.setattr("reindexer.sources.files.BLOCK_BYTES", 100_000)
    if format == "parquet":
        content = parquet(3_000)
    else:
        content = as_jsonl(*({"id": f"d{i}", "text": "x" * 1_000} for i in range(3_000)))
    web.files[f"/docs.{format}"] = content
    source = open_source(f"{web.url}/docs.{format}?token={SECRET}")
    part = part_of(source)

    first = list(islice(part.rows(None), 100))
    position = part.position
    assert web.n_bytes < 0.3 * len(content), "to open it and read the first thirtieth"
    assert [row.document.doc_id for row in first if isinstance(row, Row)][-1] == "d99"

    web.n_bytes = 0
    position = {"row": 2_800} if format == "parquet" else position
    (following,) = islice(part.rows(position), 1)
    assert isinstance(following, Row)
    assert following.document.doc_id == ("d2800" if format == "parquet" else "d100")
    assert web.n_bytes < 0.2 * len(content)


def test_a_server_that_fails_for_a_moment_is_asked_again(
    web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.sources.files.FIRST_PAUSE_S", 0.001)
    web.files["/docs.jsonl"] = as_jsonl({"id": "a", "text": "t"})
    source = open_source(f"{web.url}/docs.jsonl")

    web.failures = 2
    assert read(source) == ({"a": "t"}, [])

    web.failures = 99
    with pytest.raises(SourceStopped, match="goes on from there") as told:
        read(source)
    assert web.url not in str(told.value) or SECRET not in str(told.value)


def test_a_server_without_ranges_is_read_as_it_comes(web: WebFiles) -> None:
    web.has_ranges = False
    web.files["/docs.jsonl"] = as_jsonl(*({"id": f"d{i}", "text": "t"} for i in range(100)))
    part = part_of(open_source(f"{web.url}/docs.jsonl"))

    list(islice(part.rows(None), 60))
    assert len(list(part.rows(part.position))) == 40
    assert part.version is None, "nobody can tell whether it is the same file tomorrow"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none.jsonl", "there is no file memory://bucket/none.jsonl"),
        ("memory://bucket/*.jsonl", r"no file matches memory://bucket/\*.jsonl"),
        ("memory://bucket", r"is a folder; name its files, such as memory://bucket/\*.parquet"),
        ("s3://bucket/docs.jsonl", "no driver for s3:// is installed; run `pip install s3fs`"),
        ("memory://bucket/docs.xyz", "the format of docs.xyz is not known"),
    ],
)
def test_a_url_that_leads_nowhere_is_refused(url: str, message: str) -> None:
    upload("memory://bucket/docs.xyz", b"")
    with pytest.raises(SourceInvalid, match=message):
        open_source(url)


# -- credentials -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("https://me:hunter2@host/a.jsonl", "https://host/a.jsonl"),
        ("https://host/a.jsonl?X-Amz-Signature=hunter2&X-Amz-Date=1", "https://host/a.jsonl"),
        ("https://host/a.jsonl?sv=1&se=2&sig=hunter2", "https://host/a.jsonl"),
        ("s3://bucket/a@b/c.jsonl", "s3://bucket/a@b/c.jsonl"),
    ],
)
def test_a_location_holds_nothing_that_opens_doors(url: str, location: str) -> None:
    assert location_of(url) == location
    assert SECRET not in without_credentials(f"ClientError({url!r}): no")


def test_what_a_query_asks_for_is_a_part_of_the_location() -> None:
    one, other = (location_of(f"https://host/export?table={t}&token=hunter2") for t in "ab")
    assert one != other
    assert SECRET not in one
    assert one == location_of("https://host/export?token=other&table=a")


def test_credentials_are_neither_kept_nor_told(web: WebFiles, database: Database) -> None:
    web.files["/docs.jsonl"] = as_jsonl({"id": "a", "text": "t"}, {"id": "b"})
    signed = web.url.replace("http://", f"http://me:{SECRET}@") + f"/docs.jsonl?sig={SECRET}"

    report = ingest(Corpus(database), open_source(signed), positions=Positions(database))

    with database.read() as connection:
        kept = str(connection.execute(sa.text("SELECT * FROM positions")).all())
    assert SECRET not in kept + json.dumps(report.to_json())
    for missing in (signed.replace("docs", "none"), f"postgresql://me:{SECRET}@127.0.0.1:1/db"):
        with pytest.raises(SourceInvalid) as told:
            open_source(missing, table="docs" if "postgresql" in missing else None)
        assert SECRET not in str(told.value)


# -- databases -------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(sqlite_url(tmp_path / "shop.db"))
    with engine.begin() as connection:
        connection.execute(
            sa.text("CREATE TABLE products (sku INTEGER PRIMARY KEY, text TEXT, changed TEXT)")
        )
    yield engine
    engine.dispose()


def put(shop: sa.Engine, *rows: tuple[Any, ...]) -> None:
    with shop.begin() as connection:
        for row in rows:
            connection.exec_driver_sql("INSERT OR REPLACE INTO products VALUES (?, ?, ?)", row)


def test_a_table_and_a_query_are_read_in_pages(
    shop: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.sources.sql.PAGE_ROWS", 3)
    put(shop, *((i, f"text {i}", "2026") for i in range(10)))
    url = shop.url.render_as_string()

    table, _ = read(open_source(url, table="products", id_field="sku"))
    query, _ = read(
        open_source(
            url,
            query="SELECT sku, text FROM products WHERE text <> ':no' AND sku % 2 = 0;",
            id_field="sku",
        )
    )

    assert table == {str(i): f"text {i}" for i in range(10)}
    assert list(query) == ["0", "2", "4", "6", "8"]


def test_the_next_ingest_asks_only_for_rows_that_were_written_since(
    shop: sa.Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reindexer.sources.sql.PAGE_ROWS", 3)
    corpus, positions = Corpus(database), Positions(database)

    def run(**options: bool) -> tuple[int, int, int, int]:
        source = open_source(
            shop.url.render_as_string(), table="products", id_field="sku", updated_at="changed"
        )
        report = ingest(corpus, source, positions=positions, **options)
        return report.added, report.changed, report.unchanged, report.deleted

    # All at one moment, so that a page ends between equals.
    put(shop, *((i, "old", "2026-01-01") for i in range(8)))
    assert run() == (8, 0, 0, 0)
    put(shop, (3, "new", "2026-01-02"), (8, "new", "2026-01-01"), (0, "unseen", "2025-12-31"))
    assert run() == (1, 1, 6, 0)
    assert run() == (0, 0, 1, 0), "of the last moment there may be more"
    with shop.begin() as connection:
        connection.execute(sa.text("DELETE FROM products WHERE sku = 5"))
    assert run() == (0, 0, 1, 0)
    assert run(delete_missing=True) == (0, 1, 7, 1)


def test_rows_that_no_order_finds_are_told(shop: sa.Engine) -> None:
    put(shop, (1, "a", "2026"), (2, "b", None))
    texts, rejected = read(
        open_source(
            shop.url.render_as_string(), table="products", id_field="sku", updated_at="changed"
        )
    )
    assert texts == {"1": "a"}
    assert rejected == [("products", "1 rows have no changed, and were not read; fill it in")]


def test_a_database_that_cannot_be_read_is_refused(shop: sa.Engine, tmp_path: Path) -> None:
    url = shop.url.render_as_string()
    for options, message in (
        ({}, "say what to read there, with --table TABLE or --query"),
        ({"table": "none"}, "none cannot be read from sqlite: no such table: none"),
        ({"table": "products"}, "products has no id: .*changed, sku, text.*--id-field"),
        ({"table": "products", "id_field": "sku", "updated_at": "at"}, "has no column 'at'"),
    ):
        with pytest.raises(SourceInvalid, match=message):
            open_source(url, **options)
    with pytest.raises(SourceInvalid, match="there is no file"):
        open_source(f"sqlite:///{tmp_path}/none.db", table="docs")
    assert not (tmp_path / "none.db").exists()


# -- Qdrant collections ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def qdrant() -> Iterator[str]:
    with QdrantServer() as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        settings = {"vectors": {"size": 2, "distance": "Cosine"}}
        client.put("/collections/old", json=settings).raise_for_status()
        points = [
            {"id": i, "vector": [1, i], "payload": {"page_content": f"text {i}", "sku": f"s{i}"}}
            for i in range(1, 9)
        ]
        points.append({"id": 9, "vector": [1, 9], "payload": {"sku": "s9"}})
        client.put("/collections/old/points?wait=true", json={"points": points}).raise_for_status()
        yield server.url


@pytest.mark.parametrize(("id_field", "first"), [(None, "1"), ("sku", "s1")])
def test_another_collection_is_read_by_its_payloads(
    qdrant: str, monkeypatch: pytest.MonkeyPatch, id_field: str | None, first: str
) -> None:
    monkeypatch.setattr("reindexer.sources.collection.PAGE_POINTS", 3)
    source = open_source(
        f"{qdrant}#old", format="qdrant", text_field="page_content", id_field=id_field
    )

    texts, rejected = read(source)

    assert len(texts) == 8
    assert texts[first] == "text 1"
    assert [where for where, _ in rejected] == ["old:9"]

    part = part_of(source)
    list(islice(part.rows(None), 4))
    assert len(list(part.rows(part.position))) == 5


def test_a_collection_that_is_not_there_is_refused(qdrant: str) -> None:
    for ref, message in (
        (f"{qdrant}#none", "there is no collection 'none'"),
        (f"{qdrant}#old", "old has no text: .*--text-field"),
        (qdrant, "names no Qdrant collection; expected https://host:6333#collection"),
    ):
        with pytest.raises(SourceInvalid, match=message):
            open_source(ref, format="qdrant")


# -- data sets -------------------------------------------------------------------------------------


def test_a_data_set_is_streamed_and_gone_on_with(tmp_path: Path, database: Database) -> None:
    pytest.importorskip("datasets")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_bytes(
        as_jsonl(*({"id": f"d{i}", "text": f"text {i}", "year": i} for i in range(20)))
    )
    part = part_of(open_source(str(folder), format="hf", split="train"))

    list(islice(part.rows(None), 12))
    position = json.loads(json.dumps(part.position))
    again = part_of(open_source(str(folder), format="hf", split="train"))
    rest = [row.document for row in again.rows(position) if isinstance(row, Row)]

    assert again.version == part.version
    assert [document.doc_id for document in rest] == [f"d{i}" for i in range(12, 20)]
    assert rest[0].metadata == {"year": 12}
    report = ingest(
        Corpus(database), open_source(str(folder), format="hf"), positions=Positions(database)
    )
    assert report.added == 20
    with pytest.raises(SourceInvalid, match="--split"):
        open_source(str(folder), format="hf", split="none")
