"""The estimate follows the noise that is really there, and a person's verdicts come back whole."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import pytest

from tests.word_encoder import WordEncoder
from training.audit import (
    NoiseEstimate,
    estimate_noise,
    estimate_noise_by_cross_encoder,
    sample_for_a_person,
    share_with_interval,
)
from training.audit_sheet import read_verdicts, write_sheet
from training.errors import PairsInvalid
from training.pairs import Pair


def _pairs(n: int, noise: float) -> list[Pair]:
    """Anchors share three words with their own positive; of a share the positives are swapped."""
    draw = random.Random(1)
    words = [f"word{at}" for at in range(4_000)]
    texts = []
    for _ in range(n):
        shared = draw.sample(words, 3)
        texts.append(
            (
                " ".join([*shared, *draw.sample(words, 3)]),
                " ".join([*shared, *draw.sample(words, 12)]),
            )
        )
    wrong = draw.sample(range(n), round(noise * n))
    positives = [positive for _, positive in texts]
    for at, other in zip(wrong, [*wrong[1:], *wrong[:1]], strict=True):
        positives[at] = texts[other][1]
    return [
        Pair(anchor=anchor, positive=positive)
        for (anchor, _), positive in zip(texts, positives, strict=True)
    ]


@pytest.fixture(scope="module")
def encoder() -> WordEncoder:
    return WordEncoder(dim=128)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2, 0.5])
def test_the_estimate_follows_the_noise(encoder: WordEncoder, noise: float) -> None:
    estimate = estimate_noise(encoder, _pairs(400, noise))
    assert estimate.share == pytest.approx(noise, abs=0.05)
    assert estimate.low <= noise <= estimate.high
    assert estimate.is_high == (noise > 0.1)


def test_the_suspects_are_the_mismatched_pairs(encoder: WordEncoder) -> None:
    pairs = _pairs(200, 0.1)
    clean = _pairs(200, 0.0)
    suspects = [at for at, _ in estimate_noise(encoder, pairs).suspects]
    assert suspects
    assert all(pairs[at] != clean[at] for at in suspects[:5])


def test_only_a_sample_is_encoded(encoder: WordEncoder) -> None:
    before = encoder.n_encoded
    estimate = estimate_noise(encoder, _pairs(300, 0.0), sampled=50)
    assert encoder.n_encoded - before == 100
    assert len(estimate.positions) == 50
    assert estimate_noise(encoder, _pairs(300, 0.0), sampled=50) == estimate
    assert estimate_noise(encoder, _pairs(300, 0.0), sampled=50, seed=1) != estimate


def test_a_text_that_answers_several_anchors_does_not_count_against_them(
    encoder: WordEncoder,
) -> None:
    pairs = [
        Pair(anchor=f"topic{at // 10} number{at}", positive=f"topic{at // 10} explained")
        for at in range(100)
    ]
    assert estimate_noise(encoder, pairs).share == 0.0


def test_pairs_that_are_scored_as_no_match_are_not_noise(encoder: WordEncoder) -> None:
    wrong = [
        Pair(anchor=pair.anchor, positive=pair.positive, score=0.1) for pair in _pairs(100, 1.0)
    ]
    assert estimate_noise(encoder, [*_pairs(100, 0.0), *wrong]).share == 0.0


def test_too_few_pairs_say_nothing(encoder: WordEncoder) -> None:
    with pytest.raises(PairsInvalid, match="of 19 pairs 19 are meant to match"):
        estimate_noise(encoder, _pairs(19, 0.0))


def test_a_cross_encoder_is_asked_about_16_others_a_pair() -> None:
    n_asked = 0

    def shared_words(texts: list[tuple[str, str]]) -> list[float]:
        nonlocal n_asked
        n_asked += len(texts)
        return [len(set(one.split()) & set(other.split())) for one, other in texts]

    estimate = estimate_noise_by_cross_encoder(shared_words, _pairs(900, 0.2), sampled=900)
    assert n_asked == 900 * 17
    assert estimate.share == pytest.approx(0.2, abs=0.06)


def test_the_interval_is_wilsons() -> None:
    """Brown, Cai, DasGupta (2001) print such values; these were worked out by hand."""
    assert share_with_interval(0.0, 50) == pytest.approx((0.0, 0.0713), abs=1e-4)
    assert share_with_interval(0.1, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)


# -- the sheet ------------------------------------------------------------------------------------


def _estimate(ranks: list[float]) -> NoiseEstimate:
    return NoiseEstimate(
        share=0.1, low=0.0, high=0.2, method="margin",
        positions=tuple(range(len(ranks))), ranks=tuple(ranks),
    )  # fmt: skip


PAIRS = [Pair(anchor=f"query {at}", positive=f"text {at}") for at in range(200)]


def test_a_person_sees_every_kind_of_pair_and_the_weights_make_up_for_it() -> None:
    estimate = _estimate([0.1] * 10 + [0.7] * 40 + [1.0] * 150)
    sample = sample_for_a_person(estimate, PAIRS, size=50)
    assert len({item.position for item in sample}) == 50
    kinds = [sum(item.rank == rank for item in sample) for rank in (0.1, 0.7, 1.0)]
    assert kinds == [10, 20, 20]
    assert sum(item.weight for item in sample) == pytest.approx(200)
    assert [item.rank for item in sample] != sorted(item.rank for item in sample)


@pytest.mark.parametrize("size", [1, 3, 7, 500])
def test_a_sample_of_any_size_has_all_kinds(size: int) -> None:
    sample = sample_for_a_person(_estimate([0.1] + [0.7] + [1.0] * 198), PAIRS, size=size)
    assert {item.rank for item in sample} == {0.1, 0.7, 1.0}
    assert len(sample) == min(200, max(3, size))


def test_verdicts_come_back_weighted(tmp_path: Path) -> None:
    """Half of the suspects are wrong; they are a tenth of the pairs."""
    estimate = _estimate([0.1] * 20 + [1.0] * 180)
    path = tmp_path / "sheet.csv"
    write_sheet(path, sample_for_a_person(estimate, PAIRS, size=40), title="t")
    rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    for row in rows:
        pair = int(row["pair"]) - 1
        row["verdict"] = "mismatch" if pair < 10 else " OK "
    rows[-1]["verdict"] = rows[-2]["verdict"] = ""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")  # as some spreadsheets save it
        writer.writeheader()
        writer.writerows(rows)
    found = read_verdicts(path)
    assert found.share == pytest.approx(0.05, abs=0.01)
    assert found.low < 0.05 < found.high
    assert (found.judged, found.open, found.is_high) == (38, 2, False)


def test_no_cell_is_run_as_a_formula(tmp_path: Path) -> None:
    pairs = [Pair(anchor="=HYPERLINK(1)", positive="@cmd")]
    path = tmp_path / "sheet.csv"
    write_sheet(path, sample_for_a_person(_estimate([1.0]), pairs, size=3), title="t")
    assert ",'=HYPERLINK(1),'@cmd" in path.read_text(encoding="utf-8-sig")


def test_the_page_stands_alone_and_no_text_of_a_pair_becomes_markup(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    pairs = [Pair(anchor=evil, positive="ä <b>fine</b> text")]
    path = tmp_path / "sheet.html"
    write_sheet(path, sample_for_a_person(_estimate([1.0]), pairs, size=3), title="pairs.jsonl")
    page = path.read_text(encoding="utf-8")
    assert evil not in page
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert found is not None
    (row,) = json.loads(found[1])["rows"]
    assert row == {"pair": 1, "weight": 1.0, "anchor": evil, "positive": pairs[0].positive}
    assert not re.search(r"(src|href)=", page)
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("pair,verdict,weight\n1,,1\n", "has no verdict yet"),
        ("pair,verdict,weight\n1,maybe,1\n", "the verdict is 'maybe', expected ok, mismatch"),
        ("a,b\n1,2\n", "expected the columns pair, verdict, weight"),
    ],
)
def test_a_sheet_that_cannot_be_read_says_why(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "verdicts.csv"
    path.write_text(content)
    with pytest.raises(PairsInvalid, match=message):
        read_verdicts(path)
    with pytest.raises(PairsInvalid, match=r"should end in \.html or \.csv"):
        write_sheet(tmp_path / "sheet.xlsx", [], title="t")
