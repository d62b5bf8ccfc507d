"""The demo's own training set: what a docstring's first paragraph says, its rest explains.

That makes a domain of its own (the language of reference manuals), with queries and judgments that
nobody had to write, on text that every machine has.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from search.documents import Document
from training.pairs import Pair
from training.split import split_pairs
from training.split_files import write_split

SUMMARY_CHARACTERS = range(20, 201)
BODY_CHARACTERS = range(120, 401)  # longer ones are cut: training on two cores must end
TEST_SHARE = 0.25
MAX_PAIRS = 700


def docstring_pairs(documents: Iterable[Document]) -> Iterator[Pair]:
    """One pair a docstring that has a first paragraph and enough behind it."""
    for document in documents:
        summary, _, body = document.text.partition("\n\n")
        summary, body = " ".join(summary.split()), " ".join(body.split())
        if len(summary) in SUMMARY_CHARACTERS and len(body) >= BODY_CHARACTERS.start:
            yield Pair(
                anchor=summary,
                positive=f"{document.title} {body[: BODY_CHARACTERS.stop - 1]}",
                doc_id=document.doc_id,
                group=str(document.metadata["module"]),  # its docstrings resemble each other
            )


def write_training_set(documents: Iterable[Document], folder: Path) -> Path:
    """Write pairs, and an evaluation folder whose queries are of other modules than those trained
    on. Returns the file of the pairs."""
    pairs = list(itertools.islice(docstring_pairs(documents), MAX_PAIRS))
    write_split(split_pairs(pairs, dev_share=0.0, test_share=TEST_SHARE, seed=0), folder)
    return folder / "train.jsonl"
