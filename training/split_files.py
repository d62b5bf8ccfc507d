"""A split on disk: the pairs of each part, and a BEIR folder of dev and test to evaluate on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import orjson

from training.judgments import JudgedDocument
from training.pair_columns import MATCH_SCORE
from training.pairs import Pair, text_digest, write_pairs
from training.split import PairSplit
from training.whole_file import whole_file, write_whole


def write_split(
    split: PairSplit,
    folder: Path,
    *,
    documents: Iterable[JudgedDocument] | None = None,
) -> int:
    """Write train.jsonl, dev.jsonl, test.jsonl, corpus.jsonl, queries.jsonl and qrels/dev.tsv,
    qrels/test.tsv; return the number of documents in the corpus.

    The corpus holds every positive and negative of every part, so that a test query has to find its
    document among all that were trained on; with `documents` those, and what of the pairs is not in
    them. Equal texts are one document. A pair scored under 0.5 is judged 0.
    """
    parts = {"train": split.train, "dev": split.dev, "test": split.test}
    for name, pairs in parts.items():
        write_pairs(folder / f"{name}.jsonl", pairs)
    corpus = _Corpus(documents or ())
    for pairs in (*parts.values(), split.dropped):
        for pair in pairs:
            corpus.add(pair)
    _write_lines(
        folder / "corpus.jsonl",
        (
            {"_id": document.doc_id, "title": document.title, "text": document.text}
            for document in corpus
        ),
    )
    queries = _Ids("q")
    for name in ("dev", "test"):
        _write_qrels(folder / "qrels" / f"{name}.tsv", parts[name], queries, corpus)
    _write_lines(
        folder / "queries.jsonl",
        ({"_id": query_id, "text": text} for query_id, text in queries.texts.items()),
    )
    return len(corpus)


def _write_qrels(path: Path, pairs: Sequence[Pair], queries: _Ids, corpus: _Corpus) -> None:
    path.unlink(missing_ok=True)
    grades: dict[str, dict[str, int]] = {}
    for pair in pairs:
        grade = int(pair.score is None or pair.score >= MATCH_SCORE)
        own = grades.setdefault(queries.of(pair.query_id, pair.anchor), {})
        doc_id = corpus.id_of(pair.positive)
        own[doc_id] = max(grade, own.get(doc_id, 0))
    judged = {query_id: own for query_id, own in grades.items() if any(own.values())}
    if not judged:
        return
    path.parent.mkdir(exist_ok=True)
    rows = (
        f"{query_id}\t{doc_id}\t{grade}\n"
        for query_id, own in judged.items()
        for doc_id, grade in own.items()
    )
    write_whole(path, "query-id\tcorpus-id\tscore\n" + "".join(rows))


class _Ids:
    """An id for every text: the one it comes with unless another text has that, or a new one."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._by_digest: dict[bytes, str] = {}
        self.texts: dict[str, str] = {}  # by id

    def of(self, wanted: str | None, text: str) -> str:
        digest = text_digest(text)
        found = self._by_digest.get(digest)
        if found is None:
            # A tab or a line end would break the qrels.
            found = " ".join((wanted or "").split())
            if not found or found in self.texts:
                found = f"{self._prefix}-{digest.hex()[:16]}"
            self._by_digest[digest] = found
            self.texts[found] = text
        return found

    def name(self, known: str, text: str) -> None:
        """Let a text that is new go by an id that is there already."""
        self._by_digest.setdefault(text_digest(text), known)


class _Corpus:
    """Documents by id: the given ones whole, and what pairs have beside them."""

    def __init__(self, documents: Iterable[JudgedDocument]) -> None:
        self._ids = _Ids("d")
        self._given: dict[str, JudgedDocument] = {}
        for document in documents:
            if document.full_text.strip():
                self._given.setdefault(self._ids.of(document.doc_id, document.full_text), document)

    def add(self, pair: Pair) -> None:
        if pair.doc_id in self._given:  # the pair may hold a passage of it
            self._ids.name(pair.doc_id, pair.positive)
        else:
            self._ids.of(pair.doc_id, pair.positive)
        for negative in pair.negatives:
            self._ids.of(None, negative)

    def id_of(self, text: str) -> str:
        return self._ids.of(None, text)

    def __len__(self) -> int:
        return len(self._ids.texts)

    def __iter__(self) -> Iterator[JudgedDocument]:
        for doc_id, text in self._ids.texts.items():
            given = self._given.get(doc_id)
            yield (
                JudgedDocument(doc_id, given.title, given.text)
                if given
                else JudgedDocument(doc_id, "", text)
            )


def _write_lines(path: Path, rows: Iterable[dict[str, str]]) -> None:
    with whole_file(path) as file:
        for row in rows:
            file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
