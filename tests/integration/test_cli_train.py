"""`train` as a user types it, and `upgrade` when training did not prove its version better."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from reindexer.cli import cli
from reindexer.cutover import cut_over
from reindexer.errors import GateRefused
from tests.judged_world import JudgedWorld, make_judged_world
from tests.tiny_models import make_tiny_model
from tests.word_directory import WordDirectory

LEARN = ("--epochs", "25", "--batch-size", "32", "--learning-rate", "0.1")
FIELDS = {"model", "base", "pairs", "epochs", "seconds", "metrics", "registered", "gate"}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two base models, pairs and a judged folder."""
    folder = tmp_path_factory.mktemp("given")
    make_judged_world(folder)
    make_tiny_model(folder / "base", kind="static")
    make_tiny_model(folder / "deep", kind="mean")
    return folder


@pytest.fixture(scope="module")
def world(given: Path) -> JudgedWorld:
    return JudgedWorld(pairs=given / "pairs.jsonl", judged=given / "judged")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("REINDEXER_")]:
        monkeypatch.delenv(name)


def run(data_dir: Path, *args: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["--data-dir", str(data_dir), *map(str, args)])
    assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
    return result


def train(data_dir: Path, given: Path, *more: object, code: int = 0) -> Result:
    return run(
        data_dir, "train", given / "pairs.jsonl", "--base", given / "base", "--name", "support",
        *more, code=code,
    )  # fmt: skip


def test_a_better_version_comes_with_its_proof(given: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "data", given, "--eval", given / "judged", *LEARN, "--json")

    report = json.loads(result.stdout)
    assert report.keys() >= FIELDS
    assert (report["model"], report["base"]) == ("support@1", "base@1")
    assert (report["registered"], report["gate"]) == (True, "passed")
    assert report["metrics"]["difference"]["ndcg@10"]["low"] > 0
    assert Path(report["report"]).is_file()
    shown = json.loads(run(tmp_path / "data", "models", "show", "support", "--json").stdout)
    assert shown["lineage"]["gate"] == "passed"
    assert shown["metrics"]["tuned"] == report["metrics"]["tuned"]


def test_the_screen_says_what_was_gained_and_what_to_type_next(given: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "data", given, "--eval", given / "judged", *LEARN,
                   "--matryoshka", "16,8")  # fmt: skip

    assert "ndcg@10" in result.stdout
    assert "of full" in result.stdout
    assert "gate    passed: nDCG@10 +" in result.stdout
    assert "Next: reindexer upgrade support@1 --eval" in result.stdout


