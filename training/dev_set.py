"""What training is watched with: queries held out from the pairs, or the folder's own dev split.

Never the split that the version is measured on afterwards. Stopping when the test queries do best
would be choosing the version by the very figures that are to show how good it is, and they would
come out too high: the more checkpoints to choose from, the more so.
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from training.errors import PairsInvalid
from training.judgments import read_documents, read_judgments, splits
from training.lookalikes import bm25_lookalikes
from training.pair_columns import MATCH_SCORE
from training.pairs import Pair, text_key
from training.split import split_pairs
from training.whole_file import write_whole

DEV_SPLITS = ("dev", "validation", "valid", "val")
# Queries held out: a twentieth, but not fewer or more than so many, never above a tenth. What is
# held out teaches nothing, and telling what went wrong takes few. Measured: docs/results.md.
DEV_SHARE, MAX_SHARE = 0.05, 0.1
ENOUGH_QUERIES, MAX_QUERIES = 32, 200
MIN_QUERIES = 16  # fewer say nothing; then nothing is held out
MIN_DOCUMENTS, MAX_DOCUMENTS = 300, 1_000  # ranked at each evaluation
LOOKALIKES = 10  # documents a query that BM25 takes for answers
MAX_POOL = 50_000  # documents that lookalikes are searched in


@dataclass(frozen=True, kw_only=True, slots=True)
class DevSet:
    """A small judged corpus: hard enough to tell checkpoints apart, quick to encode."""

    queries: Mapping[str, str]
    corpus: Mapping[str, str]
    relevant: Mapping[str, Sequence[str]]  # doc_ids by query id
    origin: str  # where it comes from, for people

    def write(self, path: Path) -> None:
        write_whole(path, orjson.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> DevSet:
        value: dict[str, Any] = orjson.loads(path.read_bytes())
        return cls(**value)


def make_dev_set(
    pairs: Sequence[Pair],
    *,
    folder: Path | None,
    test_split: str,
    seed: int,
) -> tuple[DevSet | None, list[Pair]]:
    """The dev set, and the pairs that are left to train on.

    folder: of the evaluation; its dev split is used when it has one that is not test_split.
    None instead of a dev set when there are too few queries to hold any out.
    """
    rng = random.Random(seed)
    dev_split = next((name for name in DEV_SPLITS if folder and name in splits(folder)), None)
    if folder is not None and dev_split is not None and dev_split != test_split:
        return _from_folder(folder, dev_split, len(pairs), rng), list(pairs)
    held_out, left = _hold_out(pairs, seed)
    if not held_out:
        return None, list(pairs)
    return _from_pairs(held_out, left, rng), left


def _from_folder(folder: Path, split: str, n_pairs: int, rng: random.Random) -> DevSet:
    judgments = read_judgments(folder, split)
    relevant = {
        query_id: [doc_id for doc_id, grade in grades.items() if grade > 0]
        for query_id, grades in judgments.qrels.items()
    }
    chosen = sorted(query_id for query_id, doc_ids in relevant.items() if doc_ids)
    chosen = sorted(rng.sample(chosen, min(MAX_QUERIES, len(chosen))))
    wanted = {doc_id for query_id in chosen for doc_id in relevant[query_id]}
    pool: dict[str, str] = {}
    for document in read_documents(folder):
        if document.doc_id in wanted or len(pool) < MAX_POOL:
            pool[document.doc_id] = document.full_text
    queries = {query_id: judgments.queries[query_id] for query_id in chosen}
    return DevSet(
        queries=queries,
        corpus=_hard_corpus(queries, pool, wanted & pool.keys(), n_pairs, rng),
        relevant={query_id: relevant[query_id] for query_id in chosen},
        origin=f"the {split} split, {len(queries):,} queries",
    )


def _from_pairs(held_out: Sequence[Pair], left: Sequence[Pair], rng: random.Random) -> DevSet:
    ids: dict[str, str] = {}  # by text
    for pair in (*held_out, *left):
        for text in (pair.positive, *pair.negatives):
            ids.setdefault(text, f"d{len(ids)}")
    queries: dict[str, str] = {}
    relevant: dict[str, list[str]] = defaultdict(list)
    for pair in held_out:
        if pair.score is not None and pair.score < MATCH_SCORE:
            continue
        query_id = f"q-{text_key(pair.anchor)}"
        queries[query_id] = pair.anchor
        relevant[query_id].append(ids[pair.positive])
    pool = {doc_id: text for text, doc_id in ids.items()}
    wanted = {doc_id for doc_ids in relevant.values() for doc_id in doc_ids}
    return DevSet(
        queries=queries,
        corpus=_hard_corpus(queries, pool, wanted, len(left), rng),
        relevant=dict(relevant),
        origin=f"{len(queries):,} queries held out from the pairs",
    )


def _hard_corpus(
    queries: Mapping[str, str],
    pool: Mapping[str, str],
    relevant: Iterable[str],
    n_pairs: int,
    rng: random.Random,
) -> dict[str, str]:
    """The answers, the documents that share most words with a query, and others by chance."""
    size = min(MAX_DOCUMENTS, max(MIN_DOCUMENTS, n_pairs // 2))
    chosen = dict.fromkeys(sorted(relevant))
    doc_ids = list(pool)
    found = bm25_lookalikes(list(queries.values()), list(pool.values()), LOOKALIKES)
    for rank in range(LOOKALIKES):
        for row in found:
            if len(chosen) < size and rank < len(row):
                chosen[doc_ids[row[rank]]] = None
    others = [doc_id for doc_id in doc_ids if doc_id not in chosen]
    for doc_id in rng.sample(others, max(0, min(len(others), size - len(chosen)))):
        chosen[doc_id] = None
    return {doc_id: pool[doc_id] for doc_id in chosen}


def _hold_out(pairs: Sequence[Pair], seed: int) -> tuple[list[Pair], list[Pair]]:
    """(held out, left). By whole components, so that nothing leaks; by query alone where nearly
    everything hangs together, as when one question is asked of every document."""
    anchors = sorted({text_key(pair.anchor) for pair in pairs})
    n_queries = len(anchors)
    wanted = min(max(DEV_SHARE * n_queries, ENOUGH_QUERIES), MAX_QUERIES, MAX_SHARE * n_queries)
    if wanted < MIN_QUERIES:
        return [], list(pairs)
    share = wanted / n_queries
    with contextlib.suppress(PairsInvalid):
        split = split_pairs(pairs, dev_share=share, test_share=0.0, seed=seed, by_time=False)
        if len({text_key(pair.anchor) for pair in split.dev}) >= MIN_QUERIES:
            return split.dev, split.train
    chosen = set(random.Random(seed).sample(anchors, round(wanted)))
    held_out = [pair for pair in pairs if text_key(pair.anchor) in chosen]
    return held_out, [pair for pair in pairs if text_key(pair.anchor) not in chosen]
