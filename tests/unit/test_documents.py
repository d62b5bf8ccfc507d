"""Documents and filters: what can be stored, and what a condition means."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.documents import (
    MAX_TEXT_BYTES,
    Condition,
    Document,
    canonical_metadata,
    filter_from_json,
    metadata_from_json,
    metadata_json,
    parse_condition,
    parse_filter,
    point_id,
)
from search.errors import InvalidDocument, InvalidQuery

storable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
scalars = st.one_of(
    storable,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)
metadata = st.dictionaries(storable.filter(bool), scalars | st.lists(scalars, max_size=3))


def of(**fields: Any) -> Document:
    return Document.of(**{"doc_id": "a", "text": "text"} | fields)


@given(metadata)
def test_metadata_come_back_from_json_as_they_were(value: dict[str, object]) -> None:
    canonical = canonical_metadata(value)

    assert metadata_from_json(metadata_json(canonical)) == canonical
    assert metadata_json(canonical_metadata(canonical)) == metadata_json(canonical)


@given(st.text(), st.text(), st.text(), st.text())
def test_documents_that_differ_have_different_hashes(a: str, b: str, c: str, d: str) -> None:
    one = Document(doc_id="x", title=a, text=b)
    two = Document(doc_id="x", title=c, text=d)
    try:
        hashes = one.content_hash, two.content_hash
    except UnicodeEncodeError:
        return
    assert (hashes[0] == hashes[1]) == ((a, b) == (c, d))


def test_equal_documents_have_equal_hashes_whatever_the_form() -> None:
    one = of(metadata={"b": 2.0, "a": ["x", None, 1], "c": None})
    two = of(metadata={"a": ("x", 1.0), "b": 2})

    assert one.content_hash == two.content_hash
    assert of(metadata={"a": True}).content_hash != of(metadata={"a": 1}).content_hash


def test_the_content_hash_stays_the_same_from_release_to_release() -> None:
    """Another hash would count every stored document as changed."""
    document = of(title="Tïtle", metadata={"year": 2024, "score": 0.1, "tags": ["x", "ÿ"]})

    assert document.content_hash == "754be51b9e800dcb1fa1211a163c19f4"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"doc_id": None}, "no id"),
        ({"doc_id": ""}, "no id"),
        ({"doc_id": "  "}, "no id"),
        ({"doc_id": 1.5}, "the id is of type float"),
        ({"doc_id": True}, "the id is a boolean"),
        ({"doc_id": "a\nb"}, "control character"),
        ({"doc_id": "ä" * 257}, "514 bytes, at most 512"),
        ({"doc_id": "\ud800"}, "not valid Unicode"),
        ({"text": None}, "the text is null"),
        ({"text": ["a"]}, "the text is a list"),
        ({"text": "a\x00b"}, "the text contains a NUL"),
        ({"text": "ab\udc80"}, "surrogate pair at character 2"),
        ({"text": " \n", "title": ""}, "the text and the title are empty"),
        ({"title": 5}, "the title is of type int"),
        ({"text": "x" * (MAX_TEXT_BYTES + 1)}, "10,000,001 bytes.*split the document"),
        ({"text": "ä" * (MAX_TEXT_BYTES // 2), "title": "t"}, "10,000,001 bytes"),
        ({"metadata": {"a": {"b": 1}}}, "'a' holds an object"),
        ({"metadata": {"a": [[1]]}}, "'a' holds a list"),
        ({"metadata": {"a": float("nan")}}, "'a' is nan, expected a finite number"),
        ({"metadata": {"a": 2**63}}, "outside 64-bit"),
        ({"metadata": {"a": "x\x00"}}, "'a' contains a NUL"),
        ({"metadata": {"": 1}}, "key '' is not usable"),
        ({"metadata": {1: 1, "a": 2}}, "key 1 is not usable"),
        ({"metadata": {"\ud800": 1}}, "a metadata key is not valid Unicode"),
        ({"metadata": {"a": "x" * 100_000}}, "metadata is larger than 100,000 bytes"),
        ({"source": ""}, "source name '' is not usable"),
        ({"source": "a\nb"}, "source name"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_reason(
    fields: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidDocument, match=reason):
        of(**fields)


def test_usual_values_are_taken() -> None:
    document = of(doc_id=7, text="", title="Only a title", metadata={"a": 1.0, "b": None})

    assert (document.doc_id, document.text) == ("7", "")
    assert document.metadata == {"a": 1}
    assert of(title=None).title == ""


def test_a_document_can_be_copied_to_another_process() -> None:
    document = of(metadata={"tags": ["x"], "year": 2})

    assert pickle.loads(pickle.dumps(document)) == document
    assert json.loads(json.dumps(asdict(document)))["metadata"] == {"tags": ["x"], "year": 2}


def test_point_ids_never_change() -> None:
    assert str(point_id("doc", 3)) == "ca3305f7-b6c4-54f4-ae9b-c8f9816bcfee"


@pytest.mark.parametrize(
    ("text", "metadata", "matches"),
    [
        ("year=2020", {"year": 2020}, True),
        ("year=2020", {"year": "2020"}, True),
        ("year=2020.0", {"year": 2020}, True),
        ("year=2020", {"year": 2021}, False),
        ("year=2020", {}, False),
        ("flag=true", {"flag": True}, True),
        ("flag=1", {"flag": True}, False),
        ("kind=a|b", {"kind": "b"}, True),
        ("kind=a|b", {"kind": "c"}, False),
        ("tags=x", {"tags": ("y", "x")}, True),
        ("url=http://x/?a=1", {"url": "http://x/?a=1"}, True),
        ("year>=3", {"year": 3}, True),
        ("year > 3", {"year": 3}, False),
        ("year<3", {"year": "2"}, False),
        ("year<=3", {"year": True}, False),
        ("year=1..5", {"year": 5}, True),
        ("year=1..5", {"year": 5.5}, False),
        ("id=9007199254740993", {"id": 9007199254740993}, True),
        ("id=9007199254740993", {"id": 9007199254740992}, False),
        ("isbn=99999999999999999999", {"isbn": "99999999999999999999"}, True),
        ("empty=", {"empty": ""}, True),
        ("x=1e400", {"x": "1e400"}, True),
    ],
)
def test_a_condition_means_what_it_says(
    text: str, metadata: dict[str, object], matches: bool
) -> None:
    (condition,) = parse_filter([text])

    assert condition.matches(canonical_metadata(metadata)) is matches


@pytest.mark.parametrize("text", ["year", "=x", ">=3", "year>=x", "", "..", "a>nan"])
def test_a_condition_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        parse_condition(text)


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        (condition,) = parse_filter([text])
    except InvalidQuery:
        return
    assert condition.field


def test_filters_come_from_json() -> None:
    assert filter_from_json({"year": {"gte": 1, "lt": 5}, "kind": ["a", "b"], "n": 3}) == (
        Condition(field="year", gte=1.0, lt=5.0),
        Condition(field="kind", any_of=("a", "b")),
        Condition(field="n", any_of=(3,)),
    )
    assert filter_from_json(None) == filter_from_json({}) == ()


@pytest.mark.parametrize(
    "value",
    [
        ["year"],
        {"year": {}},
        {"year": {"above": 3}},
        {"year": {"gte": "3"}},
        {"year": {"gte": True}},
        {"year": {"gte": float("nan")}},
        {"year": {"gte": 10**400}},
        {"year": []},
        {"year": None},
        {"year": [None]},
        {"year": 2**63},
        {"year": float("inf")},
        {"": 3},
        {"kind": ["letter", "\udc80x"]},
        {"\udc80": "x"},
        {"kind": [str(i) for i in range(257)]},
        {f"f{i}": 1 for i in range(33)},
    ],
    ids=ascii,
)
def test_a_filter_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(InvalidQuery):
        filter_from_json(value)
