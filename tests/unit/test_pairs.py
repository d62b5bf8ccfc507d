"""Pairs are read from any usual file, and what is wrong with one is said with place and remedy."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from training.errors import JudgmentsInvalid, PairsInvalid
from training.pair_sources import open_pairs
from training.pairs import Pair, PairRow, RejectedRow, pairs_hash, read_pairs, text_key, write_pairs

FULL = Pair(
    anchor="How is a cheese ripened?",
    positive="It lies in a cool cellar for months.",
    negatives=("Milk is heated first.",),
    score=0.75,
    query_id="q1",
    doc_id="d1",
    group="cheese",
    time_s=1_700_000_000.0,
)
PLAIN = Pair(anchor="warm socks", positive="Woollen socks keep feet warm.")


def _lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rejections(path: Path, **how: Any) -> list[RejectedRow]:
    return [row for row in open_pairs(path, **how) if isinstance(row, RejectedRow)]


def _reasons(path: Path, **how: Any) -> dict[str, str]:
    return {row.where: row.reason for row in _rejections(path, **how)}


# -- the record -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor": " "}, "the anchor is empty"),
        ({"positive": ""}, "the positive is empty"),
        ({"negatives": ("a", "\n")}, "a negative is empty"),
        ({"score": 1.5}, r"the score is 1.5, expected 0 to 1"),
        ({"score": float("nan")}, "the score is nan"),
        ({"time_s": float("inf")}, "the time is inf"),
    ],
)
def test_a_pair_that_cannot_be_one_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PairsInvalid, match=message):
        Pair(**{"anchor": "a", "positive": "b", **change})


def test_texts_are_the_same_whatever_their_case_spacing_and_final_mark() -> None:
    assert text_key("  What IS\n this? ") == text_key("what is this")
    assert text_key("ﬁne") == text_key("fine")
    assert text_key("C++") != text_key("C#")


# -- files ----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "pairs.jsonl"
    assert write_pairs(path, [FULL, PLAIN]) == 2
    assert read_pairs(path) == [FULL, PLAIN]
    assert [file.name for file in path.parent.iterdir()] == ["pairs.jsonl"]


def test_a_file_that_cannot_be_finished_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, [PLAIN])

    def failing() -> Any:
        yield FULL
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_pairs(path, failing())
    assert read_pairs(path) == [PLAIN]
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.jsonl"]


def _as_csv(path: Path, pairs: Sequence[Pair], delimiter: str = ",") -> Path:
    rows = [pair.to_json() for pair in pairs]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, delimiter=delimiter)
        writer.writeheader()
        for row in rows:
            if "negatives" in row:
                row["negatives"] = json.dumps(row["negatives"])
            writer.writerow(row)
    return path


def test_no_damaged_byte_of_parquet_stops_with_an_error_of_the_library(tmp_path: Path) -> None:
    pairs = [Pair(anchor=f"query {n % 3}", positive=f"answer {n}") for n in range(20)]
    whole = _as_parquet(tmp_path / "p.parquet", pairs).read_bytes()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "p.parquet").write_bytes(damaged)
        with contextlib.suppress(PairsInvalid):
            read_pairs(tmp_path / "p.parquet")


def _as_parquet(path: Path, pairs: Sequence[Pair]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist([pair.to_json() for pair in pairs]), path)
    return path


def test_the_hash_is_the_same_for_every_file_format_and_order(tmp_path: Path) -> None:
    pairs = [FULL, PLAIN]
    expected = pairs_hash(pairs)
    write_pairs(tmp_path / "p.jsonl", pairs[::-1])
    assert pairs_hash(read_pairs(tmp_path / "p.jsonl")) == expected
    assert pairs_hash(read_pairs(_as_csv(tmp_path / "p.csv", pairs))) == expected
    assert pairs_hash(read_pairs(_as_csv(tmp_path / "p.tsv", pairs, "\t"))) == expected
    assert pairs_hash(read_pairs(_as_parquet(tmp_path / "p.parquet", pairs))) == expected
    assert pairs_hash([FULL]) != expected
    assert pairs_hash([FULL, PLAIN, PLAIN]) != expected


def test_a_compressed_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(PLAIN.to_json()).encode()))
    assert read_pairs(path) == [PLAIN]


def test_a_saved_dataset_is_read_by_split(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"question": "who?", "answer": "me"}, {"question": "where?", "answer": "here"}]
    dataset = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)})
    dataset.save_to_disk(tmp_path / "saved")
    assert [pair.positive for pair in read_pairs(tmp_path / "saved")] == ["me", "here"]
    with pytest.raises(PairsInvalid, match="has the splits train; expected 'dev'"):
        open_pairs(tmp_path / "saved", split="dev")


def test_every_broken_line_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    good = json.dumps(PLAIN.to_json()).encode()
    path.write_bytes(
        b"\n".join(
            [
                good,
                b'{"anchor": "cut off',
                b'{"anchor": "caf\xe9", "positive": "x"}',
                b"[1, 2]",
                b"",
                b'{"anchor": "a", "positive": null}',
                b'{"anchor": ["a", "b"], "positive": "c"}',
                b'{"anchor": "a", "positive": 7}',
                b'{"anchor": "a", "positive": "b", "score": 1.2}',
                b'{"anchor": "a", "positive": "b", "time_s": "soon"}',
                good,
            ]
        )
    )
    rows = list(open_pairs(path))
    assert [row.pair for row in rows if isinstance(row, PairRow)] == [PLAIN, PLAIN]
    reasons = {row.where: row.reason for row in rows if isinstance(row, RejectedRow)}
    for where, expected in {
        "pairs.jsonl:2": "broken JSON at character",
        "pairs.jsonl:3": "not UTF-8: byte 0xe9 at byte 16",
        "pairs.jsonl:4": "not a JSON object",
        "pairs.jsonl:6": "the positive is missing",
        "pairs.jsonl:7": "the anchor is a list of 2, expected one text",
        "pairs.jsonl:8": "the positive is a int, expected text",
        "pairs.jsonl:9": "--score-max",
        "pairs.jsonl:10": "the time is 'soon'",
    }.items():
        assert expected in reasons.pop(where)
    assert not reasons


def test_a_csv_row_is_named_by_the_line_it_begins_on(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_bytes(
        b'anchor,positive\n"two\nlines",fine\ntoo,many,fields\n\nbad,\xff\n"never closed,x\n'
    )
    rows = list(open_pairs(path))
    assert [row.pair.anchor for row in rows if isinstance(row, PairRow)] == ["two\nlines"]
    reasons = [(row.where, row.reason) for row in rows if isinstance(row, RejectedRow)]
    assert [where for where, _ in reasons] == ["pairs.csv:4", "pairs.csv:6", "pairs.csv:7"]
    assert "3 fields, the header has 2" in reasons[0][1]
    assert "not UTF-8" in reasons[1][1]


def test_training_refuses_a_file_with_bad_rows_and_says_how_to_clean_it(tmp_path: Path) -> None:
    path = _lines(tmp_path / "pairs.jsonl", PLAIN.to_json(), {"anchor": "", "positive": "b"})
    with pytest.raises(PairsInvalid, match=r"1 of 2 pairs .*pairs\.jsonl:2: the anchor is empty"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", b"", "is empty"),
        ("p.csv", b"", "is empty"),
        ("p.json", b"[\n{}\n]", "jq -c"),
        ("p.jsonl", "ä".encode("utf-16"), "iconv -f UTF-16"),
        ("p.parquet", b"not", "cannot be read as Parquet"),
        ("p.xyz", b"", "--format jsonl|csv|parquet|clicks"),
        ("p.csv", b"a,a\n1,2\n", "names 'a' twice"),
    ],
)
def test_a_file_that_is_something_else_says_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PairsInvalid, match=message.replace("|", r"\|")):
        read_pairs(path)


def test_a_click_log_is_not_trained_on_as_it_is(tmp_path: Path) -> None:
    path = _lines(tmp_path / "log.jsonl", {"query": "q", "doc_id": "d", "clicked": True})
    with pytest.raises(PairsInvalid, match="make pairs of it first: `reindexer pairs build"):
        read_pairs(path)


def test_a_missing_file_is_not_taken_for_a_dataset_of_the_hub(tmp_path: Path) -> None:
    with pytest.raises(PairsInvalid, match="there is no file"):
        read_pairs(tmp_path / "pairs.jsonl")
    with pytest.raises(PairsInvalid, match="there is no file"):
        read_pairs("nowhere/pairs.jsonl")


# -- columns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [("query", "passage"), ("Question", "answer"), ("sentence1", "sentence2"), ("text1", "text2")],
)
def test_usual_names_are_understood(tmp_path: Path, names: tuple[str, str]) -> None:
    path = _lines(tmp_path / "p.jsonl", {names[0]: "a?", names[1]: "b", "other": 1})
    source = open_pairs(path)
    assert source.renamed == {names[0]: "anchor", names[1]: "positive"}
    assert read_pairs(path) == [Pair(anchor="a?", positive="b")]


def test_names_nobody_knows_get_the_rename_to_make_shortest_text_first(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.jsonl", {"antwort": "a long text that answers", "frage": "why?"})
    with pytest.raises(PairsInvalid) as caught:
        read_pairs(path, loss="mnrl")
    advice = f"reindexer pairs build {path} --rename frage=anchor --rename antwort=positive"
    assert advice in str(caught.value)
    found = list(open_pairs(path, rename={"frage": "anchor", "antwort": "positive"}))
    assert [row.pair.anchor for row in found if isinstance(row, PairRow)] == ["why?"]


def test_two_names_for_one_thing_are_a_question(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.jsonl", {"query": "a", "answer": "b", "context": "c"})
    with pytest.raises(PairsInvalid, match="--rename answer=positive or --rename context=positive"):
        read_pairs(path)
    kept = open_pairs(path, rename={"context": "positive"})
    assert [row.pair.positive for row in kept if isinstance(row, PairRow)] == ["c"]


def test_a_rename_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.jsonl", {"q": "a", "positive": "b"})
    with pytest.raises(PairsInvalid, match="has no column 'x'; it has q, positive"):
        open_pairs(path, rename={"x": "anchor"})
    with pytest.raises(PairsInvalid, match="there is no column 'query'"):
        open_pairs(path, rename={"q": "query"})


@pytest.mark.parametrize(
    ("loss", "row", "message"),
    [
        ("triplet", {"anchor": "a", "positive": "b"}, r'"negatives":\["a text that does not"\]'),
        ("cosent", {"anchor": "a", "positive": "b"}, r'"score":0.8'),
        ("triplet", {"anchor": "a", "positive": "b", "negatives": []}, "pair 1 .* has no negative"),
        ("cosent", {"anchor": "a", "positive": "b", "score": None}, "pair 1 .* has no score"),
        ("mnrl", {"anchor": "a", "positive": "b", "label": 0}, "--min-score 0.5"),
        ("nonsense", {"anchor": "a", "positive": "b"}, "expected one of mnrl, cached-mnrl"),
    ],
)
def test_pairs_are_checked_against_the_loss(
    tmp_path: Path, loss: str, row: dict[str, Any], message: str
) -> None:
    path = _lines(tmp_path / "p.jsonl", row)
    with pytest.raises(PairsInvalid, match=message):
        read_pairs(path, loss=loss)


@pytest.mark.parametrize(
    ("loss", "row"),
    [
        ("mnrl", {"anchor": "a", "positive": "b"}),
        ("cached-mnrl", {"anchor": "a", "positive": "b", "score": 0.9}),
        ("gist", {"anchor": "a", "positive": "b", "negative": "c"}),
        ("triplet", {"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": "d"}),
        ("cosent", {"text1": "a", "text2": "b", "label": 0}),
    ],
)
def test_pairs_that_fit_the_loss_pass(tmp_path: Path, loss: str, row: dict[str, Any]) -> None:
    (pair,) = read_pairs(_lines(tmp_path / "p.jsonl", row), loss=loss)
    assert pair.negatives == tuple(
        text for name, text in row.items() if name.startswith("negative")
    )


def test_lists_of_positives_become_pairs_with_their_own_ids(tmp_path: Path) -> None:
    path = _lines(
        tmp_path / "p.jsonl",
        {
            "query": "q",
            "positive_passages": [
                {"docid": "1", "title": "T", "text": "one"},
                {"docid": "2", "title": "", "text": "two"},
            ],
            "negative_passages": [{"docid": "3", "title": "", "text": "no"}],
        },
    )
    pairs = read_pairs(path)
    assert [(pair.doc_id, pair.positive) for pair in pairs] == [("1", "T one"), ("2", "two")]
    assert all(pair.negatives == ("no",) for pair in pairs)


@pytest.mark.parametrize(
    "time", [1_700_000_000, 1_700_000_000_000, "2023-11-14T22:13:20+00:00", "2023-11-14T22:13:20"]
)
def test_times_are_read_however_they_are_written(tmp_path: Path, time: object) -> None:
    path = _lines(tmp_path / "p.jsonl", {"anchor": "a", "positive": "b", "timestamp": time})
    assert read_pairs(path)[0].time_s == 1_700_000_000.0


def test_scores_are_scaled_by_the_best_one(tmp_path: Path) -> None:
    path = _lines(tmp_path / "p.jsonl", {"text1": "a", "text2": "b", "score": 4})
    assert _rejections(path)
    (row,) = open_pairs(path, score_max=5)
    assert isinstance(row, PairRow)
    assert row.pair.score == 0.8


# -- judgments ------------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    _lines(
        folder / "corpus.jsonl",
        {"_id": "d1", "title": "Brie", "text": "A soft cheese.", "metadata": {"kind": "cheese"}},
        {"_id": "d2", "title": "", "text": "Wool is warm."},
        {"_id": "d3", "title": "", "text": " "},
    )
    _lines(folder / "queries.jsonl", {"_id": "q1", "text": "soft?"}, {"_id": "q2", "text": "warm?"})
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq2\td3\t1\nq2\td9\t1\n"
    )
    return folder


def test_judgments_above_zero_become_pairs_with_title_and_text(judged: Path) -> None:
    source = list(open_pairs(judged, group_field="kind"))
    assert [row.pair for row in source if isinstance(row, PairRow)] == [
        Pair(
            anchor="soft?",
            positive="Brie A soft cheese.",
            query_id="q1",
            doc_id="d1",
            group="cheese",
        ),
        Pair(anchor="warm?", positive="Wool is warm.", query_id="q2", doc_id="d2"),
    ]
    assert _reasons(judged) == {
        "qrels/train.tsv query q2 document d3": "the positive is empty",
        "qrels/train.tsv query q2 document d9": "the document is not in corpus.jsonl",
    }


def test_grades_become_scores_for_cosent(judged: Path) -> None:
    rows = open_pairs(judged, loss="cosent")
    scores = {row.pair.doc_id: row.pair.score for row in rows if isinstance(row, PairRow)}
    assert scores == {"d1": 1.0, "d2": 0.5}
    graded = [row.pair for row in open_pairs(judged, graded=True) if isinstance(row, PairRow)]
    assert [pair.score for pair in graded] == [1.0, 0.0, 0.5]


def test_a_split_that_is_not_there_names_those_that_are(judged: Path) -> None:
    with pytest.raises(JudgmentsInvalid, match="found the splits train"):
        list(open_pairs(judged, split="test"))
