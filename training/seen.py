"""Which relevant documents a model was trained on, so that they can be scored apart.

A model may know a document by heart and fail on the next one. Documents that are both trained on
and judged are allowed and counted; the figure that speaks for new documents is that of *unseen*.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from training.judgments import JudgedDocument, Judgments, find_documents
from training.pairs import Pair


@dataclass(frozen=True, slots=True)
class TrainedDocuments:
    """The documents that training pairs hold as positives, by id and by text."""

    doc_ids: frozenset[str]
    text_hashes: frozenset[bytes]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> TrainedDocuments:
        doc_ids, hashes = set(), set()
        for pair in pairs:
            hashes.add(text_hash(pair.positive))
            if pair.doc_id is not None:
                doc_ids.add(pair.doc_id)
        return cls(frozenset(doc_ids), frozenset(hashes))

    def __contains__(self, document: JudgedDocument) -> bool:
        return (
            document.doc_id in self.doc_ids
            or text_hash(document.full_text) in self.text_hashes
            or text_hash(document.text) in self.text_hashes
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenSplit:
    """The judged queries by whether their relevant documents were trained on."""

    unseen: tuple[str, ...]  # query ids: none of the relevant documents
    mixed: tuple[str, ...]  # some of them
    seen: tuple[str, ...]  # all of them
    n_documents: int  # that are relevant to any query
    n_seen_documents: int

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Query ids by the name of the group."""
        return {"unseen": self.unseen, "mixed": self.mixed, "seen": self.seen}


def split_by_seen(folder: Path, judgments: Judgments, trained: TrainedDocuments) -> SeenSplit:
    """Sort the judged queries of a BEIR folder. Reads its corpus once; queries for which nothing is
    relevant are in no group. Raises JudgmentsInvalid."""
    relevant = {query_id: judgments.relevant(query_id) for query_id in judgments.qrels}
    every = {doc_id for doc_ids in relevant.values() for doc_id in doc_ids}
    seen = {item.doc_id for item in find_documents(folder, every) if item in trained}
    groups: dict[str, list[str]] = {"unseen": [], "mixed": [], "seen": []}
    for query_id, doc_ids in relevant.items():
        if doc_ids:
            n_seen = sum(doc_id in seen for doc_id in doc_ids)
            name = "unseen" if not n_seen else "seen" if n_seen == len(doc_ids) else "mixed"
            groups[name].append(query_id)
    return SeenSplit(
        unseen=tuple(groups["unseen"]),
        mixed=tuple(groups["mixed"]),
        seen=tuple(groups["seen"]),
        n_documents=len(every),
        n_seen_documents=len(seen),
    )


def text_hash(text: str) -> bytes:
    """128 bits of a text; capitals, white space and the form of its characters do not count."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()
