"""A small world to train in: documents of random words, and queries in another vocabulary.

Each word of a query stands for another word of its document, so a model that knows only its own
words finds nothing and one that has learned the pairs finds what it has learned.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.tiny_models import WORD_LIST

WORDS = WORD_LIST.split()
MEANING = dict(zip(WORDS, WORDS[7:] + WORDS[:7], strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedWorld:
    """Pairs to train on, and a BEIR folder of other queries over the same documents."""

    pairs: Path
    judged: Path


def make_judged_world(
    folder: Path, *, documents: int = 300, tested: int = 60, words: int = 120, seed: int = 0
) -> JudgedWorld:
    """documents: one pair each, but for the last `tested`, which only the evaluation asks about.
    words: how many different ones there are."""
    draw = random.Random(seed)
    vocabulary = WORDS[:words]
    texts = [draw.sample(vocabulary, 6) for _ in range(documents)]
    queries = [" ".join(MEANING[word] for word in draw.sample(text, 4)) for text in texts]
    judged = folder / "judged"
    (judged / "qrels").mkdir(parents=True)
    _write(
        judged / "corpus.jsonl",
        [{"_id": f"d{at}", "title": "", "text": " ".join(text)} for at, text in enumerate(texts)],
    )
    _write(
        judged / "queries.jsonl",
        [{"_id": f"q{at}", "text": text} for at, text in enumerate(queries)],
    )
    first_tested = documents - tested
    lines = [f"q{at}\td{at}\t1" for at in range(first_tested, documents)]
    (judged / "qrels" / "test.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
    )
    pairs = folder / "pairs.jsonl"
    _write(
        pairs,
        [
            {
                "anchor": queries[at],
                "positive": " ".join(texts[at]),
                "query_id": f"q{at}",
                "doc_id": f"d{at}",
            }
            for at in range(first_tested)
        ],
    )
    return JudgedWorld(pairs=pairs, judged=judged)


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
