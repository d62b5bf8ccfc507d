"""The gate's report as a page and as Markdown, and the votes beside it, as a user asks for them."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from reindexer import data_directory
from reindexer.cli import cli
from search.feedback import FeedbackLog
from tests.integration.test_quality import _Directory
from training.metrics import METRICS

pytest.importorskip("matplotlib")

N_DOCUMENTS = 30
EVIL = "about <script>alert(1)</script> | rare"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """docs@1 is live; docs@2 answers as well, docs@3 worse. Beside them, judged queries."""
    place = tmp_path_factory.mktemp("gate")
    (place / "judged" / "qrels").mkdir(parents=True)
    ids = range(N_DOCUMENTS)
    queries = [{"_id": f"q{n}", "text": f"{EVIL}{n}"} for n in ids]
    (place / "judged" / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    (place / "judged" / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{n}\td{n}\t1\n" for n in ids)
    )
    with _Directory(place / "data") as directory:
        for n in ids:
            directory.put(f"d{n}", f"all about rare{n} and rare{n} again")
        directory.go_live(directory.build("word@1"))
        directory.build("word@2")
        directory.build("worse@3")
    return place


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        data_directory, "open_data_directory", lambda settings: _Directory(settings.data_dir)
    )

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(cli, ["--data-dir", str(place / "data"), *args])
        assert result.exit_code == code, f"{args}: {result.exit_code}\n{result.output}"
        return result

    return invoke


def vote(place: Path, *better: str | None) -> None:
    with _Directory(place / "data") as directory:
        votes = FeedbackLog(directory.database)
        for name in better:
            votes.vote("rare3", "docs@1", "docs@2", better=name, who="local")


def test_votes_are_counted_when_a_report_is_read(place: Path, run: Any) -> None:
    """Without --eval, and whenever they came."""
    found = json.loads(run("verify", "docs@2", "--json").stdout)
    assert (found["votes"], found["metrics"], found["report"]) == ([], None, None)

    vote(place, "docs@2", "docs@2", "docs@1", None)
    votes = [{"against": "docs@1", "mine": 2, "theirs": 1, "neither": 1}]
    shown = json.loads(run("generations", "show", "docs@2", "--json").stdout)
    assert shown["votes"] == votes
    assert "votes" not in shown["verified"], "what is kept cannot grow old"
    assert json.loads(run("verify", "docs@2", "--json").stdout)["votes"] == votes
    line = "votes 2 for docs@2, 1 for docs@1, 1 for neither"
    assert line in run("generations", "show", "docs@2").stdout
    assert line in run("verify", "docs@2").stdout
    assert "votes 1 for docs@1, 2 for docs@2" in run("generations", "show", "docs@1").stdout

    vote(place, "docs@1")
    run("generations", "show", "docs@2", "--report", "gate.html")
    for name in ("gate.html", "gate.md"):
        text = re.sub(r"<[^>]+>|\|", " ", Path(name).read_text(encoding="utf-8"))
        assert re.search(r"docs@1\s+2\s+2\s+1\s", text), name


@pytest.fixture
def pages(place: Path, run: Any) -> tuple[str, str]:
    """Of a candidate that answers worse: the page and its Markdown."""
    judged = str(place / "judged")
    result = run("verify", "docs@3", "--eval", judged, "--report", "out/gate.html", code=3)
    assert "The page is out/gate.html, in Markdown out/gate.md" in result.output
    page, twin = Path("out/gate.html"), Path("out/gate.md")
    return page.read_text(encoding="utf-8"), twin.read_text(encoding="utf-8")


def test_the_page_and_its_twin_tell_the_same(place: Path, pages: tuple[str, str]) -> None:
    page, twin = pages
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for fact in ("The gate refused docs@3: quality", "✗ refused", "✓ passed", "fingerprint",
                 "exact top 10", "Recall@100", "worse@3", "docs@1", "30 judged queries",
                 f"reindexer verify docs@3 --eval {place / 'judged'} --split test"):  # fmt: skip
        assert fact in text, f"{fact} is not on the page"
        assert fact in twin, f"{fact} is not in the Markdown"
    assert re.findall(r"<h2>(.*?)</h2>", page) == re.findall(r"(?m)^## (.*)$", twin)
    figures = r"[+\N{MINUS SIGN}]?\d\.\d{3}(?!\d)"
    without = re.sub(r"<(svg|style).*?</\1>", "", page, flags=re.DOTALL)
    in_page = re.findall(figures, re.sub(r"<[^>]+>", " ", without))
    assert in_page == re.findall(figures, twin)
    assert len(in_page) > 5 * len(METRICS)
    assert page.count("<svg") == 2


def test_the_page_needs_nothing_from_elsewhere(pages: tuple[str, str]) -> None:
    page, twin = pages
    for sign in ("<script", "<link", "<img", "@import", "src="):
        assert sign not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | rare" in page, "a query that lost"
    assert re.search(r"(?<!\\)<script", twin) is None
    assert r"\<script\>alert(1)\</script\> \| rare" in twin
    assert re.findall(r"url\((?!#)", page) == []
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/1999/xlink"}
    lines = [line for line in twin.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_what_the_gate_never_looked_at_has_no_report(place: Path, run: Any) -> None:
    with _Directory(place / "data") as directory:
        directory.record("word@9")
    name = json.loads(run("generations", "--json").stdout)[-1]["generation"]
    result = run("generations", "show", name, "--report", "gate.html", code=1)
    assert f"run `reindexer verify {name}`" in result.output
    assert list(Path().iterdir()) == []


def test_a_report_kept_by_an_older_version_is_written(place: Path, run: Any) -> None:
    with _Directory(place / "data") as directory:
        directory.catalog.keep_verification("docs@1", {"passed": True})
    run("generations", "show", "docs@1", "--report", "gate.md")
    assert "The gate passed docs@1." in Path("gate.html").read_text(encoding="utf-8")
