"""`compare` and `evaluate --model` as a user types them, with real models and real processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer.cli import cli
from tests.tiny_models import make_tiny_model
from training.errors import EncodingFailed, ModelUnsupported
from training.measurement import measure_apart
from training.registry import ModelRegistry

WORDS = ["apple", "bread", "cloud", "engine", "horse", "market", "metal", "music", "river", "stone",
         "village", "winter"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models and a judged folder; the models are registered by the first test."""
    place = tmp_path_factory.mktemp("place")
    for name, seed in (("one", 1), ("two", 2)):
        make_tiny_model(place / name, kind="static", seed=seed, dim=32)
    judged = place / "judged"
    (judged / "qrels").mkdir(parents=True)
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    rows = [{"_id": f"{a}-{b}", "title": a, "text": f"{a} and {b}"} for a, b in pairs]
    queries = [
        {"_id": f"q{at}", "text": f"{b} {a}", "slice": "even" if at % 2 == 0 else "odd"}
        for at, (a, b) in enumerate(pairs[:30])
    ]
    for name, lines in (("corpus", rows), ("queries", queries)):
        (judged / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    qrels = [f"q{at}\t{a}-{b}\t1\n" for at, (a, b) in enumerate(pairs[:30])]
    (judged / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(qrels))
    return place


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for name in [name for name in os.environ if name.startswith("REINDEXER_")]:
        monkeypatch.delenv(name)


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["--data-dir", "data", *args])
    assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
    return result


def run_json(*args: str) -> Any:
    return json.loads(run(*args, "--json").stdout)


def test_models_and_dimensions_are_compared_on_one_folder(place: Path) -> None:
    pytest.importorskip("matplotlib")
    report = place / "pages" / "c.html"
    command = ["compare", "./one", "./two:8", "--dims", "16", "--eval", "judged"]
    found = run_json(*command, "--report", str(report))
    assert [model["name"] for model in found["models"]] == ["one@1", "one@1:16", "two@1:8"]
    assert [model["dim"] for model in found["models"]] == [32, 16, 8]
    assert [model["vector_bytes"] for model in found["models"]] == [128, 64, 32]
    assert (found["queries"], found["documents"], found["baseline"]) == (30, 66, "one@1")
    for model in found["models"]:
        assert model["docs_per_s"] > 0
        assert model["tokens_per_s"] > model["docs_per_s"]
        assert 30_000_000 < model["memory_bytes"] < 5_000_000_000
    assert found["models"][0]["docs_per_s"] == found["models"][1]["docs_per_s"], "encoded once"
    best = found["winners"]["ndcg@10"]
    beside = {best["model"], *best["not_significantly_different"]}
    assert beside <= {model["name"] for model in found["models"]}
    assert found["report"] == str(report)
    for path in (report, report.with_suffix(".md")):
        page = path.read_text(encoding="utf-8")
        assert "two@1:8" in page
        assert "reindexer compare ./one ./two:8 --eval judged --split test --dims 16" in page

    run("models", "show", "one@1", "--json")
    shown = run("compare", "one", "one:8", "--eval", "judged", "--baseline", "one:8")
    assert "one@1:8" in shown.stdout
    assert "baseline" in shown.stdout
    assert "intervals against one@1:8" in shown.stdout
    assert "Holm" in shown.stdout


def test_a_model_is_compared_with_itself_in_other_numbers(place: Path) -> None:
    make_tiny_model(place / "read")
    found = run_json("compare", "./read", "--dtypes", "fp32,int8", "--eval", "judged")
    exact, rounded = found["models"]
    assert [exact["name"], rounded["name"]] == ["read@1 fp32", "read@1 int8"]
    assert [exact["dtype"], rounded["dtype"]] == ["fp32", "int8"]
    assert found["baseline"] == "read@1 fp32"
    assert abs(rounded["difference"]["ndcg@10"]["mean"]) < 0.1


def test_evaluate_scores_a_model_at_every_dimension_and_by_slice() -> None:
    found = run_json("evaluate", "judged", "--model", "./one", "--dims", "16,8")
    assert list(found["metrics"]) == ["dense", "dense:16", "dense:8"]
    assert set(found["slices"]["dense"]) == {"even", "odd"}
    assert found["slices"]["dense"]["even"]["queries"] == 15
    halves = [found["slices"]["dense"][name]["ndcg@10"] for name in ("even", "odd")]
    assert sum(halves) / 2 == pytest.approx(found["metrics"]["dense"]["ndcg@10"])


def test_evaluate_probes_a_model_on_other_tasks(place: Path) -> None:
    rows = [
        {"text": f"{topic} and {word}", "label": topic}
        for topic in ("apple", "river")
        for word in WORDS[2:8]
    ]
    (place / "clustering.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = run_json("evaluate", ".", "--model", "./one", "--task", "clustering")
    assert (found["model"], found["task"]) == ("one@1", "clustering")
    assert 0.5 <= found["metrics"]["purity"] <= 1
    refused = run("evaluate", ".", "--model", "./one", "--task", "duplicates", code=1)
    assert 'expected lines such as {"text1": ' in refused.output


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["compare", "./one", "--eval", "nothing"], 1, "found nothing at nothing"),
        (["compare", "./one", "--eval", "judged", "--split", "dev"], 1, "expected a split 'dev'"),
        (["compare", "./one", "--eval", "judged", "--dims", "many"], 2, "expected numbers"),
        (["compare", "./one", "--eval", "judged", "--dtypes", "int4"], 2, "found 'int4', expected"),
        (["compare", "./one:0", "--eval", "judged"], 2, "no vector has 0 dimensions"),
        (["compare", "./one", "--eval", "judged", "--baseline", "./two"], 2, "name it as a REF"),
        (["compare", "absent@3", "--eval", "judged"], 1, "no model"),
        (["evaluate", "judged", "--dims", "8"], 2, "name it with --model"),
        (["evaluate", "judged", "--task", "clustering"], 2, "name it with --model"),
    ],
)
def test_what_cannot_be_compared_is_answered_before_anything_is_encoded(
    args: list[str], code: int, message: str
) -> None:
    assert message in " ".join(run(*args, code=code).output.split())


def test_errors_of_the_other_process_come_back_as_they_are(place: Path) -> None:
    version = ModelRegistry(place / "models").register(place / "one", name="one")
    with pytest.raises(ModelUnsupported, match="rows of 32 dimensions; 64 cannot"):
        measure_apart(version, place / "judged", "test", [64])


def test_a_process_that_is_killed_is_reported(place: Path) -> None:
    """As the kernel does when the memory is not enough."""
    version = ModelRegistry(place / "models").register(place / "one", name="one")
    folder = place / "long"
    shutil.copytree(place / "judged", folder, dirs_exist_ok=True)
    rows = [json.dumps({"_id": f"x{at}", "text": "stone bread " * 20}) for at in range(30_000)]
    (folder / "corpus.jsonl").write_text("\n".join(rows))

    def kill(_n_done: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(EncodingFailed, match=r"exit code -9.*max_batch_tokens"):
        measure_apart(version, folder, "test", on_progress=kill)
