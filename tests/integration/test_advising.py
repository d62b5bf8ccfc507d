"""What advise measures, with a live generation and without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reindexer.advising import Measured, judged_pairs, measure_folder, measure_live
from reindexer.data_directory import DataDirectory
from reindexer.progress import Progress
from reindexer.settings import Settings
from reindexer.tuning import TooFewJudgments
from search.errors import NoLiveGeneration
from tests.tiny_models import make_tiny_model
from training.advice import advise
from training.judgments import Judgments, read_judgments

N_DOCUMENTS = 70
WORDS = ("apple", "river", "engine", "metal", "village", "music", "winter")


def text_of(number: int) -> str:
    return f"all about rare{number}, {WORDS[number % 7]} and {WORDS[number % 5]}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BEIR folder where BM25 is always right, and a model that knows nothing."""
    folder = tmp_path_factory.mktemp("advising")
    make_tiny_model(folder / "model", kind="static", seed=1)
    judged = folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{n}", "title": "", "text": text_of(n)} for n in range(N_DOCUMENTS)]
    queries = [{"_id": f"q{n}", "text": f"about rare{n}"} for n in range(N_DOCUMENTS)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (judged / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    splits = {"train": range(10), "test": range(10, N_DOCUMENTS), "all": range(N_DOCUMENTS)}
    for split, numbers in splits.items():
        lines = "".join(f"q{n}\td{n}\t1\nq{n}\td{(n + 1) % N_DOCUMENTS}\t0\n" for n in numbers)
        (judged / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return folder


@pytest.fixture(scope="module")
def judgments(folder: Path) -> Judgments:
    return read_judgments(folder / "judged", "test")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataDirectory]:
    with DataDirectory(Settings(data_dir=tmp_path / "data", dtype="fp32")) as data:
        yield data


def quiet() -> Progress:
    return Progress("advise", quiet=True)


def measure(data: DataDirectory, folder: Path, judgments: Judgments) -> Measured:
    return measure_folder(data, quiet(), folder / "judged", judgments, str(folder / "model"))


def test_a_folder_and_a_model_are_enough(
    data: DataDirectory, folder: Path, judgments: Judgments
) -> None:
    measured = measure(data, folder, judgments)

    baseline = measured.baseline
    assert (measured.generation, baseline.queries) == (None, 60)
    assert baseline.lexical == 1.0
    assert baseline.current == baseline.hybrid < 1.0
    assert baseline.tuned > baseline.hybrid
    assert baseline.found == 1.0
    assert measured.reindex.documents == N_DOCUMENTS
    assert measured.reindex.seconds == pytest.approx(N_DOCUMENTS / measured.reindex.docs_per_s)
    advice = advise(baseline, pairs=5_000, target=0.99)
    assert advice.recommendation == "tune retrieval first"


def test_training_pairs_are_those_of_other_queries(folder: Path, judgments: Judgments) -> None:
    assert judged_pairs(folder / "judged", judgments) == 10


def test_without_a_live_generation_a_model_has_to_be_named(
    data: DataDirectory, judgments: Judgments
) -> None:
    with pytest.raises(NoLiveGeneration, match="reindexer upgrade MODEL"):
        measure_live(data, quiet(), judgments)


def test_one_query_is_not_a_measurement(data: DataDirectory, folder: Path) -> None:
    one = Judgments(queries={"q1": "about rare1"}, qrels={"q1": {"d1": 1}})
    with pytest.raises(TooFewJudgments, match="found 1 judged queries"):
        measure(data, folder, one)
