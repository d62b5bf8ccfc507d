"""Documents that are made on the fly: the same for the same numbers, on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

from search.documents import Document

N_WORDS = 12  # of a text
_VOCABULARY = 3_000


def text_of(number: int, version: int = 0) -> str:
    """Twelve words, others for each document and version."""
    rng = random.Random(number * 1_000_003 + version)
    return " ".join(f"w{rng.randrange(_VOCABULARY)}" for _ in range(N_WORDS))


def document(number: int, version: int = 0, group: int = 0) -> Document:
    return Document.of(
        doc_id=f"d{number}",
        text=text_of(number, version),
        title=f"number {number}",
        metadata={"number": number, "group": f"g{group}"},
    )


def documents(numbers: Iterable[int], version: int = 0) -> Iterator[Document]:
    return (document(number, version) for number in numbers)
