"""Several models on the same queries: intervals, winners, cost, and the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.unit.test_evaluation import HashEncoder, beir_folder
from training.comparison import Comparison, compare, contenders
from training.comparison_page import headline, write_comparison
from training.measurement import Measurement, measure
from training.metrics import METRICS, PRIMARY_METRIC, Scores, paired_bootstrap
from training.tokenizer import TokenizedTexts

N_QUERIES = 80


def scores(*, gain: float = 0.0, noise: float = 0.02, seed: int = 0) -> Scores:
    """Of the same made-up queries; seed: of the noise."""
    level = np.random.default_rng(99).uniform(0.3, 0.7, size=N_QUERIES)
    rng = np.random.default_rng(seed)
    return Scores(
        query_ids=tuple(f"q{number:02}" for number in range(N_QUERIES)),
        per_query={name: level + gain + rng.normal(0, noise, size=N_QUERIES) for name in METRICS},
    )


def measured(name: str, found: dict[int, Scores], **more: float) -> Measurement:
    values: dict[str, float] = {"n_documents": 1_000, "n_tokens": 50_000, "encode_s": 10.0, **more}
    return Measurement(
        model=name, scores=found, memory_bytes=500_000_000, device_memory_bytes=None, device="cpu",
        dtype="fp32", **values,  # type: ignore[arg-type]
    )  # fmt: skip


def compared(**gains: float) -> Comparison:
    """One contender for each gain, with noise of its own; the first is the baseline."""
    measurements = [
        measured(name, {64: scores(gain=gain, seed=number)})
        for number, (name, gain) in enumerate(gains.items())
    ]
    items = contenders(measurements, {name: [0] for name in gains})
    return compare("judged", "test", items, baseline=items[0].name)


# -- who is better -------------------------------------------------------------------------------


def test_each_contender_has_its_interval_against_the_baseline() -> None:
    found = compared(a=0.0, b=0.1, c=0.0)
    assert list(found.differences) == ["b", "c"]
    rows = {item.name: item.scores.per_query[PRIMARY_METRIC] for item in found.contenders}
    for name in ("b", "c"):
        expected = paired_bootstrap(rows[name], rows["a"]).to_json()
        assert found.differences[name]["ndcg@10"].to_json() == pytest.approx(expected, abs=1e-12)


def test_what_is_not_significantly_different_stands_beside_the_best() -> None:
    found = compared(base=0.0, good=0.1, as_good=0.1, little=0.005)
    assert found.winner.name in ("good", "as_good")
    (beside,) = found.winner.not_told_apart
    assert {found.winner.name, beside} == {"good", "as_good"}


def test_equal_contenders_are_never_told_apart() -> None:
    same = scores()
    items = contenders([measured(name, {8: same}) for name in "abc"], {name: [0] for name in "abc"})
    found = compare("judged", "test", items, baseline="a")
    assert all(winner.not_told_apart == ("b", "c") for winner in found.winners)
    assert found.differences["b"]["map@100"].to_json() == {"mean": 0, "low": 0, "high": 0}


def test_many_looks_at_luck_do_not_make_a_winner() -> None:
    """20 contenders that differ by luck: without a correction the best would beat most of them."""
    told_apart = 0
    for trial in range(5):
        names = [f"m{number:02}" for number in range(20)]
        items = contenders(
            [
                measured(name, {8: scores(noise=0.2, seed=1_000 * trial + number)})
                for number, name in enumerate(names)
            ],
            {name: [0] for name in names},
        )
        found = compare("judged", "test", items, baseline="m00")
        told_apart += len(names) - 1 - len(found.winner.not_told_apart)
    assert told_apart <= 2


def test_contenders_must_have_names_and_queries_in_common() -> None:
    items = contenders([measured("a", {8: scores()})], {"a": [0]})
    with pytest.raises(ValueError, match="'b' among them"):
        compare("judged", "test", items, baseline="b")
    with pytest.raises(ValueError, match="different names"):
        compare("judged", "test", [*items, *items], baseline="a")
    fewer = Scores(query_ids=("q00",), per_query={name: np.zeros(1) for name in METRICS})
    other = contenders([measured("b", {8: fewer})], {"b": [0]})
    with pytest.raises(ValueError, match="different queries"):
        compare("judged", "test", [*items, *other], baseline="a")


def test_a_dimension_is_named_after_a_colon_and_the_full_one_is_not() -> None:
    measurements = [measured("support@4", {64: scores(), 32: scores(seed=1), 16: scores(seed=2)})]
    items = contenders(measurements, {"support@4": [0, 64, 16]})
    assert [item.name for item in items] == ["support@4", "support@4:16"]
    assert [item.vector_bytes for item in items] == [256, 64]


# -- cost ----------------------------------------------------------------------------------------


class CountedEncoder(HashEncoder):
    device = "cpu"
    dtype = "fp32"
    max_tokens = 2

    def __init__(self) -> None:
        super().__init__()
        self.n_encoded = 0

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.n_encoded += len(texts)
        return super().encode_documents(texts)

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return super().encode_documents(texts)

    def tokenize_documents(self, texts: Sequence[str]) -> TokenizedTexts:
        return TokenizedTexts.of([[1] * len(text.split()) for text in texts])


def test_a_model_encodes_the_documents_once_for_all_its_dimensions(tmp_path: Path) -> None:
    encoder = CountedEncoder()
    found = measure("tiny", encoder, beir_folder(tmp_path / "judged"), "test", [8, 4])
    assert encoder.n_encoded == found.n_documents == 3
    assert list(found.scores) == [16, 8, 4]
    assert found.n_tokens == 2 + 2 + 1, "a text of more than max_tokens is read up to there"
    assert found.encode_s > 0
    assert found.docs_per_s == pytest.approx(3 / found.encode_s)
    assert 20_000_000 < found.memory_bytes < 20_000_000_000
    assert found.device_memory_bytes is None


def test_json_carries_quality_and_cost() -> None:
    value = compared(a=0.0, b=0.1).to_json()
    assert value["queries"] == N_QUERIES
    first, second = value["models"]
    assert (value["baseline"], first["name"], first["difference"]) == ("a", "a", None)
    assert second["difference"]["ndcg@10"]["low"] > 0
    assert (second["docs_per_s"], second["tokens_per_s"]) == (100.0, 5_000.0)
    assert (second["vector_bytes"], second["memory_bytes"]) == (256, 500_000_000)
    assert value["winners"]["ndcg@10"]["model"] == "b"
    assert value["winners"]["ndcg@10"]["not_significantly_different"] == []


# -- the page ------------------------------------------------------------------------------------


def test_the_headline_says_who_is_best_and_who_may_be() -> None:
    assert re.fullmatch(
        r"b is best with nDCG@10 0\.\d{3}, significantly better than the rest on 80 queries\.",
        headline(compared(a=0.0, b=0.1)),
    )
    assert "is not significantly different on 80 queries" in headline(compared(a=0.0, b=0.0))
    assert headline(compared(a=0.0)).startswith("a has nDCG@10 0.")


def test_the_page_shows_each_contender_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    several = {64: scores(gain=0.1, seed=1), 16: scores(gain=0.05, seed=2)}
    measurements = [
        measured("mini@1", {64: scores()}),
        measured("support@4", several, encode_s=2.0),
        replace(measured("gpu@1", {64: scores(seed=7)}), device_memory_bytes=7_000_000),
    ]
    items = contenders(measurements, {"mini@1": [0], "support@4": [0, 16], "gpu@1": [0]})
    comparison = compare("/somewhere/judged", "test", items, baseline="mini@1")
    paths = write_comparison(comparison, tmp_path / "new" / "c.html", command="reindexer compare x")
    assert [path.name for path in paths] == ["c.html", "c.md"]
    page, twin = (path.read_text(encoding="utf-8") for path in paths)
    for text in ("★", "mini@1", "support@4:16", "judged/test", "500", "5,000", "reindexer compare"):
        assert text in page, text
        assert text in twin, text
    assert _table_figures(page) == _table_figures(twin)
    assert re.findall(r"<h2>(.*?)</h2>", page) == re.findall(r"(?m)^## (.*)$", twin)
    rows = [line for line in twin.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)
    assert {line.count("|") for line in rows} == {5, 11, len(METRICS) + 2}
    assert re.findall(r"url\((?!#)", page) == []
    assert "<script" not in page
    assert "src=" not in page
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert all("scope=" in head for head in re.findall(r"<th\b[^>]*>", page))


def test_one_model_alone_has_a_page_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for path in write_comparison(compared(a=0.0), tmp_path / "c.html"):
        assert "baseline" in path.read_text(encoding="utf-8")


def test_a_page_named_like_its_twin_stands_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    paths = write_comparison(compared(a=0.0), tmp_path / "c.md")
    assert [path.name for path in paths] == ["c.html", "c.md"]
    assert [path.read_text(encoding="utf-8")[:2] for path in paths] == ["<!", "# "]


def _table_figures(text: str) -> list[str]:
    """Scores and changes, in order; without the drawings, which round differently."""
    words = re.sub(r"<(svg|style).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)
    return re.findall(r"[+\N{MINUS SIGN}]?\d\.\d{3}(?!\d)", words)
