"""Parquet: what a column type becomes, and what one bad value costs."""

from __future__ import annotations

import contextlib
import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from reindexer.errors import SourceInvalid
from reindexer.sources import Rejected, Row, open_source
from search.documents import Document


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path, **options)
    return path


def test_rows_become_documents(tmp_path: Path) -> None:
    path = write(
        tmp_path / "docs.parquet",
        {
            "id": [1, 2],
            "title": ["A", None],
            "text": ["one", "two"],
            "year": [2020, None],
            "score": [0.5, float("nan")],
            "tags": [["x", "y"], []],
            "author": [{"name": "N", "age": 3}, None],
            "day": [datetime.date(2024, 1, 2), None],
            "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
            "raw": [b"\xff", None],
        },
    )

    rows = list(open_source(path))

    assert rows == [
        Row(
            where="docs.parquet:1",
            document=Document.of(
                doc_id="1",
                title="A",
                text="one",
                metadata={
                    "year": 2020,
                    "score": 0.5,
                    "tags": ["x", "y"],
                    "author.name": "N",
                    "author.age": 3,
                    "day": "2024-01-02",
                    "price": 1.5,
                },
            ),
        ),
        Row(
            where="docs.parquet:2",
            document=Document.of(doc_id="2", text="two", metadata={"tags": [], "price": 2}),
        ),
    ]


def test_nanoseconds_and_categories_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "docs.parquet",
        {
            "id": ["a"],
            "text": pa.array(["t"]).dictionary_encode(),
            "at": pa.array([1_700_000_000_123_456_789], pa.timestamp("ns", "UTC")),
        },
    )

    (row,) = open_source(path)

    assert isinstance(row, Row)
    assert row.document.metadata == {"at": "2023-11-14T22:13:20.123456+00:00"}


def test_rows_with_nulls_are_rejected_and_the_others_go_in(tmp_path: Path) -> None:
    path = write(
        tmp_path / "docs.parquet",
        {"id": ["a", None, "c", "d"], "text": ["t", "t", None, "t"]},
    )

    rows = list(open_source(path))

    assert [row.document.doc_id for row in rows if isinstance(row, Row)] == ["a", "d"]
    assert [row for row in rows if isinstance(row, Rejected)] == [
        Rejected(where="docs.parquet:2", reason="no id: looked for _id, id, doc_id"),
        Rejected(where="docs.parquet:3", reason="the text is null", doc_id="c"),
    ]


def test_text_that_is_not_utf8_spoils_its_own_row_only(tmp_path: Path) -> None:
    text = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    path = write(tmp_path / "docs.parquet", {"id": ["a", "b", "c"], "text": text})

    rows = list(open_source(path))

    assert [type(row) for row in rows] == [Row, Rejected, Row]
    assert "not UTF-8" in rows[1].reason  # type: ignore[union-attr]


def test_a_column_that_is_not_there_is_said_with_the_flag_to_use(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.parquet", {"id": [1], "abstract": ["t"]})

    with pytest.raises(SourceInvalid, match=r"fields are abstract, id.*--text-field FIELD"):
        open_source(path)
    assert len(list(open_source(path, text_field="abstract"))) == 1


def test_a_damaged_page_gives_what_was_read_and_says_where_it_breaks_off(tmp_path: Path) -> None:
    path = write(
        tmp_path / "docs.parquet",
        {"id": [f"d{i}" for i in range(10_000)], "text": [f"text {i}" for i in range(10_000)]},
        row_group_size=1_000,
        compression="snappy",
    )
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5_000] = b"\xff" * 5_000
    path.write_bytes(content)

    rows = list(open_source(path))

    assert len(rows) > 1_000
    assert isinstance(rows[-1], Rejected)
    assert rows[-1].where == f"docs.parquet:{len(rows)}"
    assert "breaks off here" in rows[-1].reason


def test_no_damaged_byte_stops_the_reading_with_an_error_of_the_library(tmp_path: Path) -> None:
    rows = {"id": [f"d{n}" for n in range(20)], "text": [f"text {n % 3}" for n in range(20)]}
    whole = write(tmp_path / "docs.parquet", rows, compression="none").read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "docs.parquet").write_bytes(damaged)
        with contextlib.suppress(SourceInvalid):
            list(open_source(str(tmp_path / "docs.parquet")))


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.parquet", {"id": list(range(10)), "text": ["t"] * 10})
    source = open_source(path)

    rows = iter(source)
    for _ in range(5):
        next(rows)

    assert source.share_read == 0.5


def test_a_value_that_a_small_file_repeats_stays_one_value(tmp_path: Path) -> None:
    """330 MB of text in 1 MB: neither a batch of it nor a text that is too long ends it."""
    path, n_rows = tmp_path / "bomb.parquet", 60
    texts = pa.array(["long " * 1_000_000, "too long " * 1_200_000])
    rows = pa.table(
        {
            "id": [f"d{n}" for n in range(n_rows)],
            "text": pa.DictionaryArray.from_arrays(pa.array([0, 1] * (n_rows // 2)), texts),
        }
    )
    pyarrow.parquet.write_table(rows, path, store_schema=False)
    assert path.stat().st_size < 2_000_000
    before, most, kinds = pa.total_allocated_bytes(), 0, []

    for row in open_source(path).rows(None):
        most = max(most, pa.total_allocated_bytes() - before)
        kinds.append(type(row))
        if isinstance(row, Rejected):
            assert "10,000,000" in row.reason
            assert row.where == f"bomb.parquet:{len(kinds)}"

    assert kinds == [Row, Rejected] * (n_rows // 2)
    assert most < 100_000_000
