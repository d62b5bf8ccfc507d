"""LangChain: `ReindexerRetriever` to ask, `ReindexerVectorStore` to write too.

A LangChain document is a hit: its text is the snippet, or with `whole` the text of the document of
record; its metadata is the document's, with the title as `title` and how it was found as `found`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from search.adapters.errors import NotPossible
from search.adapters.filters import TITLE, api_filter
from search.client import AsyncSearchClient, Document, Hit, SearchClient
from search.client.calls import Filter, Mode, SearchOptions
from search.client.errors import NotFound
from training.errors import ExtraMissing

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise ExtraMissing(
        "langchain-core is not installed; run `pip install 'reindexer[langchain]'`"
    ) from error

SOURCE = "langchain"
PUT_AT_ONCE = 1_000
FOUND = "found"  # in the metadata, as the title is


class ReindexerRetriever(BaseRetriever):
    """Hybrid search as a LangChain retriever."""

    client: SearchClient
    async_client: AsyncSearchClient | None = None  # without it `ainvoke` uses a thread
    k: int = 10
    mode: Mode = "hybrid"
    filter: Filter | None = None
    whole: bool = False  # the text of the whole document, which costs one more request a hit

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002 - named by LangChain
        **instead: Any,
    ) -> list[LangChainDocument]:
        """instead: `k`, `mode` or `filter` of this call, as `invoke` was given them."""
        answer = self.client.search(query, **self._options(instead))
        found = [(hit, _text(self.client, hit, self.whole)) for hit in answer.hits]
        return [_document(hit, text, answer.generation) for hit, text in found if text is not None]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **instead: Any
    ) -> list[LangChainDocument]:
        client = self.async_client
        if client is None:
            in_thread = partial(self._get_relevant_documents, run_manager=run_manager.get_sync())
            return await asyncio.to_thread(in_thread, query, **instead)
        answer = await client.search(query, **self._options(instead))
        documents = []
        for hit in answer.hits:
            text: str | None = hit.snippet
            if self.whole:
                try:
                    text = (await client.get(hit.doc_id)).text
                except NotFound:  # deleted since the answer
                    continue
            documents.append(_document(hit, text, answer.generation))
        return documents

    def _options(self, instead: dict[str, Any]) -> SearchOptions:
        asked: dict[str, Any] = {"k": self.k, "mode": self.mode, "filter": self.filter}
        _refuse("invoke", instead.keys() - asked)
        asked |= instead
        return SearchOptions(k=asked["k"], mode=asked["mode"], filter=api_filter(asked["filter"]))


class ReindexerVectorStore(VectorStore):
    """The corpus as a LangChain vector store. The service makes the vectors, with the model version
    of its live generation; nothing is encoded here."""

    def __init__(
        self,
        client: SearchClient,
        *,
        source: str = SOURCE,
        mode: Mode = "hybrid",
        wait: bool = True,
    ) -> None:
        """source: whose documents are written here; those of another source are not replaced.
        wait: until what was written is found."""
        self._client = client
        self._source = source
        self._mode = mode
        self._wait = wait

    @property
    def embeddings(self) -> Embeddings | None:
        """None: the service has its own model."""
        return None

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **_: Any,
    ) -> list[str]:
        """The ids; new ones for texts without one. `title` in the metadata becomes the title.

        Raises NotPossible when lists differ in length, ClientError when the service refuses."""
        texts = list(texts)
        metadatas = [{} for _ in texts] if metadatas is None else metadatas
        ids = [str(uuid.uuid4()) for _ in texts] if ids is None else [str(one) for one in ids]
        if not len(texts) == len(metadatas) == len(ids):
            raise NotPossible(
                f"{len(texts)} texts, {len(metadatas)} metadatas and {len(ids)} ids; expected one "
                "of each for every text"
            )
        documents = []
        for doc_id, text, given in zip(ids, texts, metadatas, strict=True):
            metadata = {name: value for name, value in given.items() if name not in (TITLE, FOUND)}
            title = str(given.get(TITLE, ""))
            documents.append(Document(doc_id=doc_id, text=text, title=title, metadata=metadata))
        for start in range(0, len(documents), PUT_AT_ONCE):
            end = start + PUT_AT_ONCE
            is_last = end >= len(documents)
            self._client.put(documents[start:end], source=self._source, wait=self._wait and is_last)
        return ids

    def add_documents(self, documents: list[LangChainDocument], **kwargs: Any) -> list[str]:
        """As add_texts; a document that has an id keeps it."""
        ids = kwargs.pop("ids", None) or [one.id or str(uuid.uuid4()) for one in documents]
        texts = [one.page_content for one in documents]
        return self.add_texts(texts, [one.metadata for one in documents], ids=ids, **kwargs)

    def delete(self, ids: list[str] | None = None, **_: Any) -> bool | None:
        """Raises NotPossible without ids: it will not empty a corpus by omission."""
        if ids is None:
            raise NotPossible("delete() without ids would delete everything; name the ids")
        for start in range(0, len(ids), PUT_AT_ONCE):
            self._client.delete(ids[start : start + PUT_AT_ONCE], wait=self._wait)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangChainDocument]:
        """Those that there are, whole."""
        found = []
        for doc_id in ids:
            try:
                stored = self._client.get(doc_id)
            except NotFound:
                continue
            metadata = {**stored.metadata, TITLE: stored.title}
            found.append(
                LangChainDocument(id=stored.doc_id, page_content=stored.text, metadata=metadata)
            )
        return found

    def similarity_search(
        self, query: str, k: int = 4, *, filter: Filter | None = None, **others: Any
    ) -> list[LangChainDocument]:
        """filter: as the API has it, {"field": value | [any, of] | {"gte": 1}}.

        Raises NotPossible for another form, and for whatever else is asked for: an answer that has
        passed over it would be a wrong one. The same holds for every search here."""
        found = self.similarity_search_with_score(query, k, filter, **others)
        return [document for document, _ in found]

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter | None = None, **others: Any
    ) -> list[tuple[LangChainDocument, float]]:
        """Higher scores are better: fused ones for `hybrid`, a cosine for `dense`."""
        _refuse("a search", others)
        answer = self._client.search(query, k=k, mode=self._mode, filter=api_filter(filter))
        return [(_document(hit, hit.snippet, answer.generation), hit.score) for hit in answer.hits]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        """Cosines, from 0 to 1: a fused score says only which hit is better."""
        filter = api_filter(kwargs.pop("filter", None))
        kwargs.pop("score_threshold", None)  # LangChain applies it afterwards
        _refuse("a search", kwargs)
        answer = self._client.search(query, k=k, mode="dense", filter=filter)
        return [
            (_document(hit, hit.snippet, answer.generation), min(1.0, max(0.0, hit.score)))
            for hit in answer.hits
        ]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[LangChainDocument, float]]:
        return await asyncio.to_thread(
            self._similarity_search_with_relevance_scores, query, k, **kwargs
        )

    def similarity_search_by_vector(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotPossible: a vector from elsewhere is of another space."""
        raise NotPossible(
            "similarity_search_by_vector() is not possible: a query is text, and the service makes "
            "its vector; use similarity_search(query)"
        )

    def max_marginal_relevance_search(self, *_: Any, **__: Any) -> NoReturn:
        """Raises NotPossible: answers come without vectors."""
        raise NotPossible(
            "max_marginal_relevance_search() and search_type='mmr' are not possible: hits come "
            "without their vectors; use similarity_search(query)"
        )

    max_marginal_relevance_search_by_vector = max_marginal_relevance_search

    async def asimilarity_search_by_vector(self, *_: Any, **__: Any) -> NoReturn:
        self.similarity_search_by_vector()

    async def amax_marginal_relevance_search(self, *_: Any, **__: Any) -> NoReturn:
        self.max_marginal_relevance_search()

    amax_marginal_relevance_search_by_vector = amax_marginal_relevance_search

    @classmethod
    def from_texts(
        cls,
        texts: list[str],  # noqa: ARG003 - named by LangChain
        embedding: Embeddings,  # noqa: ARG003
        metadatas: list[dict[str, Any]] | None = None,  # noqa: ARG003
        *,
        ids: list[str] | None = None,  # noqa: ARG003
        **_: Any,
    ) -> NoReturn:
        """Raises NotPossible: the service encodes with its own model, so that queries and documents
        share a space, and a store cannot be made from an embedding that is given here."""
        raise NotPossible(
            "from_texts() brings an embedding, but the service encodes with the model version of "
            "its live generation; use ReindexerVectorStore(SearchClient(URL)).add_texts(texts)"
        )


def _refuse(what: str, names: Iterable[str]) -> None:
    """Raises NotPossible when there are any."""
    if names := sorted(names):
        raise NotPossible(
            f"{what} knows no {', '.join(names)}; there are k and filter, and mode when the "
            "retriever or the store is made"
        )


def _text(client: SearchClient, hit: Hit, whole: bool) -> str | None:
    if not whole:
        return hit.snippet
    try:
        return client.get(hit.doc_id).text
    except NotFound:  # deleted since the answer
        return None


def _document(hit: Hit, text: str | None, generation: str) -> LangChainDocument:
    found = {
        "rank": hit.rank,
        "score": hit.score,
        "lexical_rank": hit.lexical_rank,
        "dense_rank": hit.dense_rank,
        "generation": generation,
    }
    return LangChainDocument(
        id=hit.doc_id,
        page_content=text or "",
        metadata={**hit.metadata, TITLE: hit.title, FOUND: found},
    )
