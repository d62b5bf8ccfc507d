"""Texts of documents by id, from a file or from the corpus, as a model is given them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reindexer.errors import SourceInvalid
from reindexer.sources import Row, open_source
from search.corpus import Corpus
from search.documents import Document
from training.clicks import TextsOf
from training.judgments import JudgedDocument

_PAGE = 1_000  # changes read at a time


def documents_in(ref: str) -> Iterator[JudgedDocument]:
    """The documents of anything that ingest reads. Raises SourceInvalid, at the first bad row."""
    for row in open_source(ref):
        if not isinstance(row, Row):
            raise SourceInvalid(f"{row.where}: {row.reason}; repair it, or leave it out of {ref}")
        yield _judged(row.document)


def documents_of_corpus(corpus: Corpus) -> Iterator[JudgedDocument]:
    """The present documents of what was ingested, in the order of their last change."""
    after = 0
    while changes := corpus.changes(after, _PAGE):
        for change in changes:
            if change.document is not None:
                yield _judged(change.document)
        after = changes[-1].seq


def texts_in(ref: str) -> TextsOf:
    """As documents_in, all of them held in memory."""
    texts = {document.doc_id: document.full_text for document in documents_in(ref)}
    return lambda doc_ids: {doc_id: texts[doc_id] for doc_id in doc_ids if doc_id in texts}


def texts_of_corpus(corpus: Corpus) -> TextsOf:
    """The present texts of what was ingested; deleted documents have none."""

    def texts(doc_ids: Sequence[str]) -> Mapping[str, str]:
        return {
            doc_id: _judged(change.document).full_text
            for doc_id, change in corpus.get_many(doc_ids).items()
            if change.document is not None
        }

    return texts


def _judged(document: Document) -> JudgedDocument:
    return JudgedDocument(document.doc_id, document.title, document.text)