def test_upgrade_refuses_a_version_that_is_not_better(given: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    result = train(data, given, "--eval", given / "judged", "--epochs", "1",
                   "--learning-rate", "1e-9")  # fmt: skip
    assert "gate    refused" in result.stdout
    assert "pairs audit" in result.stdout
    run(data, "ingest", given / "judged")

    refused = run(data, "upgrade", "support@1", "--yes", code=3)

    assert "support@1 was refused when it was trained: nDCG@10 +0.000" in refused.stderr
    assert "--override" in refused.stderr
    assert json.loads(run(data, "generations", "--json").stdout) == [], "nothing was built"


def test_a_cut_over_to_it_needs_a_reason_which_is_recorded(tmp_path: Path) -> None:
    with WordDirectory(tmp_path / "data", cut_over_timeout_s=5.0) as directory:
        directory.put("a", "one two")
        directory.registry.register(
            make_tiny_model(tmp_path / "word", kind="static"),
            name="word",
            lineage={"gate": "refused", "gate_reason": "nDCG@10 -0.100", "base": "b@1"},
        )
        name = directory.build("word@1")

        with pytest.raises(GateRefused, match=r"word@1 was refused .* nDCG@10 -0.100"):
            cut_over(directory, name)
        cut_over(directory, name, override="the judged queries are out of date")

        (event,) = [
            item for item in directory.catalog.events.newest(9) if item["kind"] == "cut_over"
        ]
        assert event["override"] == "the judged queries are out of date"
        assert event["who"]


def test_without_eval_it_is_a_candidate_and_says_how_to_measure_it(
    given: Path, tmp_path: Path
) -> None:
    result = train(tmp_path / "data", given, "--epochs", "1")

    assert "gate    refused: nobody measured it" in result.stdout
    assert "--eval DIR" in result.stdout


def test_strict_refuses_pairs_that_ask_what_the_evaluation_asks(
    given: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    asked = json.loads((given / "judged" / "queries.jsonl").read_text().splitlines()[-1])["text"]
    pairs.write_text(
        (given / "pairs.jsonl").read_text() + json.dumps({"anchor": asked, "positive": "leaf"})
    )
    arguments = (
        "train", pairs, "--base", given / "base", "--name", "x", "--eval", given / "judged",
    )  # fmt: skip

    refused = run(tmp_path / "data", *arguments, "--strict", code=3)
    trained = run(tmp_path / "data", *arguments, "--epochs", "1", "--json")

    assert asked in refused.stderr
    assert json.loads(trained.stdout)["dropped_queries"] == [asked]
    assert asked in trained.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--loss", "triplet"), 1, "negative"),
        (("--loss", "cosent"), 1, "score"),
        (("--loss", "gist"), 1, "--guide"),
        (("--loss", "softmax"), 2, "mnrl"),
        (("--matryoshka", "full"), 2, "384,256,128,64"),
        (("--matryoshka", "64"), 1, "from 1 to 32"),
        (("--negatives", "same-document"), 1, "--negatives dense"),
        (("--eval", "nowhere"), 1, "corpus.jsonl"),
    ],
)
def test_what_cannot_be_trained_says_what_to_change(
    given: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    assert message in train(tmp_path / "data", given, *options, code=code).stderr


def test_wrong_columns_show_the_rename_to_make(given: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "pairs.csv"
    wrong.write_text("utterance,answer_text\nhow do I pay,by card\n")

    result = run(tmp_path / "data", "train", wrong, "--base", given / "base", "--name", "x", code=1)

    assert "anchor" in result.stderr
    assert "utterance" in result.stderr


def test_an_ended_and_a_killed_training_go_on_and_come_to_the_same_version(
    given: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    arguments = [
        "train", str(given / "pairs.jsonl"), "--base", str(given / "deep"), "--name", "deep-tuned",
        "--epochs", "6", "--batch-size", "16", "--set", "encoder.dtype=fp32", "--dtype", "fp32",
    ]  # fmt: skip

    code, said = _end_after_a_checkpoint(data, arguments, signal.SIGTERM)
    assert code == 143
    assert "Error: ended by SIGTERM; what was acknowledged is kept" in said
    assert "Traceback" not in said

    code, said = _end_after_a_checkpoint(data, arguments, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not [line for line in said.splitlines() if "it/s" in line or "UserWarning" in line]

    resumed = json.loads(run(data, *arguments, "--json").stdout)
    whole = json.loads(run(tmp_path / "other", *arguments, "--json").stdout)

    assert resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["steps"] == whole["steps"]


def _end_after_a_checkpoint(
    data: Path, arguments: Sequence[str], how: signal.Signals
) -> tuple[int, str]:
    """Once it has made one more than it found; returns the exit code and what it said."""
    before = _checkpoints(data)
    process = subprocess.Popen(
        [sys.executable, "-m", "reindexer", "--data-dir", str(data), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for(lambda: _checkpoints(data) - before, process)
    process.send_signal(how)
    _, said = process.communicate()
    assert _checkpoints(data), "it came to its end"
    return process.returncode, said


def _checkpoints(data: Path) -> set[Path]:
    return set(data.glob("training/*/checkpoints/*/complete"))


def _wait_for(seen: Any, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, f"it ended early: {process.stderr and process.stderr.read()}"
        assert time.monotonic() < deadline
        time.sleep(0.01)
