"""From the nearest passages to the nearest documents, with a made-up engine."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from search.dense import DenseHit
from search.payload import Nearest, NearestDocuments


class Engine:
    """Documents of so many passages each, nearest first; counts what it is asked."""

    def __init__(self, n_documents: int, passages: int) -> None:
        self.hits = [
            DenseHit(f"d{at // passages:05}", 1.0 - at / 1e6, at % passages, 0, 1, 1)
            for at in range(n_documents * passages)
        ]
        self.limits: list[int] = []

    def fetch(self, limit: int, leave_out: Sequence[str], exact: bool) -> Nearest:
        del exact
        self.limits.append(limit)
        without = set(leave_out)
        hits = [hit for hit in self.hits if hit.doc_id not in without][:limit]
        return Nearest(hits=hits, found=len(hits), lowest=hits[-1].score if hits else 0.0)


@pytest.mark.parametrize("passages", [1, 2, 5, 40])
def test_the_nearest_documents_are_found_however_many_passages_they_have(passages: int) -> None:
    engine, nearest = Engine(300, passages), NearestDocuments()
    for _ in range(5):
        found = nearest.search(engine.fetch, 100, exact=False)
        assert [hit.doc_id for hit in found] == [f"d{at:05}" for at in range(100)]
        assert {hit.number for hit in found} == {0}


def test_searches_learn_how_many_passages_a_document_brings_along() -> None:
    engine, nearest = Engine(300, 3), NearestDocuments()
    for _ in range(30):
        engine.limits.clear()
        nearest.search(engine.fetch, 100, exact=False)
    assert len(engine.limits) == 1


def test_documents_of_one_passage_are_not_asked_for_in_vain() -> None:
    engine, nearest = Engine(300, 1), NearestDocuments()
    for _ in range(30):
        nearest.search(engine.fetch, 100, exact=False)
    assert engine.limits[-1] <= 110


def test_a_document_of_a_thousand_passages_does_not_make_later_searches_dear() -> None:
    nearest = NearestDocuments()
    long_documents = Engine(12, 1_000)
    for _ in range(30):
        nearest.search(long_documents.fetch, 10, exact=False)
    engine = Engine(2_000, 1)
    nearest.search(engine.fetch, 100, exact=False)
    assert engine.limits[0] <= 810
