"""A set of pairs is built clean: nothing twice, nothing contradictory, nothing lost in silence."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable

import pytest

from training.duplicates import _jaccard, _signatures, near_duplicates
from training.pair_build import build_pairs
from training.pairs import Pair, PairRow, RejectedRow

WORDS = [f"word{number}" for number in range(3_000)]


def _rows(pairs: Iterable[Pair]) -> list[PairRow | RejectedRow]:
    return [PairRow(where=f"p:{at}", pair=pair) for at, pair in enumerate(pairs, 1)]


def _text(draw: random.Random, n_words: int) -> str:
    return " ".join(draw.choices(WORDS, k=n_words))


def test_equal_pairs_are_kept_once_with_the_negatives_of_all() -> None:
    pairs, report = build_pairs(
        _rows(
            [
                Pair(anchor="What is brie?", positive="A cheese.", negatives=("A wool.",)),
                Pair(anchor="what is  BRIE", positive="a cheese", negatives=("A drum.",)),
                Pair(anchor="What is felt?", positive="A cheese."),
            ]
        )
    )
    assert [pair.negatives for pair in pairs] == [("A wool.", "A drum."), ()]
    assert (report.read, report.kept, report.duplicates_exact) == (3, 2, 1)


def test_what_answers_an_anchor_elsewhere_is_no_negative_of_it() -> None:
    pairs, report = build_pairs(
        _rows(
            [
                Pair(anchor="brie?", positive="A cheese.", negatives=("From Meaux.", "A wool.")),
                Pair(anchor="Brie", positive="from Meaux", negatives=("A wool.", "a wool")),
            ]
        )
    )
    assert [pair.negatives for pair in pairs] == [("A wool.",), ("A wool.",)]
    assert report.negatives_dropped == 1


def test_pairs_that_teach_nothing_are_rejected_with_place_and_reason() -> None:
    rows = _rows(
        [
            Pair(anchor="Same text", positive="same text."),
            Pair(anchor="a" * 11, positive="b"),
            Pair(anchor="a", positive="b" * 11),
            Pair(anchor="a", positive="b", negatives=("c" * 11,)),
            Pair(anchor="a", positive="b", score=0.2),
            Pair(anchor="a", positive="b", score=0.9),
        ]
    )
    rows.append(RejectedRow(where="p:7", reason="broken JSON"))
    pairs, report = build_pairs(rows, max_characters=10)
    assert [pair.score for pair in pairs] == [0.2]
    assert [(row.where, row.reason.split(",")[0]) for row in report.rejected] == [
        ("p:1", "anchor and positive are the same text"),
        ("p:2", "the anchor has 11 characters"),
        ("p:3", "the positive has 11 characters"),
        ("p:4", "the negative has 11 characters"),
        ("p:6", "the same pair came before with the score 0.2"),
        ("p:7", "broken JSON"),
    ]
    assert report.read == report.kept + report.rejected_total == 7


def test_pairs_below_the_wanted_score_are_counted() -> None:
    rows = _rows(
        Pair(anchor=f"a{at}", positive="b", score=score)
        for at, score in enumerate((0.4, 0.5, None))
    )
    pairs, report = build_pairs(rows, min_score=0.5)
    assert [pair.score for pair in pairs] == [0.5, None]
    assert report.below_score == 1


def test_a_pair_whose_long_texts_differ_in_a_word_is_a_near_duplicate() -> None:
    draw = random.Random(1)
    anchor, positive = _text(draw, 40), _text(draw, 150)
    pairs = [
        Pair(anchor=anchor, positive=positive),
        Pair(anchor=anchor, positive=positive.replace(positive.split()[70], "changed")),
        Pair(anchor=anchor, positive=_text(draw, 150)),  # another answer
        Pair(anchor=_text(draw, 40), positive=positive),  # another question
        Pair(anchor=anchor, positive=positive, score=0.3),  # another judgment
    ]
    assert near_duplicates(pairs) == {1: 0}


@pytest.mark.parametrize("changed", ["increases", "risk"])
def test_one_word_makes_another_query_of_a_short_one(changed: str) -> None:
    query = "smoking increases the risk"
    other = query.replace(changed, "something")
    assert near_duplicates([Pair(anchor=text, positive="p") for text in (query, other)]) == {}


def test_near_duplicates_are_found_without_fail_and_never_invented() -> None:
    draw = random.Random(2)
    pairs: list[Pair] = []
    expected = 0
    for _ in range(150):
        anchor, positive = _text(draw, 30), _text(draw, 100)
        words = positive.split()
        words[draw.randrange(100)] = "changed"
        copy = " ".join(words)
        pairs += [Pair(anchor=anchor, positive=positive), Pair(anchor=anchor, positive=copy)]
        expected += _jaccard(positive, copy) >= 0.8
    draw.shuffle(pairs)
    found = near_duplicates(pairs)
    assert expected == 150
    assert len(found) == expected
    assert all(pairs[at].anchor == pairs[earlier].anchor for at, earlier in found.items())
    assert all(earlier < at for at, earlier in found.items())


def test_a_near_duplicate_is_found_among_thousands_on_the_same_document() -> None:
    draw = random.Random(3)
    shared = _text(draw, 100)
    pairs = [Pair(anchor=_text(draw, 8), positive=shared) for _ in range(2_000)]
    pairs += [Pair(anchor="the same question", positive=_text(draw, 30)) for _ in range(2_000)]
    long = _text(draw, 40)
    pairs[10] = Pair(anchor=long, positive=shared)
    pairs[1_990] = Pair(anchor=f"{long} please", positive=shared)
    began = time.monotonic()
    assert near_duplicates(pairs) == {1_990: 10}
    assert time.monotonic() - began < 10


def test_thousands_of_near_duplicates_leave_one() -> None:
    draw = random.Random(4)
    words = _text(draw, 200).split()
    pairs = []
    for at in range(2_000):
        words[100] = f"version{at}"
        pairs.append(Pair(anchor="what changed", positive=" ".join(words)))
    found = near_duplicates(pairs)
    assert len(found) > 1_990
    assert all(earlier not in found for earlier in found.values())


def test_a_signature_does_not_depend_on_the_pairs_around_it() -> None:
    draw = random.Random(5)
    pairs = [Pair(anchor=_text(draw, 3), positive=_text(draw, 9)) for _ in range(5)]
    together = _signatures(pairs, None)
    for at, pair in enumerate(pairs):
        assert (_signatures([pair], None) == together[at]).all()
    assert not (together[0] == together[1:]).any(), "they have no word in common"
