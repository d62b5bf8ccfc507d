from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from training.errors import JudgmentsInvalid
from training.probes import best_threshold, probe, purity


class TopicEncoder:
    """The first word decides the direction, the rest only a little of it."""

    def __init__(self, *, noise: float = 0.1, dim: int = 32) -> None:
        self._noise, self._dim = noise, dim

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        raise AssertionError(f"probes encode documents, not {len(texts)} queries")

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = [self._row(text.split()[0]) + self._noise * self._row(text) for text in texts]
        matrix = np.array(rows, dtype=np.float32)
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)

    def _row(self, text: str) -> NDArray[np.float64]:
        return np.random.default_rng(list(text.encode())).standard_normal(self._dim)


def write(folder: Path, name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def labelled(n: int) -> list[dict[str, object]]:
    topics = ("cats", "dogs", "birds")
    return [{"text": f"{topics[at % 3]} {at}", "label": topics[at % 3]} for at in range(n)]


def pairs(n: int, *, other: str = "dogs") -> list[dict[str, object]]:
    return [
        {
            "text1": f"cats {at}",
            "text2": f"{'cats' if at % 3 == 0 else other} {at + 1}",
            "duplicate": at % 3 == 0,
        }
        for at in range(n)
    ]


# -- what they measure ---------------------------------------------------------------------------


def test_the_threshold_is_the_one_that_is_best_for_f1() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        similarities = rng.choice([0.1, 0.3, 0.5, 0.7, 0.9], size=20).astype(np.float32)
        truths = rng.uniform(size=20) < 0.4
        truths[0] = True

        def f1(
            threshold: float,
            similarities: NDArray[np.float32] = similarities,
            truths: NDArray[np.bool_] = truths,
        ) -> float:
            called = similarities >= threshold
            return float(2 * (called & truths).sum() / (called.sum() + truths.sum()))

        chosen = f1(best_threshold(similarities, truths))
        assert chosen == max(f1(value) for value in (-1, 0.2, 0.4, 0.6, 0.8))


def test_the_threshold_is_chosen_on_the_dev_part_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "duplicates.dev.jsonl", pairs(30))
    write(folder, "duplicates.test.jsonl", pairs(30, other="cats"))  # all alike: no cosine helps
    result = probe(TopicEncoder(), folder, "duplicates")
    assert result.metrics["recall"] == 1.0
    assert result.metrics["precision"] == pytest.approx(1 / 3)
    assert result.metrics["f1"] == pytest.approx(0.5)
    assert result.counts == {"dev": 30, "test": 30}


def test_duplicates_that_are_near_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "duplicates.jsonl", pairs(60))
    result = probe(TopicEncoder(), folder, "duplicates")
    assert result.metrics["f1"] == 1.0
    assert result.metrics["average_precision"] == pytest.approx(1.0)
    assert result.counts == {"dev": 30, "test": 30}


def test_purity_counts_the_most_frequent_label_of_each_cluster() -> None:
    labels = np.array(["a", "a", "b", "b", "b"])
    assert purity(labels, np.array([0, 0, 0, 1, 1])) == pytest.approx(4 / 5)
    assert purity(labels, np.array([0, 1, 2, 3, 4])) == 1.0


def test_clusters_that_are_there_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "clustering.jsonl", labelled(60))
    clear = probe(TopicEncoder(noise=0.1), folder, "clustering").metrics
    assert clear == pytest.approx({"purity": 1.0, "v_measure": 1.0})
    blurred = probe(TopicEncoder(noise=30), folder, "clustering").metrics
    assert blurred["v_measure"] < 0.5
    assert blurred["purity"] < 0.8


def test_labels_are_learned_from_the_train_part(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "classification.train.jsonl", labelled(30))
    write(folder, "classification.test.jsonl", [{"text": "fish 1", "label": "fish"}])
    result = probe(TopicEncoder(), folder, "classification")
    assert result.metrics == {"knn_accuracy": 0.0, "logistic_accuracy": 0.0}  # fish was not there
    write(folder, "classification.test.jsonl", labelled(12))
    result = probe(TopicEncoder(), folder, "classification")
    assert result.metrics == {"knn_accuracy": 1.0, "logistic_accuracy": 1.0}
    assert result.counts == {"train": 30, "test": 12, "labels": 3}


def test_a_single_file_is_cut_by_the_seed(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", "classification.jsonl", labelled(31))
    encoder = TopicEncoder(noise=4)
    once = probe(encoder, folder, "classification", seed=3)
    assert once == probe(encoder, folder, "classification", seed=3)
    assert once.counts["train"] + once.counts["test"] == 31
    others = [probe(encoder, folder, "classification", seed=seed).metrics for seed in range(4, 8)]
    assert any(once.metrics != other for other in others)


def test_progress_counts_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.probes.TEXTS_PER_BLOCK", 8)
    folder = write(tmp_path / "x", "clustering.jsonl", labelled(20))
    done: list[int] = []
    probe(TopicEncoder(), folder, "clustering", on_progress=done.append)
    assert done == [8, 16, 20]


def test_equal_texts_make_no_clusters_and_no_warning(tmp_path: Path) -> None:
    rows = [{"text": "cats", "label": label} for label in "abc"]
    folder = write(tmp_path / "x", "clustering.jsonl", rows)
    assert probe(TopicEncoder(), folder, "clustering").metrics["purity"] == pytest.approx(1 / 3)


# -- files that cannot be used -------------------------------------------------------------------


@pytest.mark.parametrize("task", ["duplicates", "clustering", "classification"])
def test_a_missing_file_is_answered_with_the_format(tmp_path: Path, task: str) -> None:
    expected = rf'found no {task}\.jsonl.*expected lines such as {{"text'
    with pytest.raises(JudgmentsInvalid, match=expected):
        probe(TopicEncoder(), tmp_path, task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("duplicates", [{"text1": "a", "duplicate": True}], r"line 1: found no text2"),
        (
            "duplicates",
            [{"text1": "a", "text2": "b", "duplicate": "yes"}],
            r"line 1: found 'yes' as duplicate, expected true or false",
        ),
        ("duplicates", pairs(3)[:1] * 4, "has 2 duplicates among 2 pairs"),
        ("clustering", [{"text": "a", "label": None}], "line 1: found None as label"),
        ("clustering", [{"text": "a", "label": "x"}], "has 1 label; expected 2 or more"),
        ("classification", [{"text": " ", "label": "x"}], "line 1: found no text"),
        ("classification", [], "is empty"),
    ],
)
def test_bad_rows_are_refused_with_their_place(
    tmp_path: Path, name: str, rows: Sequence[Mapping[str, object]], message: str
) -> None:
    folder = write(tmp_path / "x", f"{name}.jsonl", rows)
    with pytest.raises(JudgmentsInvalid, match=message):
        probe(TopicEncoder(), folder, name)  # type: ignore[arg-type]
