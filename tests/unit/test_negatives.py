"""Hard negatives: where they come from, and what is never one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.word_encoder import WordEncoder
from training.document_groups import guess_groups
from training.encoded_texts import EncodedTexts
from training.errors import RecipeInvalid
from training.judgments import JudgedDocument
from training.negatives import Mined, candidates_from, mine
from training.pairs import Pair
from training.training_columns import training_columns
from training.training_recipe import NegativeSource

CLAUSES = ("garden", "roof", "heating", "notice")
LEASES = [f"lease-{number}" for number in range(4)]
# Every passage of a lease names it, so passages of one document resemble each other.
PASSAGES = [
    (f"{lease}#{clause}", f"{lease} the tenant and the {clause} {clause} of the house")
    for lease in LEASES
    for clause in CLAUSES
]
PAIRS = [
    Pair(anchor=f"{lease} {clause}", positive=text, doc_id=doc_id, group=lease)
    for (doc_id, text), (lease, clause) in zip(
        PASSAGES, [(lease, clause) for lease in LEASES for clause in CLAUSES], strict=True
    )
    if clause in ("garden", "roof")
]


def mined(source: NegativeSource, pairs: Sequence[Pair] = PAIRS, per_anchor: int = 2) -> Mined:
    return mine(
        pairs,
        candidates_from(pairs, PASSAGES),
        EncodedTexts(WordEncoder(dim=256)),
        source=source,
        per_anchor=per_anchor,
    )


@pytest.mark.parametrize("source", ["dense", "bm25", "both", "same-document"])
def test_every_source_finds_negatives_that_are_no_answers(source: NegativeSource) -> None:
    found = mined(source)

    assert found.found > 0
    for pair in found.pairs:
        assert len(pair.negatives) <= 2
        assert pair.positive not in pair.negatives


def test_passages_of_the_same_document_come_first() -> None:
    found = mined("same-document")

    assert found.same_document == found.found == 2 * len(PAIRS)
    for pair in found.pairs:
        assert pair.group is not None
        assert all(text.startswith(pair.group) for text in pair.negatives)


def test_one_question_asked_of_many_documents_gets_negatives_of_each() -> None:
    pairs = [
        Pair(anchor="what about the garden", positive=text, doc_id=doc_id, group=doc_id[:7])
        for doc_id, text in PASSAGES
        if doc_id.endswith("garden")
    ]

    found = mined("same-document", pairs, per_anchor=1)

    for pair in found.pairs:
        assert [text.split()[0] for text in pair.negatives] in ([pair.group], [])
        assert not any("garden" in text for text in pair.negatives), "answers to the same question"


def test_documents_of_unknown_groups_are_not_touched() -> None:
    found = candidates_from(PAIRS, [*PASSAGES, ("lease-99#roof", "a contract of the test split")])

    assert len(found) == len(PASSAGES)


def judged(*rows: tuple[str, str]) -> list[JudgedDocument]:
    return [JudgedDocument(doc_id, title, "text") for doc_id, title in rows]


def test_documents_are_told_by_their_title_or_by_their_numbers() -> None:
    by_title = guess_groups(
        judged(*((str(at), f"Lease {at // 3}") for at in range(12)), ("12", "Letter"))
    )
    by_number = guess_groups(judged(*((f"lease-{at // 3}#{at}", "") for at in range(12))))

    assert by_title is not None
    assert (by_title.of["0"], by_title.of["4"]) == ("lease 0", "lease 1")
    assert by_number is not None
    assert (by_number.of["lease-0#0"], by_number.of["lease-1#4"]) == ("lease-0", "lease-1")


@pytest.mark.parametrize(
    "documents",
    [
        judged(*((f"d{at}", f"title {at}") for at in range(12))),
        judged(*((f"{at}", "") for at in range(12))),
        judged(*((f"{'ab'[at % 2]}{at}", "") for at in range(12))),
    ],
    ids=["all different", "bare numbers", "two collections"],
)
def test_what_tells_no_documents_is_not_taken_for_it(documents: list[JudgedDocument]) -> None:
    assert guess_groups(documents) is None


def test_same_document_needs_to_know_the_documents() -> None:
    pairs = [Pair(anchor="a b", positive="a c")]

    with pytest.raises(RecipeInvalid, match="--negatives dense"):
        mine(
            pairs,
            candidates_from(pairs),
            EncodedTexts(WordEncoder()),
            source="same-document",
            per_anchor=1,
        )


def test_a_near_copy_of_the_answer_is_no_negative() -> None:
    answer = "the tenant keeps the garden of the house in good order at all times"
    pairs = [
        Pair(anchor="who keeps the garden", positive=answer),
        Pair(anchor="when is the rent due", positive="the rent is due on the first of the month"),
    ]
    copy = answer.upper() + "!"
    documents = [("copy", copy), ("other", "the garden has a gate and the gate has a key")]

    for source in ("dense", "bm25", "both"):
        found = mine(
            pairs,
            candidates_from(pairs, documents),
            EncodedTexts(WordEncoder()),
            source=source,  # type: ignore[arg-type]
            per_anchor=3,
        )
        assert found.pairs[0].negatives
        assert copy not in found.pairs[0].negatives


def test_what_is_closer_than_the_margin_allows_is_no_negative() -> None:
    pairs = [Pair(anchor="a b c d", positive="a b x y")]
    documents = [("closer", "a b c z"), ("farther", "a q r s")]

    found = mine(
        pairs,
        candidates_from(pairs, documents),
        EncodedTexts(WordEncoder(dim=256)),
        source="bm25",
        per_anchor=2,
    )

    assert found.pairs[0].negatives == ("a q r s",)


def test_another_judge_may_decide_on_the_margin() -> None:
    pairs = [Pair(anchor="a b c d", positive="a b x y")]
    documents = [("one", "a b c z"), ("other", "a q r s")]
    judge = {"a b x y": 0.5, "a b c z": 0.1, "a q r s": 0.9}

    for source in ("bm25", "dense"):
        found = mine(
            pairs,
            candidates_from(pairs, documents),
            EncodedTexts(WordEncoder(dim=256)),
            source=source,  # type: ignore[arg-type]
            per_anchor=2,
            scores_of=lambda texts: [judge[text] for _, text in texts],
        )
        assert found.pairs[0].negatives == ("a b c z",), source


def test_negatives_that_came_with_a_pair_stay_first() -> None:
    pairs = [Pair(anchor="a b", positive="a c", negatives=("given",)), *PAIRS]

    found = mined("both", pairs)

    assert found.pairs[0].negatives[0] == "given"


def test_missing_negatives_are_filled_with_answers_to_other_queries() -> None:
    pairs = [
        Pair(anchor="one", positive="first", negatives=("n1", "n2")),
        Pair(anchor="two", positive="second"),
        Pair(anchor="two", positive="third", negatives=("n3",)),
    ]

    columns = training_columns(pairs, "mnrl", max_negatives=2, seed=0)

    assert list(columns) == ["anchor", "positive", "negative_1", "negative_2"]
    assert columns["negative_1"] == ["n1", "first", "n3"]
    assert columns["negative_2"][1:] == ["first", "first"]
    assert training_columns(pairs, "triplet", max_negatives=2, seed=0)["negative_1"] == [
        "n1", "n2", "n3",
    ]  # fmt: skip


def test_each_text_is_encoded_once() -> None:
    encoder = WordEncoder()
    encoded = EncodedTexts(encoder)

    encoded.encode_documents(["a b", "c d", "a b"])
    encoded.encode_documents(["c d", "e f"])

    assert encoder.n_encoded == 3
    assert (encoded.encode_documents(["e f"]) == encoder.encode_documents(["e f"])).all()
