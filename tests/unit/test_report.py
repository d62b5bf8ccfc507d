"""The training report: what it says, and that both of its forms say it."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.unit.test_evaluation import HashEncoder, beir_folder
from training.errors import ExtraMissing
from training.evaluation import Evaluation, evaluate_dims, evaluation
from training.judgments import read_judgments
from training.metrics import METRICS
from training.pairs import Pair
from training.report import DataFacts, TrainingReport, describe_training, shorten, write_report
from training.report_pages import headline, new_documents, training_html, training_markdown

pytest.importorskip("matplotlib")

N_QUERIES = 12
CORPUS = [
    {"_id": f"d{number}", "title": f"Title {number}", "text": f"text {number}"}
    for number in range(40)
]
QUERIES = [
    {"_id": f"q{number}", "text": f"query {number}", "slice": "odd" if number % 2 else "even"}
    for number in range(N_QUERIES)
]
QRELS = "".join(f"q{number}\td{number}\t1\n" for number in range(N_QUERIES))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    head = "query-id\tcorpus-id\tscore\n"
    return beir_folder(
        tmp_path / "judged", corpus=CORPUS, queries=QUERIES, qrels={"test": head + QRELS}
    )


def found_at(folder: Path, ranks: Sequence[int]) -> Evaluation:
    """An evaluation in which the document of query n stands at ranks[n]."""
    run = {}
    for number, rank in enumerate(ranks):
        others = [f"d{other}" for other in range(20, 40)]
        others.insert(rank - 1, f"d{number}")
        run[f"q{number}"] = [(doc_id, 1 - at / 100) for at, doc_id in enumerate(others)]
    return evaluation(16, run, read_judgments(folder, "test").qrels)


WORSE = [3] * N_QUERIES
BETTER = [1] * (N_QUERIES - 2) + [3, 9]  # one as it was, one that lost


@pytest.fixture
def make_report(folder: Path) -> Callable[..., TrainingReport]:
    def make(base: Sequence[int] = WORSE, tuned: Sequence[int] = BETTER, **more: Any) -> Any:
        values: dict[str, Any] = {
            "model": "support@4",
            "base": "mini@1",
            "command": "reindexer train pairs.jsonl --base mini@1 --name support --eval judged",
            "pairs": [Pair(anchor="x", positive="Title 3 text 3"), Pair(anchor="y", positive="z")],
            "gate_passed": True,
            "gate_reason": "the gain is above 0.02",
            "min_gain": 0.02,
            **more,
        }
        return describe_training(
            folder=folder,
            split="test",
            base_evaluations={16: found_at(folder, base)},
            tuned_evaluations={16: found_at(folder, tuned)},
            **values,
        )

    return make


# -- what it says --------------------------------------------------------------------------------


def test_the_verdict_is_one_sentence_on_top(make_report: Callable[..., TrainingReport]) -> None:
    report = make_report()
    assert headline(report).startswith("support@4 is better than mini@1 by 0.")
    assert headline(report).endswith("12 queries).")
    assert report.gain.low > 0
    swapped = make_report(BETTER, WORSE)
    assert headline(swapped).startswith("support@4 is worse than mini@1 by 0.")
    same = make_report(WORSE, WORSE)
    assert headline(same).startswith("support@4 cannot be told from mini@1: 0.000 nDCG@10")
    for page in (training_html(report), training_markdown(report)):
        assert "Gate passed:" in page
        assert "the gain is above 0.02." in page


def test_a_refused_gate_says_why_and_what_to_try(
    make_report: Callable[..., TrainingReport],
) -> None:
    report = make_report(
        gate_passed=False,
        gate_reason="the gain is below 0.02",
        advice=["run `reindexer pairs audit pairs.jsonl`"],
    )
    assert "Gate refused:" in training_html(report)
    assert "<code>reindexer pairs audit pairs.jsonl</code>" in training_html(report)
    assert "- run `reindexer pairs audit pairs.jsonl`\n" in training_markdown(report)


def test_the_queries_that_changed_most_come_with_both_models_hits(
    make_report: Callable[..., TrainingReport],
) -> None:
    report = make_report()
    assert len(report.gained) == 5
    (lost,) = report.lost
    assert (lost.query_id, lost.text, lost.base_rank, lost.tuned_rank) == ("q11", "query 11", 3, 9)
    first = report.gained[0]
    assert [hit.relevant for hit in first.tuned_hits] == [True, False, False, False, False]
    assert first.tuned_hits[0].title == f"Title {first.query_id[1:]}"
    assert [hit.relevant for hit in first.base_hits] == [False, False, True, False, False]


def test_seen_documents_and_slices_are_scored_apart(
    make_report: Callable[..., TrainingReport],
) -> None:
    report = make_report()
    assert [(row.name, row.n_queries) for row in report.seen] == [
        ("unseen", 11),
        ("mixed", 0),
        ("seen", 1),
    ]
    assert report.seen_documents == (1, 12)
    assert [(row.name, row.n_queries) for row in report.slices] == [("even", 6), ("odd", 6)]


def test_a_gain_by_heart_is_told_from_one_on_new_documents(
    make_report: Callable[..., TrainingReport],
) -> None:
    six = [Pair(anchor="x", positive="p", doc_id=f"d{number}") for number in range(6)]
    by_heart = make_report(WORSE, [1] * 6 + [3] * 6, pairs=six)
    assert by_heart.gain.low > 0
    warning = "(6 queries) the change is 0.000 (95 % interval 0.000 to 0.000): the interval contain"
    for page in (training_html(by_heart), training_markdown(by_heart)):
        assert warning in page
    honest = make_report(WORSE, [1] * N_QUERIES, pairs=six)
    assert new_documents(honest).startswith("On new documents alone (6 queries) the change is +0.")
    assert "not proven" not in new_documents(honest)
    every = [Pair(anchor="x", positive="p", doc_id=f"d{number}") for number in range(N_QUERIES)]
    assert "nothing here speaks for new documents" in new_documents(make_report(pairs=every))
    assert new_documents(make_report(pairs=[])) == "", "no overlap, so the headline says it all"


def test_a_long_title_is_cut_at_a_word() -> None:
    assert shorten("a  b\nc") == "a b c"
    assert shorten("word " * 40, 23) == "word word word word\N{NO-BREAK SPACE}…"


# -- both forms ----------------------------------------------------------------------------------


@pytest.fixture
def whole(make_report: Callable[..., TrainingReport], folder: Path) -> TrainingReport:
    dims = [16, 8, 4]
    base = evaluate_dims(HashEncoder(), folder, "test", dims)
    return replace(
        make_report(
            loss_curve=[(10, 2.25), (20, 1.125)],
            metric_curve=[(1.0, 0.611), (2.0, 0.722)],
            facts=DataFacts(
                pairs=4321,
                dropped={"identical": 17},
                leaked_queries=["who leaks"],
                noise_share=0.07,
                words={"anchor": (5, 9, 33)},
                pairs_sha256="c0ffee",
            ),
            settings={"learning_rate": 2e-5, "batch_size": 64, "fp16": False, "dims": [16, 8]},
            hardware="two cores",
            seconds=95.0,
        ),
        base_evaluations=base,
        tuned_evaluations=base,
    )


FACTS = (
    "4,321", "17 identical", "who leaks", "about 7 %", "longest 33", "c0ffee", "2e-05", "64",
    "two cores", "95 s", "reindexer train pairs.jsonl", "odd", "even", "unseen documents only",
    "query 11", "Title 11", "at 9", "Recall@100", "MAP@100", "100.0", "0.611", "0.722",
)  # fmt: skip


def test_the_page_and_its_twin_tell_the_same_facts(whole: TrainingReport) -> None:
    page, twin = training_html(whole), training_markdown(whole)
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    for fact in FACTS:
        assert fact in text, f"{fact} is not on the page"
        assert fact in twin, f"{fact} is not in the Markdown"
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert headings == re.findall(r"(?m)^## (.*)$", twin)
    figures = r"[+\N{MINUS SIGN}]?\d\.\d{3}(?!\d)"
    table = page.split("<h2>Every metric")[1].split("</section>")[0].split("<tbody>")[1]
    assert re.findall(figures, re.sub(r"<[^>]+>", " ", table)) == re.findall(
        figures, twin.split("## Every metric")[1].split("\n## ")[0]
    )
    assert len(re.findall(figures, table)) == 5 * len(METRICS)


def test_the_page_needs_nothing_from_elsewhere(whole: TrainingReport) -> None:
    page = training_html(whole)
    for sign in ("<script", "<link", "<img", "@import", "src="):
        assert sign not in page
    assert re.findall(r"url\((?!#)", page) == []
    addresses = set(re.findall(r"https?://[^\"'\s<]+", page))
    assert addresses == {"http://www.w3.org/1999/xlink"}, "the name of a namespace, never fetched"


class Elements(HTMLParser):
    """Tags with their attributes; notices what is closed in the wrong place."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag


