"""Our figures are those of the tools that others measure with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tiny_models import WORD_LIST, make_tiny_model
from training.encoder import Encoder
from training.evaluation import evaluate_dims
from training.judgments import read_documents, read_judgments
from training.metrics import METRICS, score
from training.registry import ModelRegistry


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """Queries with one to three relevant documents that share words with them."""
    rng = np.random.default_rng(4)
    words = WORD_LIST.split()
    texts = {f"d{at}": rng.choice(words, size=12).tolist() for at in range(150)}
    queries, qrels = [], []
    for at in range(25):
        wanted = rng.choice(list(texts), size=rng.integers(1, 4), replace=False)
        query = [word for doc_id in wanted for word in rng.choice(texts[doc_id], size=4).tolist()]
        queries.append({"_id": f"q{at}", "text": " ".join(query)})
        qrels += [f"q{at}\t{doc_id}\t1\n" for doc_id in wanted]
    folder = tmp_path / "judged"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": doc_id, "text": " ".join(text)} for doc_id, text in texts.items()]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(qrels))
    return folder


@pytest.mark.parametrize("dim", [32, 8])
def test_the_evaluator_of_sentence_transformers_agrees(
    judged: Path, tmp_path: Path, dim: int
) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.evaluation import (
        InformationRetrievalEvaluator,
    )

    version = ModelRegistry(tmp_path / "models").register(
        make_tiny_model(tmp_path / "tiny", kind="mean")
    )
    found = evaluate_dims(Encoder(version, dtype="fp32"), judged, "test", [dim])[dim]
    judgments = read_judgments(judged, "test")
    evaluator = InformationRetrievalEvaluator(
        queries=dict(judgments.queries),
        corpus={item.doc_id: item.full_text for item in read_documents(judged)},
        relevant_docs={query_id: set(judgments.relevant(query_id)) for query_id in judgments.qrels},
        truncate_dim=dim,
        write_csv=False,
    )
    theirs = evaluator(SentenceTransformer(str(version.path), device="cpu"))
    means = found.scores.means()
    assert 0.1 < means["ndcg@10"] < 0.95, "a case that could tell them apart"
    for ours, name in (
        ("ndcg@10", "cosine_ndcg@10"),
        ("mrr@10", "cosine_mrr@10"),
        ("map@100", "cosine_map@100"),
        ("recall@1", "cosine_recall@1"),
        ("recall@10", "cosine_recall@10"),
    ):
        assert means[ours] == pytest.approx(theirs[name], abs=1e-6), ours


@pytest.mark.filterwarnings(  # of what it uses, from Python 3.12 on
    "ignore:.*deprecated and will be removed in Python 3.14:DeprecationWarning"
)
def test_ir_measures_agrees() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    rng = np.random.default_rng(8)
    doc_ids = [f"d{at:03}" for at in range(200)]
    qrels = {
        f"q{at}": {str(doc): int(rng.integers(0, 4)) for doc in rng.choice(doc_ids, 15)}
        for at in range(40)
    }
    run = {
        query_id: {str(doc): float(value) for doc, value in zip(
            rng.choice(doc_ids, 120, replace=False), rng.permutation(120), strict=True
        )}
        for query_id in qrels
    }  # fmt: skip
    names = {"ndcg": "nDCG", "recall": "R", "mrr": "RR", "map": "AP"}
    measures = {
        metric: ir_measures.parse_measure("@".join((names[kind], cut)))
        for metric in METRICS
        for kind, _, cut in [metric.partition("@")]
    }
    ours = score(run, qrels).means()
    theirs = ir_measures.calc_aggregate(list(measures.values()), qrels, run)
    for metric, measure in measures.items():
        assert ours[metric] == pytest.approx(theirs[measure], abs=1e-9), metric
