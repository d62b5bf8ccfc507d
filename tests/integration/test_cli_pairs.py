"""`pairs build`, `split` and `audit` as a user types them: from judgments to what trains."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer.cli import cli
from reindexer.data_directory import open_data_directory
from reindexer.settings import Settings
from search.documents import Document
from tests.tiny_models import make_tiny_model
from training.evaluation import evaluate_encoder
from training.judgments import read_judgments
from training.pairs import pairs_hash, read_pairs

SUBJECTS = ("apple", "river", "engine", "metal", "village", "music", "winter", "market", "horse")
FILLERS = ("book", "cell", "city", "corn", "dog", "fire", "gold", "house", "island", "lake")


@dataclass(frozen=True)
class Command:
    data_dir: Path

    def run(self, *args: object, code: int = 0) -> Result:
        words = [str(arg) for arg in args]
        result = CliRunner().invoke(cli, ["--data-dir", str(self.data_dir), "pairs", *words])
        assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}"
        return result

    def json(self, *args: object, code: int = 0) -> Any:
        return json.loads(self.run(*args, "--json", code=code).stdout)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    return Command(tmp_path / "data")


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """90 queries, each with a document of its own: a subject, a filler, and a number of its own."""
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    documents, queries, judgments = [], [], ["query-id\tcorpus-id\tscore"]
    for at in range(90):
        subject, filler = SUBJECTS[at % 9], FILLERS[at // 9]
        documents.append({"_id": f"d{at}", "title": subject, "text": f"{subject} with {filler}"})
        queries.append({"_id": f"q{at}", "text": f"{filler} {subject}?"})
        judgments.append(f"q{at}\td{at}\t1")
    _write_lines(folder / "corpus.jsonl", documents)
    _write_lines(folder / "queries.jsonl", queries)
    (folder / "qrels" / "train.tsv").write_text("\n".join(judgments) + "\n")
    return folder


def test_judgments_become_a_split_that_can_be_evaluated_on(
    command: Command, judged: Path, tmp_path: Path
) -> None:
    built = command.json("build", judged, "--split", "train", "-o", "pairs.jsonl")
    assert (built["format"], built["read"], built["kept"], built["rejected"]) == (
        "beir",
        90,
        90,
        [],
    )
    assert built["pairs_sha256"] == pairs_hash(read_pairs(tmp_path / "pairs.jsonl"))
    split = command.json("split", "pairs.jsonl", "-o", "split", "--corpus", judged)
    assert (split["train"], split["dev"], split["test"], split["documents"]) == (72, 9, 9, 90)
    folder = tmp_path / "split"
    tested = set(read_judgments(folder, "test").queries.values())
    assert not tested & {pair.anchor for pair in read_pairs(folder / "train.jsonl")}
    from training.encoder import Encoder
    from training.registry import ModelRegistry

    registry = ModelRegistry(tmp_path / "models")
    model = registry.register(str(make_tiny_model(tmp_path / "tiny", kind="static")), name="tiny")
    assert evaluate_encoder(Encoder(model), folder, "test").means()["recall@100"] == 1.0


def test_rejected_rows_are_shown_and_the_exit_code_is_1(command: Command, tmp_path: Path) -> None:
    _write_lines(
        tmp_path / "faq.jsonl",
        [
            {"question": "why?", "answer": "because"},
            {"question": "why", "answer": "Because."},
            {"question": "what?", "answer": "what"},
            {"question": "who?", "answer": ""},
        ],
    )
    report = command.json("build", "faq.jsonl", "-o", "pairs.jsonl", code=1)
    assert (report["read"], report["kept"], report["duplicates"]["exact"]) == (4, 1, 1)
    assert report["columns"] == {"question": "anchor", "answer": "positive"}
    assert [row["where"] for row in report["rejected"]] == ["faq.jsonl:3", "faq.jsonl:4"]
    shown = command.run("build", "faq.jsonl", "-o", "pairs.jsonl", code=1)
    assert "anchor and positive are the same text" in shown.stdout
    assert "Read question as anchor, answer as positive." in shown.stderr
    assert len(read_pairs(tmp_path / "pairs.jsonl")) == 1


def test_the_command_in_the_message_about_columns_works_as_it_stands(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "faq.csv").write_text("frage,antwort\nwhy?,because it is so\n")
    failed = command.run("build", "faq.csv", "-o", "pairs.jsonl", code=1)
    advice = failed.stderr.split("`reindexer pairs ")[1].split("`")[0].replace("\n", " ")
    assert advice == (
        "build faq.csv --rename frage=anchor --rename antwort=positive -o pairs.jsonl"
    )
    command.run(*advice.split())
    assert read_pairs(tmp_path / "pairs.jsonl")[0].anchor == "why?"


def test_columns_are_checked_against_the_loss_before_anything_is_written(
    command: Command, tmp_path: Path
) -> None:
    _write_lines(tmp_path / "p.jsonl", [{"query": "a", "passage": "b"}])
    failed = command.run("build", "p.jsonl", "--loss", "triplet", "-o", "out.jsonl", code=1)
    assert "negatives" in failed.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_nothing_left_writes_nothing(command: Command, tmp_path: Path) -> None:
    _write_lines(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "a"}])
    report = command.json("build", "p.jsonl", "-o", "out.jsonl", code=1)
    assert report["out"] is None
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["build", "p.jsonl", "-o", "out.csv"], "name it out.jsonl"),
        (["build", "p.jsonl", "-o", "o.jsonl", "--format", "xml"], "expected one of auto, beir"),
        (["build", "p.jsonl", "-o", "o.jsonl", "--rename", "x"], "expected COLUMN=ROLE"),
        (["build", "p.jsonl", "-o", "o.jsonl", "--corpus", "x"], "--format clicks"),
        (["audit", "p.jsonl"], "--base REF"),
        (["audit", "p.jsonl", "--verdicts", "v.csv", "--sheet", "s.html"], "need --base REF"),
    ],
)
def test_a_wrong_use_is_a_usage_error(
    command: Command, tmp_path: Path, args: list[str], message: str
) -> None:
    _write_lines(tmp_path / "p.jsonl", [{"anchor": "a", "positive": "b"}])
    assert message in command.run(*args, code=2).stderr.replace("\n", " ")


def _click_log(path: Path) -> Path:
    rows = [
        {"query": "brie", "doc_id": doc_id, "position": at, "clicked": doc_id == "b", "user": user}
        for user in ("ann", "bob")
        for at, doc_id in enumerate("ab", 1)
    ]
    return _write_lines(path, rows)


def test_clicks_get_their_texts_from_what_was_ingested(command: Command, tmp_path: Path) -> None:
    log = _click_log(tmp_path / "clicks.jsonl")
    failed = command.run("build", log, "-o", "pairs.jsonl", code=1)
    assert "--corpus REF" in failed.stderr
    with open_data_directory(Settings(data_dir=command.data_dir)) as data:
        data.corpus.put(
            [Document.of(doc_id=name, title=name.upper(), text=f"about {name}") for name in "ab"]
        )
    report = command.json("build", log, "-o", "pairs.jsonl")
    assert (report["format"], report["kept"], report["clicks"]["pages"]) == ("clicks", 1, 2)
    (pair,) = read_pairs(tmp_path / "pairs.jsonl")
    assert (pair.positive, pair.negatives) == ("B about b", ("A about a",))


def test_clicks_get_their_texts_from_a_file(command: Command, tmp_path: Path) -> None:
    log = _click_log(tmp_path / "clicks.jsonl")
    documents = _write_lines(
        tmp_path / "documents.jsonl", [{"_id": name, "text": f"about {name}"} for name in "ab"]
    )
    command.run("build", log, "--corpus", documents, "-o", "pairs.jsonl")
    assert read_pairs(tmp_path / "pairs.jsonl")[0].positive == "about b"
    assert not command.data_dir.exists()


def test_the_audit_finds_swapped_positives_and_a_person_confirms(
    command: Command, tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path / "tiny", kind="static", dim=64)
    rows = [
        {"anchor": f"{subject} {filler}", "positive": f"the {subject} of the {filler} is here"}
        for subject in SUBJECTS
        for filler in FILLERS
    ]
    good = _write_lines(tmp_path / "good.jsonl", rows)
    clean = command.json("audit", good, "--base", model)
    assert not clean["high"]
    assert clean["noise"]["share"] < 0.1
    positives = [row["positive"] for row in rows]
    for at in range(45):
        rows[at]["positive"] = positives[(at + 45) % 90]
    bad = _write_lines(tmp_path / "bad.jsonl", rows)
    shown = command.run("audit", bad, "--base", model, "--sheet", "audit.csv")
    assert "more than 10% of the pairs seem mismatched" in shown.stderr
    assert "--verdicts verdicts.csv" in shown.stdout
    found = command.json("audit", bad, "--base", model)
    assert found["high"]
    assert all(item["pair"] <= 45 for item in found["suspects"][:5])
    lines = (tmp_path / "audit.csv").read_text(encoding="utf-8-sig").splitlines()
    judged = [lines[0]]
    for line in lines[1:]:
        number, _, rest = line.split(",", 2)
        judged.append(f"{number},{'mismatch' if int(number) <= 45 else 'ok'},{rest}")
    (tmp_path / "verdicts.csv").write_text("\n".join(judged))
    by_person = command.json("audit", bad, "--verdicts", "verdicts.csv")
    assert by_person["verdicts"]["low"] < 0.5 < by_person["verdicts"]["high"]
    assert by_person["noise"] is None


def test_the_verb_by_itself_explains_itself(command: Command) -> None:
    assert "reindexer pairs build" in command.run().stdout


def test_building_from_a_file_starts_without_torch() -> None:
    code = (
        "import sys, reindexer.cli_pairs, training.pair_build, training.pair_sources, "
        "training.split_files, training.audit_sheet\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'datasets', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
