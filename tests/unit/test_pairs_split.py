"""Nothing that was trained on comes back in the test, under whatever name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.errors import PairsInvalid
from training.judgments import JudgedDocument, read_documents, read_judgments
from training.pairs import Pair, read_pairs, text_key
from training.split import PairSplit, drop_evaluation_queries, split_pairs
from training.split_files import write_split

# Few names, so that they collide; case and spaces, so that they collide in secret.
_NAMES = st.sampled_from([f"{mark}{n}" for n in range(12) for mark in ("x", "X", " x")])
_IDS = st.none() | st.sampled_from([str(n) for n in range(12)])
_PAIRS = st.lists(
    st.builds(
        Pair,
        anchor=_NAMES,
        positive=_NAMES.map(lambda name: f"text {name}"),
        query_id=_IDS,
        doc_id=_IDS,
        group=_IDS,
        time_s=st.integers(0, 40).map(float),
    ),
    min_size=3,
    max_size=60,
)
_SHARES = st.sampled_from([0.0, 0.1, 0.3])


def _marks(pairs: Iterable[Pair]) -> set[tuple[str, str]]:
    """Everything by which a pair could be recognised, written down apart from the code."""
    return {
        mark
        for pair in pairs
        for mark in (
            ("query", text_key(pair.anchor)),
            ("positive", text_key(pair.positive)),
            ("query_id", pair.query_id),
            ("doc_id", pair.doc_id),
            ("group", pair.group),
        )
        if mark[1] is not None
    }  # type: ignore[return-value]


def _tried(pairs: list[Pair], **how: object) -> PairSplit | None:
    try:
        return split_pairs(pairs, **how)  # type: ignore[arg-type]
    except PairsInvalid:
        return None  # too entangled to be split, which is said and not hidden


@settings(max_examples=200, deadline=None)
@given(_PAIRS, _SHARES, _SHARES, st.booleans(), st.integers(0, 3))
def test_no_part_shares_anything_with_another(
    pairs: list[Pair], dev_share: float, test_share: float, by_time: bool, seed: int
) -> None:
    split = _tried(pairs, dev_share=dev_share, test_share=test_share, by_time=by_time, seed=seed)
    if split is None:
        return
    train, dev, test = map(_marks, (split.train, split.dev, split.test))
    assert not train & test
    assert not train & dev
    assert not dev & test


@settings(max_examples=100, deadline=None)
@given(_PAIRS, st.booleans())
def test_every_pair_is_in_one_part_or_dropped_by_name(pairs: list[Pair], by_time: bool) -> None:
    split = _tried(pairs, by_time=by_time)
    if split is None:
        return
    parts = [*split.train, *split.dev, *split.test, *split.dropped]
    assert sorted(map(repr, parts)) == sorted(map(repr, pairs))
    assert by_time or not split.dropped


@settings(max_examples=100, deadline=None)
@given(_PAIRS)
def test_by_time_whatever_is_tested_is_later_than_whatever_was_learned(pairs: list[Pair]) -> None:
    split = _tried(pairs, dev_share=0.2, test_share=0.2, by_time=True)
    if split is None:
        return
    times = [[pair.time_s or 0 for pair in part] for part in (split.train, split.dev, split.test)]
    assert max(times[0]) < min(times[1])
    assert max(times[1]) < min(times[2])


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_order_of_the_file_does_not_change_the_split(data: st.DataObject) -> None:
    pairs = data.draw(_PAIRS)
    first, second = (
        _tried(order, by_time=False) for order in (pairs, data.draw(st.permutations(pairs)))
    )
    assert (first is None) == (second is None)
    if first is not None and second is not None:
        assert sorted(map(repr, first.test)) == sorted(map(repr, second.test))


def _plain(n: int) -> list[Pair]:
    return [Pair(anchor=f"query {at}", positive=f"text {at}") for at in range(n)]


def test_the_shares_are_what_was_asked_for_and_the_seed_draws_anew() -> None:
    pairs = _plain(1_000)
    split = split_pairs(pairs, dev_share=0.05, test_share=0.2)
    assert (len(split.train), len(split.dev), len(split.test)) == (750, 50, 200)
    assert split_pairs(pairs, dev_share=0.05, test_share=0.2).test == split.test
    assert split_pairs(pairs, dev_share=0.05, test_share=0.2, seed=1).test != split.test


def test_documents_of_a_group_stay_together() -> None:
    pairs = [
        Pair(anchor=f"query {at}", positive=f"text {at}", group=f"contract {at // 20}")
        for at in range(400)
    ]
    split = split_pairs(pairs)
    assert split.components == 20
    assert len({pair.group for pair in split.test}) == 2


def test_pairs_that_all_hang_together_cannot_be_split_and_it_says_why() -> None:
    pairs = [Pair(anchor="the same", positive=f"text {at}") for at in range(30)]
    with pytest.raises(PairsInvalid, match="the largest has 30 pairs"):
        split_pairs(pairs)


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    with pytest.raises(PairsInvalid, match=r"--test-share 0\.6"):
        split_pairs(_plain(10), dev_share=0.4, test_share=0.6)


def test_by_time_needs_times_and_is_the_default_where_all_have_one() -> None:
    pairs = _plain(50)
    with pytest.raises(PairsInvalid, match="50 of 50 pairs have no time_s"):
        split_pairs(pairs, by_time=True)
    assert not split_pairs(pairs).by_time
    timed = [Pair(anchor=f"q{at}", positive=f"t{at}", time_s=float(at)) for at in range(50)]
    split = split_pairs(timed)
    assert split.by_time
    assert (split.dev_from_s, split.test_from_s) == (40.0, 45.0)


def test_evaluation_queries_are_recognised_by_text_and_by_id() -> None:
    pairs = [
        Pair(anchor="What is  BRIE?", positive="cheese"),
        Pair(anchor="what is brie made of", positive="milk", query_id="q7"),
        Pair(anchor="what is felt", positive="wool", query_id="q9"),
        Pair(anchor="what is felt", positive="wool", query_id="q8"),
    ]
    kept, dropped = drop_evaluation_queries(
        pairs,
        {
            "q1": "what is brie",
            "q7": "of what is brie made?",
            "q8": "another file, another question 8",
        },
    )
    assert kept == pairs[2:]
    assert dropped == pairs[:2]


# -- the folder -----------------------------------------------------------------------------------


def _written(tmp_path: Path, documents: Iterable[JudgedDocument] | None = None) -> PairSplit:
    split = PairSplit(
        train=[Pair(anchor="a", positive="Alpha.", negatives=("Minus.",), doc_id="d1")],
        dev=[Pair(anchor="b", positive="Beta.", doc_id="d1", query_id="q\t1")],
        test=[
            Pair(anchor="c", positive="Gamma.", doc_id="d3", query_id="q1", score=0.9),
            Pair(anchor="c", positive="alpha", query_id="q1", score=0.1),
            Pair(anchor="d", positive="Delta.", query_id="q1", score=0.2),
        ],
        dropped=[Pair(anchor="e", positive="Epsilon.", doc_id="d5")],
        components=3,
        largest_component=3,
        by_time=False,
    )
    n_documents = write_split(split, tmp_path, documents=documents)
    assert n_documents == len((tmp_path / "corpus.jsonl").read_text().splitlines())
    return split


def test_the_folder_holds_the_parts_and_can_be_evaluated_on(tmp_path: Path) -> None:
    split = _written(tmp_path)
    assert read_pairs(tmp_path / "train.jsonl") == split.train
    assert read_pairs(tmp_path / "test.jsonl") == split.test
    texts = {document.doc_id: document.full_text for document in read_documents(tmp_path)}
    assert sorted(texts.values()) == [
        "Alpha.", "Beta.", "Delta.", "Epsilon.", "Gamma.", "Minus.",
    ]  # fmt: skip
    judgments = read_judgments(tmp_path, "test")
    assert judgments.queries == {"q1": "c"}  # "d" has nothing that fits
    assert {texts[doc_id]: grade for doc_id, grade in judgments.qrels["q1"].items()} == {
        "Gamma.": 1,
        "Alpha.": 0,
    }
    dev = read_judgments(tmp_path, "dev")
    (answer,) = dev.qrels["q 1"]  # a tab would break the file
    assert texts[answer] == "Beta."
    assert answer != "d1", "another text has that id"


def test_given_documents_are_searched_whole_and_judged_by_their_id(tmp_path: Path) -> None:
    documents = [
        JudgedDocument("d3", "Third", "Gamma. And what comes after it."),
        JudgedDocument("d8", "Eighth", "Never asked for."),
        JudgedDocument("d9", "", "ALPHA"),
    ]
    _written(tmp_path, documents)
    texts = {document.doc_id: document for document in read_documents(tmp_path)}
    assert texts["d3"].title == "Third"
    assert texts["d8"].text == "Never asked for."
    assert "Gamma." not in {document.text for document in texts.values()}
    assert read_judgments(tmp_path, "test").qrels["q1"] == {"d3": 1, "d9": 0}


def test_writing_again_leaves_nothing_of_the_split_before(tmp_path: Path) -> None:
    _written(tmp_path)
    split = PairSplit(
        train=_plain(2), dev=[], test=[Pair(anchor="z", positive="Zeta.")],
        components=3, largest_component=1, by_time=False,
    )  # fmt: skip
    write_split(split, tmp_path)
    assert not (tmp_path / "qrels" / "dev.tsv").exists()
    rows = (tmp_path / "corpus.jsonl").read_text().splitlines()
    assert {json.loads(row)["text"] for row in rows} == {"text 0", "text 1", "Zeta."}