def test_the_page_can_be_read_without_seeing_it(whole: TrainingReport) -> None:
    page = training_html(whole)
    elements = Elements(page).found
    assert all("scope" in attributes for tag, attributes in elements if tag == "th")
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids)), "charts must not share ids"
    charts = [attributes for tag, attributes in elements if tag == "svg"]
    assert len(charts) == 5
    for chart in charts:
        assert chart["role"] == "img"
        assert set((chart["aria-labelledby"] or "").split()) <= set(ids)
    for drawing in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        ElementTree.fromstring(drawing)
        assert "<title" in drawing
    assert '<html lang="en">' in page


def test_charts_take_their_colours_from_the_page(whole: TrainingReport) -> None:
    page = training_html(whole)
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawings)) == set()
    assert set(re.findall(r"(?:fill|stroke): (?!none|var)[^;\"]+", drawings)) == set()
    for name in re.findall(r"var\((--[\w-]+)\)", drawings):
        assert page.count(f"{name}:") == 3, f"{name} must be set for light, dark and print"


def test_words_of_users_stay_words(make_report: Callable[..., TrainingReport]) -> None:
    report = make_report()
    evil = replace(report.gained[0], text="<script>alert(1)</script> | `x` *y*")
    report = replace(report, gained=[evil])
    assert "<script" not in training_html(report)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; | `x` *y*" in training_html(report)
    assert r"\<script\>alert(1)\</script\> \| \`x\` \*y\*" in training_markdown(report)


def test_markdown_tables_stand_by_themselves(whole: TrainingReport) -> None:
    lines = training_markdown(whole).splitlines()
    for before, line in itertools.pairwise(lines):
        if line.startswith("|") != before.startswith("|"):
            assert not before or not line, f"no empty line between {before!r} and {line!r}"
    rows = [line for line in lines if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_equal_reports_give_equal_pages(whole: TrainingReport) -> None:
    assert training_html(whole) == training_html(whole)


def test_a_report_without_the_optional_parts_is_written(
    make_report: Callable[..., TrainingReport], tmp_path: Path
) -> None:
    report = replace(make_report(), seen=(), slices=(), gained=(), lost=(), seen_documents=None)
    page, twin = write_report(report, tmp_path / "new" / "report")
    assert (page.name, twin.name) == ("report.html", "report.md")
    for text in (page.read_text(encoding="utf-8"), twin.read_text(encoding="utf-8")):
        for heading in ("Slices", "Shorter vectors", "How training went", "Gained most"):
            assert heading not in text


def test_without_matplotlib_it_says_what_to_install(
    make_report: Callable[..., TrainingReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = make_report()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'reindexer\[train\]'"):
        training_html(report)
