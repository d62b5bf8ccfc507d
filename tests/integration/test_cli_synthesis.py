"""`pairs build --llm-model`, `models push`, `models pull` and `models show` through the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer.cli import cli
from tests.completion_server import KEY, CompletionServer, Reply, queries_of
from tests.tiny_models import make_tiny_model
from training.pairs import read_pairs
from training.registry import ModelRegistry

SUBJECTS = ("apple", "river", "engine", "metal", "village", "music", "winter", "market")


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("REINDEXER_", "OPENAI_"))]:
        monkeypatch.delenv(name)


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A BEIR folder of eight documents; the first two have queries, in two splits."""
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": f"d{n}", "title": "", "text": f"{s} {s} word {s} more"}
        for n, s in enumerate(SUBJECTS)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = [{"_id": f"q{n}", "text": "what is it"} for n in range(2)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    for n, split in enumerate(("train", "test")):
        (folder / "qrels" / f"{split}.tsv").write_text(
            f"query-id\tcorpus-id\tscore\nq{n}\td{n}\t1\n"
        )
    return folder


def run(*args: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["--data-dir", "data", *args])
    assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
    return result


def build(server: CompletionServer, *args: str, code: int = 0, out: str = "pairs.jsonl") -> Any:
    asked = ["--llm-base-url", server.base_url, "--llm-model", "writer", "--json", "-o", out]
    result = run("pairs", "build", *args, *asked, code=code)
    return json.loads(result.stdout) if result.stdout else result.stderr


def test_documents_without_queries_get_some_and_the_others_are_not_sent(judged: Path) -> None:
    with CompletionServer() as server:
        report = build(server, str(judged), "--yes", "--keep-near")
        assert sorted(document.split()[0] for document in server.documents) == sorted(SUBJECTS[2:])
        assert report["synthesis"]["documents"] == report["synthesis"]["requests"] == 6
        assert (report["format"], report["rejected_total"]) == ("llm", 0)
        pairs = read_pairs("pairs.jsonl")
        assert {pair.doc_id for pair in pairs} == {f"d{n}" for n in range(2, 8)}
        assert report["kept"] == len(pairs)
        again = build(server, str(judged), "--yes", "--keep-near", out="again.jsonl")
    assert (again["synthesis"]["requests"], again["synthesis"]["answered_before"]) == (0, 6)
    assert again["pairs_sha256"] == report["pairs_sha256"]


def test_nothing_is_sent_before_somebody_has_said_yes_to_the_cost(judged: Path) -> None:
    prices = ["--llm-prompt-price", "100", "--llm-completion-price", "400"]
    with CompletionServer() as server:
        told = build(server, str(judged), *prices, code=2)
        assert server.requests == []
        assert "6 documents of 8 to ask about" in told
        assert server.base_url in told
        assert "at the prices given" in told
        assert "OPENAI_API_KEY is not set" in told
        assert "add --yes" in told
        assert not Path("pairs.jsonl").exists()
        report = build(server, str(judged), *prices, "--yes")
    assert report["synthesis"]["usage"]["prompt_tokens"] == 600
    assert report["synthesis"]["cost"] == pytest.approx((600 * 100 + 120 * 400) / 1e6)


def test_the_key_comes_from_the_environment_and_is_never_shown(
    judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", "sk-wrong")
    with CompletionServer(key=KEY) as server:
        told = build(server, str(judged), "--yes", "--llm-api-key-env", "OUR_KEY", code=1)
        assert len(server.requests) == 1
        assert "HTTP 401" in told
        assert "sk-wrong" not in told
        assert not Path("pairs.jsonl").exists()
        monkeypatch.setenv("OUR_KEY", KEY)
        report = build(server, str(judged), "--yes", "--llm-api-key-env", "OUR_KEY")
    assert report["synthesis"]["queries"] == 18
    assert KEY not in json.dumps(report)


def test_a_query_that_the_base_model_cannot_place_is_left_out(judged: Path, tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "base", kind="static")

    def answer(_number: int, document: str) -> Reply:
        subject = document.split()[0]
        return Reply(answer=json.dumps([f"{subject} word", f"something like {subject}", "music"]))

    with CompletionServer(answer) as server:
        asked = [str(judged), "--yes", "--llm-round-trip", "base", "--llm-round-trip-k", "1"]
        report = build(server, *asked)
    pairs = read_pairs("pairs.jsonl")
    assert [pair.doc_id for pair in pairs if pair.anchor == "music"] in ([], ["d5"])
    checked = report["synthesis"]["round_trip"]
    assert (checked["k"], checked["documents"]) == (1, 8)
    assert checked["kept"] + checked["dropped"] == 13  # "music" counts once
    assert report["synthesis"]["queries"] == checked["kept"]
    assert checked["dropped"] >= 1


def test_a_document_without_a_usable_answer_is_reported(judged: Path) -> None:
    def answer(_number: int, document: str) -> Reply:
        bad = document.startswith("metal")
        return Reply(answer="No." if bad else queries_of(document))

    with CompletionServer(answer) as server:
        report = build(server, str(judged), "--yes", code=1)
    assert [row["where"] for row in report["rejected"]] == ["document d3"]
    assert "no queries in the answer" in report["rejected"][0]["reason"]
    assert {pair.doc_id for pair in read_pairs("pairs.jsonl")} >= {"d2", "d4"}


def test_ingested_documents_are_asked_about_without_a_source(judged: Path) -> None:
    run("ingest", str(judged))
    with CompletionServer() as server:
        report = build(server, "--yes", "--llm-documents", "3")
        assert (report["synthesis"]["documents"], report["source"]) == (3, None)
        report = build(server, "--yes", "--llm-having", "pairs.jsonl", out="more.jsonl")
    first, more = read_pairs("pairs.jsonl"), read_pairs("more.jsonl")
    assert {pair.doc_id for pair in first}.isdisjoint(pair.doc_id for pair in more)
    assert len({pair.doc_id for pair in [*first, *more]}) == 8


def test_own_instructions_reach_the_model(judged: Path, tmp_path: Path) -> None:
    prompt = tmp_path / "plumber.txt"
    prompt.write_text("Ask {n} things like a plumber.")
    with CompletionServer() as server:
        build(server, str(judged), "--yes", "--llm-prompt", str(prompt), "--llm-queries", "2")
    system = server.requests[0].value["messages"][0]["content"]
    assert system.startswith("Ask 2 things like a plumber.")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["judged", "--llm-queries", "2"], "--llm-queries goes with --llm-model"),
        (["judged", "--llm-model", "m"], "needs --llm-base-url"),
        (["judged", "--llm-model", "m", "--llm-base-url", "here"], "expected http://"),
        (
            ["judged", "--llm-model", "m", "--llm-base-url", "http://x", "--split", "test"],
            "--split is for pairs that are there already",
        ),
        ([], "name a SOURCE"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    judged: Path, args: list[str], told: str
) -> None:
    assert judged.exists()
    result = run("pairs", "build", *args, "-o", "pairs.jsonl", code=2)
    assert told in " ".join(result.stderr.split())


# -- models --------------------------------------------------------------------------------------


def test_a_version_goes_from_one_data_directory_to_another(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "base", kind="static")
    run("models", "register", "base", "--name", "support")
    pushed = json.loads(run("models", "push", "support@1", "shared", "--json").stdout)
    assert pushed["location"] == "shared/support@1"
    assert pushed["sent_bytes"] == pushed["size_bytes"]
    assert "was there already" in run("models", "push", "support", "shared").stdout
    arguments = ["--data-dir", "other", "models", "pull", "shared/support@1", "--json"]
    pulled = json.loads(CliRunner().invoke(cli, arguments).stdout)
    assert (pulled["model"], pulled["fingerprint"]) == ("support@1", pushed["fingerprint"])
    weights = tmp_path / "shared" / "support@1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    told = run("models", "pull", "shared/support@1", "--name", "copy", code=1).stderr
    assert "is not the file that was pushed" in told


def test_a_trained_version_is_shown_with_lineage_and_card(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tuned", kind="static")
    lineage = {"base": "support@1", "base_fingerprint": "ab" * 32, "pairs_sha256": "cd" * 32,
               "seed": 7, "code_version": "0.1.0", "command": "reindexer train p --seed 7",
               "gate": "refused", "gate_reason": "too small a gain"}  # fmt: skip
    metrics = {"base": {"ndcg@10": 0.5}, "tuned": {"ndcg@10": 0.51}}
    registry = ModelRegistry(tmp_path / "data" / "models")
    registry.register(folder, name="support", lineage=lineage, metrics=metrics)
    run("ingest", "--help")
    run("models", "register", "tuned", "--name", "plain")
    shown = run("models", "show", "support").stdout
    for told in (
        "support@1 (abababababab)", "cd" * 32, "seed", "refused: too small a gain",
        "## Intended use", "| ndcg@10 | 0.500 | 0.510 |", "reindexer train p --seed 7",
    ):  # fmt: skip
        assert told in shown
    assert "library_name" not in shown
    assert run("models", "show", "support", "--card").stdout.startswith("---\nlibrary_name")
    value = json.loads(run("models", "show", "support", "--json").stdout)
    assert value["lineage"]["seed"] == 7
    assert value["card"].startswith("---")
    assert "## Intended use" not in run("models", "show", "plain").stdout


def test_a_folder_saved_without_its_configuration_is_registered_once_its_pooling_is_named(
    tmp_path: Path,
) -> None:
    folder = make_tiny_model(tmp_path / "bare", kind="cls", normalize=False)
    (folder / "modules.json").unlink()
    (folder / "1_Pooling" / "config.json").unlink()
    (folder / "config_sentence_transformers.json").unlink()
    told = run("models", "register", "bare", code=1).stderr
    assert "reindexer models register REF --pooling mean" in told
    value = json.loads(run("models", "register", "bare", "--pooling", "cls", "--json").stdout)
    assert value["pooling"] == "cls"
