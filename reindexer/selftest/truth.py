"""What must be stored, kept in memory by whoever writes, and compared with everything that is."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np

from reindexer.data_directory import DataDirectory
from reindexer.opening import sync_lexical
from reindexer.selftest.digest import VECTOR_TOLERANCE, lexical_files, said_of
from search.corpus import Corpus
from search.dense import Point
from search.documents import Change, Condition, Document
from search.generations import Generation
from search.lexical import LexicalIndex
from search.splitter import Splitter

N_LOCKS = 64
SEARCHED = 50  # documents that the lexical index is asked for
_SEED = 7


class Truth:
    """Every document as it was last written. Two who write the same one take turns, so that it is
    known who came last; otherwise writers do not wait for each other."""

    def __init__(self) -> None:
        self.documents: dict[str, Document] = {}
        self.deleted: dict[str, Document] = {}  # as they were, but for those that are back
        self.history: dict[str, list[str]] = defaultdict(list)  # what was done to each, in order
        self._locks = [threading.Lock() for _ in range(N_LOCKS)]

    def lock(self, doc_id: str) -> threading.Lock:
        return self._locks[hash(doc_id) % N_LOCKS]

    def put(self, corpus: Corpus, document: Document, what: str) -> None:
        """Call it under the document's lock."""
        corpus.put([document])
        self.documents[document.doc_id] = document
        self.deleted.pop(document.doc_id, None)
        self.history[document.doc_id].append(what)

    def delete(self, corpus: Corpus, doc_id: str, what: str) -> None:
        """Call it under the document's lock."""
        corpus.delete([doc_id])
        if (known := self.documents.pop(doc_id, None)) is not None:
            self.deleted[doc_id] = known
        self.history[doc_id].append(what)

    def faults(self, data: DataDirectory, *, in_step: bool = False) -> list[str]:
        """Everything in corpus, live, standby and lexical index that is not as it should be, both
        ways. Nobody may write, and nobody may have the collections open.

        in_step: whoever replayed said that all was visible, and has saved it. Then a lexical index
        that is behind is a fault; after a kill the next process brings it to the head.
        """
        changes, faults = self._compare_corpus(data.corpus)
        kept = data.catalog.all({"live", "standby"})
        for generation in kept:
            faults += self._compare_dense(data, generation, changes)
        for analyzer in lexical_files(kept):
            with closing(data.open_lexical(analyzer, writable=False)) as index:
                if in_step and (behind := data.corpus.lag(index.watermark)):
                    faults.append(f"lexical index {analyzer.id}: {behind} changes behind")
                sync_lexical(data.corpus, index)
                faults += self._compare_lexical(f"lexical index {analyzer.id}", index, changes)
        return faults

    def _compare_corpus(self, corpus: Corpus) -> tuple[dict[str, Change], list[str]]:
        changes = {
            row.doc_id: change
            for row in corpus.identities()
            if not row.deleted and (change := corpus.get_many([row.doc_id]).get(row.doc_id))
        }
        found = {doc_id: change.document for doc_id, change in changes.items()}
        return changes, self._differences("corpus", found, self.documents)

    def _compare_dense(
        self, data: DataDirectory, generation: Generation, changes: Mapping[str, Change]
    ) -> list[str]:
        encoder = data.encoder(generation)
        splitter = Splitter(generation.recipe.splitter, encoder)
        expected: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for doc_id, document in self.documents.items():
            change = changes.get(doc_id)
            if change is None:
                continue  # said of the corpus
            for passage in splitter.split(document):
                key = f"{doc_id}#{passage.number}"
                expected[key] = said_of(
                    Point(
                        doc_id=doc_id,
                        number=passage.number,
                        count=passage.count,
                        seq=change.seq,
                        content_hash=change.content_hash,
                        text_hash=passage.text_hash,
                        start=passage.start,
                        end=passage.end,
                        metadata=document.metadata,
                    )
                )
                texts[key] = passage.text
        found: dict[str, Any] = {}
        vectors: dict[str, Any] = {}
        collection = data.store.open(generation.collection, generation.recipe.fingerprint)
        try:
            for points, rows in collection.scan():
                for point, row in zip(points, rows, strict=True):
                    key = f"{point.doc_id}#{point.number}"
                    found[key] = said_of(point)
                    vectors[key] = row
        finally:
            collection.close()
        faults = self._differences(f"{generation.state} {generation.name}", found, expected)
        both = sorted(found.keys() & texts.keys())
        if both:
            again = encoder.encode_documents([texts[key] for key in both])
            off = np.abs(np.stack([vectors[key] for key in both]) - again).max(axis=1)
            faults += [
                self._told(f"{generation.state} {generation.name}: the vector of {key} is not its "
                           "text's", key)
                for key, far in zip(both, off, strict=True)
                if not far <= VECTOR_TOLERANCE
            ]  # fmt: skip
        return faults

    def _compare_lexical(
        self, where: str, index: LexicalIndex, changes: Mapping[str, Change]
    ) -> list[str]:
        found = {doc_id: (seq, content_hash) for doc_id, seq, content_hash in index.scan()}
        expected = {
            doc_id: (change.seq, change.content_hash)
            for doc_id, change in changes.items()
            if doc_id in self.documents
        }
        faults = self._differences(where, found, expected)
        asked = random.Random(_SEED).sample(
            sorted(self.documents), min(SEARCHED, len(self.documents))
        )
        for doc_id in asked:
            document = self.documents[doc_id]
            fields = tuple(
                Condition(field=name, any_of=value if isinstance(value, tuple) else (value,))
                for name, value in document.metadata.items()
            )
            hits = index.search(document.full_text, 3, fields)
            if doc_id not in {hit.doc_id for hit in hits}:
                faults.append(
                    self._told(f"{where}: {doc_id} is not found by its text and metadata", doc_id)
                )
        return faults

    def _differences(
        self, where: str, found: Mapping[str, Any], expected: Mapping[str, Any]
    ) -> list[str]:
        faults = []
        for key in sorted(found.keys() | expected.keys()):
            if key not in found:
                faults.append(self._told(f"{where}: {key} is missing", key))
            elif key not in expected:
                faults.append(self._told(f"{where}: {key} should not be there", key))
            elif found[key] != expected[key]:
                faults.append(self._told(f"{where}: {key} is stale or wrong", key))
        return faults

    def _told(self, fault: str, key: str) -> str:
        """With everything that was done to the document: the script that repeats it."""
        history = self.history.get(key.partition("#")[0], [])
        return f"{fault}; its history: {', '.join(history) or 'none'}"
