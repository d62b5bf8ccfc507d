"""Sources: what each format yields, and what a new user reads when something is wrong with it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reindexer.errors import SourceInvalid
from reindexer.sources import Rejected, Row, open_source
from reindexer.sources import lines as lines_module
from search.documents import Document


def read(path: Path, **options: Any) -> tuple[dict[str, Document], dict[str, str]]:
    """The documents by id, and the reasons of the rejected rows by place."""
    documents: dict[str, Document] = {}
    rejected: dict[str, str] = {}
    for row in open_source(path, **options):
        if isinstance(row, Row):
            assert row.document.doc_id not in documents
            documents[row.document.doc_id] = row.document
        else:
            assert row.where not in rejected
            rejected[row.where] = row.reason
    return documents, rejected


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Write = Callable[[str, str | bytes], Path]


# JSON Lines


def test_jsonl_rows_become_documents(write: Write) -> None:
    path = write(
        "docs.jsonl",
        '{"_id": "a", "title": "A", "text": "one", "year": 2020, "tags": ["x", "y"], "off": null}\n'
        '{"id": 7, "contents": "two", "metadata": {"year": 1, "lang": "en"}, "year": 2}\n'
        "\n"
        '{"doc_id": "c", "id": null, "body": "three", "author": {"name": "N", "at": {"x": 1}}}',
    )

    documents, rejected = read(path, name="mine")

    assert rejected == {}
    assert list(documents.values()) == [
        Document.of(
            doc_id="a",
            title="A",
            text="one",
            metadata={"year": 2020, "tags": ["x", "y"]},
            source="mine",
        ),
        Document.of(doc_id="7", text="two", metadata={"year": 2, "lang": "en"}, source="mine"),
        Document.of(
            doc_id="c", text="three", metadata={"author.name": "N", "author.at.x": 1}, source="mine"
        ),
    ]


def test_values_that_cannot_be_filtered_on_are_left_out(write: Write) -> None:
    path = write(
        "docs.jsonl",
        '{"id": "a", "text": "t", "rows": [{"x": 1}], "grid": [[1]], "big": 18446744073709551615}',
    )

    documents, _ = read(path)

    assert documents["a"].metadata == {"big": "18446744073709551615"}


GOOD = b'{"id": "good", "text": "fine"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "t"}', "no id: looked for _id, id, doc_id"),
        (b'{"id": null, "text": "t"}', "no id: looked for _id, id, doc_id"),
        (b'{"id": "", "text": "t"}', "no id: expected a non-empty _id, id or doc_id"),
        (b'{"id": 1.5, "text": "t"}', "the id is of type float, expected text"),
        (b'{"id": "a", "text": null}', "the text is null"),
        (b'{"id": "a"}', "no text: looked for text, contents, content, body; the row has id"),
        (b'{"id": "a", "text": 5}', "the text is of type int, expected text"),
        (b'{"id": "a", "text": ""}', "the text and the title are empty"),
        (b'{"id": "a", "text": "x\\u0000"}', "the text contains a NUL character; remove it"),
        (b'{"id": "a", "text": "t"', "unexpected end of data"),
        (b'{"id": "a" "text": "t"}', "broken JSON at character 12"),
        (b'["a", "t"]', "the line is a list, expected a JSON object"),
        (b'"a"', "the line is a text, expected a JSON object"),
        (b"5", "the line is a number, expected a JSON object"),
        (b"null", "the line is null, expected a JSON object"),
        (b'{"id": "a", "text": "t", "n": NaN}', "NaN is not JSON; write null instead"),
        (b'{"id": "a", "text": "t", "n": -Infinity}', "-Infinity is not JSON; write null instead"),
        (b'{"id": "a", "text": "\\ud800"}', "broken JSON at character"),
        (b'{"id": "a", "text": "caf\xe9"}', "not UTF-8: byte 0xe9 at byte 25 of the line"),
        (b'{"id": "a\\nb", "text": "t"}', "the id 'a\\nb' contains a control character"),
        (b"[" * 3_000, "broken JSON at character"),
        (b"\x00", "broken JSON at character 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_line_is_rejected_and_the_others_go_in(
    write: Write, line: bytes, reason: str
) -> None:
    path = write("docs.jsonl", GOOD + line + b"\n" + GOOD.replace(b"good", b"after"))

    documents, rejected = read(path)

    assert list(documents) == ["good", "after"]
    assert list(rejected) == ["docs.jsonl:2"]
    assert reason in rejected["docs.jsonl:2"]


def test_a_rejected_row_keeps_its_id_where_that_is_known(write: Write) -> None:
    path = write("docs.jsonl", GOOD + b'{"id": "a", "text": null}\n{"id": "b", "text": \n')

    known, unknown = (row for row in open_source(path) if isinstance(row, Rejected))

    assert (known.doc_id, unknown.doc_id) == ("a", None)


def test_a_huge_line_is_passed_over_in_constant_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "MAX_LINE_BYTES", 2_000_000)
    path = tmp_path / "docs.jsonl"
    with path.open("wb") as file:
        file.write(GOOD + b'{"id": "huge", "text": "')
        for _ in range(50):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n' + GOOD.replace(b"good", b"after"))

    tracemalloc.start()
    documents, rejected = read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert list(documents) == ["good", "after"]
    assert "more than" in rejected["docs.jsonl:2"]
    assert peak < 15_000_000


def test_a_document_that_is_too_large_is_rejected_by_its_size(write: Write) -> None:
    path = write("docs.jsonl", GOOD + b'{"id": "a", "text": "' + b"x" * 10_000_001 + b'"}\n')

    assert "10,000,001 bytes, at most 10,000,000" in read(path)[1]["docs.jsonl:2"]


def test_byte_order_mark_crlf_and_blank_lines_are_taken(write: Write) -> None:
    path = write("docs.jsonl", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n") + b"\r\n  \r\n")

    documents, rejected = read(path)

    assert (list(documents), rejected) == (["good"], {})


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["docs.jsonl", "docs.jsonl.gz"])
def test_compressed_files_are_known_by_their_content(
    write: Write, pack: Callable[[bytes], bytes], name: str
) -> None:
    documents, rejected = read(write(name, pack(GOOD)))

    assert (list(documents), rejected) == (["good"], {})


@pytest.mark.parametrize(
    ("pack", "cause"),
    [
        (gzip.compress, "end too early"),
        (partial(bz2.compress, compresslevel=1), "end too early"),
        (partial(lzma.compress, preset=0), "end too early"),
    ],
    ids=["gzip", "bzip2", "xz"],
)
def test_a_truncated_file_gives_what_it_has_and_says_where_it_breaks_off(
    write: Write, pack: Callable[[bytes], bytes], cause: str
) -> None:
    noise = random.Random(1)
    lines = (b'{"id": "%d", "text": "%x"}\n' % (i, noise.getrandbits(256)) for i in range(5_000))
    path = write("docs.jsonl.gz", pack(b"".join(lines))[:-2_000])

    documents, rejected = read(path)

    ((where, reason),) = rejected.items()
    assert where == f"docs.jsonl.gz:{len(documents) + 1}"
    assert "breaks off" in reason
    assert cause in reason
    assert len(documents) > 3_000


def test_damaged_compressed_data_are_said_so(write: Write) -> None:
    content = bytearray(gzip.compress(GOOD * 10_000))
    content[12:40] = b"\xff" * 28

    with pytest.raises(SourceInvalid, match=r"docs\.jsonl\.gz cannot be read: .*"):
        open_source(write("docs.jsonl.gz", bytes(content)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", GOOD.decode().encode("utf-16"), r"UTF-16, expected UTF-8.*iconv -f UTF-16"),
        ("d.jsonl", GOOD.decode().encode("utf-16-le"), r"UTF-16LE, expected UTF-8.*iconv"),
        ("d.csv", "id,text\na,t\n".encode("utf-32"), r"UTF-32, expected UTF-8"),
        ("d.jsonl", b"PAR1....", r"is a Parquet file; add --format parquet"),
        ("d.csv", b"PK\x03\x04....", r"Excel workbook; unpack it, or export it as CSV"),
        ("d.jsonl.lz4", b"\x04\x22\x4d\x18...", r"ending; expected one of \.jsonl"),
        ("d.jsonl.zst", b"\x28\xb5\x2f\xfd...", r"d\.jsonl\.zst cannot be read: "),
        ("d.json", b'[\n{"id": "a"}\n]', r"holds one JSON array.*jq -c '\.\[\]' d\.json"),
        ("d.jsonl", b'{"text": "t"}\n', r"has no id: looked for _id, id, doc_id; .* --id-field"),
        (
            "d.jsonl",
            b'{"id": 1, "abs": "t"}\n',
            r"no text:.*fields are abs, id.*--text-field FIELD",
        ),
        ("d.csv", b"", r"d\.csv is empty, expected a first line"),
        ("d.csv", b"name,text\na,b\n", r"has no id: looked for _id, id, doc_id.*name, text"),
        ("d.csv", b"id,text,text\na,b,c\n", r"names 'text' twice"),
        ("d.parquet", b"nope", r"d\.parquet cannot be read as Parquet"),
        ("d.txt", b"text", r"format of d\.txt is not known.*name the folder they are in"),
        ("noending", b"text", r"format of noending is not known.*--format"),
    ],
)
def test_a_file_that_is_something_else_is_refused(
    write: Write, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(SourceInvalid, match=message):
        open_source(write(name, content))


def test_a_json_array_on_one_line_is_refused_as_one(write: Write) -> None:
    with pytest.raises(SourceInvalid, match="holds one JSON array"):
        open_source(write("d.json", b'[{"id": "a", "text": "t"}]'))


def test_fields_can_be_named(write: Write) -> None:
    path = write("docs.jsonl", '{"key": 1, "abstract": "t", "name": "N", "id": "x", "text": "y"}\n')

    documents, _ = read(path, id_field="key", text_field="abstract", title_field="name")

    assert documents["1"] == Document.of(
        doc_id=1, text="t", title="N", metadata={"id": "x", "text": "y"}
    )


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"id_field": "key"}, "--id-field"),
        ({"text_field": "abstract"}, "--text-field"),
        ({"title_field": "name"}, "--title-field"),
    ],
)
@pytest.mark.parametrize(
    ("name", "content"), [("d.jsonl", '{"id": 1, "text": "t"}\n'), ("d.csv", "id,text\n1,t\n")]
)
def test_a_field_that_is_not_there_is_said_with_the_flag_to_use(
    write: Write, name: str, content: str, options: dict[str, str], flag: str
) -> None:
    with pytest.raises(SourceInvalid, match=f"its fields are id, text.*{flag} FIELD"):
        open_source(write(name, content), **options)  # type: ignore[arg-type]


def test_a_source_can_be_read_twice_and_tells_how_far_it_is(write: Write) -> None:
    source = open_source(write("docs.jsonl", GOOD * 20_000))

    rows = iter(source)
    next(rows)
    start = source.share_read
    for _ in range(12_000):
        next(rows)

    assert start is not None
    assert start < 0.1
    assert source.share_read == pytest.approx(0.6, abs=0.02)
    assert sum(1 for _ in source) == 20_000


# What can be named


def test_what_is_not_there_is_said_with_the_nearest_name(write: Write, tmp_path: Path) -> None:
    write("documents.jsonl", GOOD)

    with pytest.raises(SourceInvalid, match=r"no file or folder .*did you mean .*documents\.jsonl"):
        open_source(tmp_path / "document.jsonl")
    with pytest.raises(SourceInvalid, match="there is no file or folder"):
        open_source(tmp_path / "nowhere" / "x.jsonl")
    with pytest.raises(SourceInvalid, match="cannot be read: File name too long"):
        open_source("x" * 5_000)


def test_options_that_do_not_fit_are_refused(write: Write, tmp_path: Path) -> None:
    path = write("docs.jsonl", GOOD)

    with pytest.raises(SourceInvalid, match="format 'xml' is not known; expected auto, beir"):
        open_source(path, format="xml")
    with pytest.raises(SourceInvalid, match="is not a folder, expected a folder"):
        open_source(path, format="folder")
    with pytest.raises(SourceInvalid, match="is not a file, expected a jsonl file"):
        open_source(tmp_path, format="jsonl")
    with pytest.raises(SourceInvalid, match="not a BEIR folder: it has no corpus"):
        open_source(tmp_path / "..", format="beir")
    with pytest.raises(SourceInvalid, match="--table is for --format sql"):
        open_source(path, table="docs")
    with pytest.raises(SourceInvalid, match="source name '' is not usable"):
        open_source(path, name="")


def test_a_format_can_be_said(write: Write) -> None:
    documents, _ = read(write("docs.txt", GOOD), format="jsonl")

    assert list(documents) == ["good"]


def test_a_beir_folder_is_its_corpus(write: Write, tmp_path: Path) -> None:
    write("scifact/corpus.jsonl", '{"_id": "1", "title": "T", "text": "t", "metadata": {}}\n')
    write("scifact/queries.jsonl", '{"_id": "q", "text": "not a document"}\n')
    write("scifact/readme.md", "# Not a document\n")

    rows = list(open_source(tmp_path / "scifact"))

    assert rows == [
        Row(where="corpus.jsonl:1", document=Document.of(doc_id="1", title="T", text="t"))
    ]


# CSV and TSV


def test_csv_rows_become_documents(write: Write) -> None:
    path = write(
        "docs.csv",
        "id,title,text,year,code,score,empty,\r\n"
        '1,A,"one, ""two""\r\nthree",2020,007,1.5,,x\r\n'
        "\r\n"
        "2,B,four,-3,1.50,1e3,,x\r\n",
    )

    documents, rejected = read(path)

    assert rejected == {}
    assert documents["1"] == Document.of(
        doc_id="1",
        title="A",
        text='one, "two"\r\nthree',
        metadata={"year": 2020, "code": "007", "score": 1.5},
    )
    assert documents["2"].metadata == {"year": -3, "code": "1.50", "score": "1e3"}


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["docs.csv", "docs.tsv"])
def test_the_delimiter_is_found(write: Write, name: str, delimiter: str) -> None:
    path = write(name, "\ufeff" + "id,text,year\na,t,5\n".replace(",", delimiter))

    assert read(path) == ({"a": Document.of(doc_id="a", text="t", metadata={"year": 5})}, {})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"x,t", "2 fields, the header has 3"),
        (b"x,t,5,6", "4 fields, the header has 3"),
        (b",t,5", "no id: expected a non-empty"),
        (b"x,,5", "the text and the title are empty"),
        (b"x,caf\xe9,5", "field 'text' is not UTF-8"),
        (b"x,t\x00,5", "the text contains a NUL"),
        (b'x,"t"u,5', "text after a closing quote; double the quotes"),
        (b'x,"never closed,5', "a quote is opened here and not closed"),
    ],
)
def test_a_bad_csv_row_is_rejected_and_the_others_go_in(
    write: Write, row: bytes, reason: str
) -> None:
    after = b"".join(b"d%d,t,5\n" % i for i in range(50))
    path = write("docs.csv", b"id,text,year\ngood,t,5\n" + row + b"\n" + after)

    documents, rejected = read(path)

    assert list(documents) == ["good", *(f"d{i}" for i in range(50))]
    assert list(rejected) == ["docs.csv:3"]
    assert reason in rejected["docs.csv:3"]


def test_the_place_of_a_csv_row_is_its_first_line(write: Write) -> None:
    path = write("docs.csv", 'id,text\na,"1\n2\n3"\n\nb,t,extra\nc,"x\ny",extra\n')

    assert list(read(path)[1]) == ["docs.csv:6", "docs.csv:7"]


def test_a_long_csv_field_is_read_and_a_huge_one_passed_over(write: Write) -> None:
    huge = b"x" * (lines_module.MAX_LINE_BYTES + 1)
    path = write(
        "docs.csv",
        b"id,text\na," + b"y" * 1_000_000 + b"\nb," + huge + b'\nc,t\nd,"' + huge + b'"\ne,t\n',
    )

    documents, rejected = read(path)

    assert list(documents) == ["a", "c", "e"]
    assert len(documents["a"].text) == 1_000_000
    assert list(rejected) == ["docs.csv:3", "docs.csv:5"]
    assert "more than" in rejected["docs.csv:3"]


def test_a_truncated_csv_says_where_it_breaks_off(write: Write) -> None:
    noise = random.Random(1)
    rows = (b"%d,%x\n" % (i, noise.getrandbits(256)) for i in range(2_000))
    path = write("docs.csv.gz", gzip.compress(b"id,text\n" + b"".join(rows))[:-2_000])

    documents, rejected = read(path)

    assert list(rejected) == [f"docs.csv.gz:{len(documents) + 2}"]
    assert len(documents) > 500


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=40), max_size=12), st.sampled_from(["jsonl", "csv"]))
def test_any_bytes_between_good_rows_cost_nothing_but_themselves(
    write: Write, noise: list[bytes], ending: str
) -> None:
    good = b'{"id": "good", "text": "t"}' if ending == "jsonl" else b"good,t"
    last = good.replace(b"good", b"last")
    header = [] if ending == "jsonl" else [b"id,text"]
    lines = [line.replace(b"\n", b"").replace(b'"', b"").replace(b"\r", b"") for line in noise]
    path = write(f"docs.{ending}", b"\n".join([*header, good, *lines, last]))

    ids = [row.document.doc_id for row in open_source(path) if isinstance(row, Row)]

    assert ids[0] == "good"
    assert ids[-1] == "last"
