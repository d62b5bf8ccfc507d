"""The gate's check on quality: a candidate that answers worse than live is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reindexer.opening import Opener
from reindexer.quality import check_quality
from search.dense import FloatMatrix
from search.feedback import FeedbackLog
from tests.word_directory import WordDirectory
from tests.word_encoder import WordEncoder
from training.errors import JudgmentsInvalid
from training.metrics import METRICS

N_DOCUMENTS = 60


class _AsksAnotherSpace(WordEncoder):
    """Documents as they should be, queries from somewhere else: the dense leg is noise."""

    def encode_queries(self, texts: Sequence[str]) -> FloatMatrix:
        rng = np.random.default_rng(len(texts))
        rows = rng.standard_normal((len(texts), self.dim)).astype(np.float32)
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class _Directory(WordDirectory):
    def load_encoder(self, model: str) -> Any:
        if model.startswith("worse"):
            return _AsksAnotherSpace(int(model.partition("@")[2]))
        return super().load_encoder(model)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Each query is a document's own rare word and one that every document has."""
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    ids = range(N_DOCUMENTS)
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{n}", "text": f"about rare{n}"}) + "\n" for n in ids)
    )
    rows = "".join(f"q{n}\td{n}\t1\n" for n in ids)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture
def directory(tmp_path: Path) -> Any:
    with _Directory(tmp_path / "data") as directory:
        for n in range(N_DOCUMENTS):
            directory.put(f"d{n}", f"all about rare{n} and rare{n} again")
        yield directory


def _check(directory: WordDirectory, name: str, judged: Path) -> Any:
    opener = Opener(directory, writable=False)
    opened = opener.open(name)
    try:
        return check_quality(directory, opened, judged, "test")
    finally:
        opened.close()
        opener.close()


def test_a_candidate_that_answers_worse_is_refused(directory: WordDirectory, judged: Path) -> None:
    directory.go_live(directory.build("word@1"))
    check, metrics = _check(directory, directory.build("worse@2"), judged)
    assert not check.passed
    assert "docs@1" in check.found
    difference = metrics["difference"]["ndcg@10"]
    assert difference["low"] <= difference["mean"] <= difference["high"] < 0
    assert metrics["candidate"]["ndcg@10"] < metrics["live"]["ndcg@10"]
    assert set(metrics["difference"]) == set(METRICS)


def test_the_queries_that_lost_most_are_kept(directory: WordDirectory, judged: Path) -> None:
    directory.go_live(directory.build("word@1"))
    _, metrics = _check(directory, directory.build("worse@2"), judged)
    changed = metrics["changed"]
    assert changed["better"] + changed["worse"] + changed["alike"] == N_DOCUMENTS
    losses = [row["candidate"] - row["live"] for row in changed["lost"]]
    assert len(losses) == min(5, changed["worse"])
    assert losses == sorted(losses)
    assert changed["lost"][0]["query"].startswith("about rare")


def test_a_candidate_that_answers_as_well_passes(directory: WordDirectory, judged: Path) -> None:
    directory.go_live(directory.build("word@1"))
    check, metrics = _check(directory, directory.build("word@2"), judged)
    assert check.passed
    assert metrics["against"] == "docs@1"
    assert metrics["judged"] == {"folder": str(judged), "split": "test", "queries": N_DOCUMENTS}


def test_the_gate_does_not_count_how_people_voted(directory: WordDirectory, judged: Path) -> None:
    directory.go_live(directory.build("word@1"))
    name = directory.build("word@2")
    votes = FeedbackLog(directory.database)
    for better in ("docs@1", "docs@1", "docs@2", None):
        votes.vote("rare3", "docs@1", name, better=better, who="local")
    check, metrics = _check(directory, name, judged)
    assert check.passed
    assert "votes" not in metrics, "they are counted when the report is read"


def test_with_nothing_live_there_is_nothing_to_compare(
    directory: WordDirectory, judged: Path
) -> None:
    check, metrics = _check(directory, directory.build("word@1"), judged)
    assert check.passed
    assert metrics["live"] is None
    assert metrics["candidate"]["ndcg@10"] > 0.9


def test_a_folder_without_the_split_says_which_there_are(
    directory: WordDirectory, judged: Path
) -> None:
    name = directory.build("word@1")
    (judged / "qrels" / "test.tsv").rename(judged / "qrels" / "dev.tsv")
    with pytest.raises(JudgmentsInvalid, match="dev"):
        _check(directory, name, judged)
