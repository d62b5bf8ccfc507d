"""The verbs tune, evaluate and advise as a user types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer import data_directory
from reindexer.cli import cli
from reindexer.settings import Settings
from tests.word_directory import WordDirectory

N_DOCUMENTS = 70
TRAIN = 60


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each query is a document's own rare word: BM25 is always right, and vectors rarely."""
    folder = tmp_path_factory.mktemp("given") / "judged"
    (folder / "qrels").mkdir(parents=True)
    queries = [{"_id": f"q{n}", "text": f"about rare{n}"} for n in range(N_DOCUMENTS)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    for split, numbers in (("train", range(TRAIN)), ("test", range(TRAIN, N_DOCUMENTS))):
        rows = "".join(f"q{n}\td{n}\t1\n" for n in numbers)
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """docs@1 is live."""
    folder = tmp_path_factory.mktemp("verbs") / "data"
    with WordDirectory(folder) as directory:
        for n in range(N_DOCUMENTS):
            directory.put(f"d{n}", f"all about rare{n} and word{n % 7} and word{n % 5}")
        directory.go_live(directory.build("word@1"))
        directory.catalog.keep_verification("docs@1", {"passed": True, "checks": []})
    return folder


@pytest.fixture
def run(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The command, with models that need no torch."""
    monkeypatch.chdir(tmp_path)

    def open_words(settings: Settings) -> WordDirectory:
        return WordDirectory(settings.data_dir)

    monkeypatch.setattr(data_directory, "open_data_directory", open_words)

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--data-dir", str(data_dir), *args])
        assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
        return result

    yield invoke
    invoke("tune", "--reset")


def test_tune_shows_each_leg_and_stores_what_it_fitted(run: Any, judged: Path) -> None:
    screen = run("tune", str(judged)).stdout
    for part in ("lexical", "dense", "plain RRF", "fitted, cross-validated", "Stored in the"):
        assert part in screen
    assert f"fitted on {TRAIN} queries" in run("generations", "show", "docs@1").stdout
    assert "evaluate" in screen.splitlines()[-1]


def test_the_document_of_tune_says_what_was_fitted_and_to_what(run: Any, judged: Path) -> None:
    found = json.loads(run("tune", str(judged), "--dry-run", "--json").stdout)
    assert found["stored"] is False
    assert found["queries"] == TRAIN
    assert found["fusion"]["fitted"]["queries"] == TRAIN
    assert set(found["metrics"]) == {"lexical", "dense", "rrf", "fitted"}
    assert set(found["difference"]["rrf"]["ndcg@10"]) == {"mean", "low", "high"}
    assert found["before"]["method"] == "rrf"
    assert "reciprocal rank fusion" in run("generations", "show", "docs@1").stdout


def test_evaluate_puts_plain_rank_fusion_beside_the_fitted_one(run: Any, judged: Path) -> None:
    run("tune", str(judged), "-q")
    found = json.loads(run("evaluate", str(judged), "--json").stdout)
    assert list(found["metrics"]) == ["hybrid", "hybrid-rrf"]
    assert found["fusion"]["fitted"]["on_these_queries"] is False
    screen = run("evaluate", str(judged), "--split", "train").stdout
    assert "Fitted on these very queries" in screen


def test_a_search_explains_the_weights(run: Any, judged: Path) -> None:
    run("tune", str(judged), "-q")
    hit = json.loads(run("search", "about rare3", "--explain", "--json").stdout)["hits"][0]
    assert set(hit["weights"]) == {"lexical", "dense"}
    assert hit["score"] == pytest.approx(sum(hit["contributions"].values()))
    assert "(weight " in run("search", "about rare3", "--explain").stdout


def test_few_judgments_are_refused_with_what_is_missing(run: Any, judged: Path) -> None:
    refused = run("tune", str(judged), "--split", "test", code=3)
    assert "40 more are needed" in refused.stderr
    assert run("tune", str(judged), "--split", "test", "--force", "--dry-run").exit_code == 0


@pytest.mark.parametrize("args", [[], ["--reset", "--dry-run"]])
def test_tune_has_to_know_what_to_do(run: Any, args: list[str]) -> None:
    run("tune", *args, code=2)
