"""LlamaIndex: `ReindexerRetriever`, whose nodes are hits."""

from __future__ import annotations

from typing import Any

from search.adapters.filters import api_filter, comparison, only_and
from search.client import Answer, AsyncSearchClient, SearchClient
from search.client.calls import Filter, Mode, SearchOptions
from training.errors import ExtraMissing

try:
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores import MetadataFilters
except ImportError as error:
    raise ExtraMissing(
        "llama-index-core is not installed; run `pip install 'reindexer[llama-index]'`"
    ) from error


class ReindexerRetriever(BaseRetriever):
    """Hybrid search as a LlamaIndex retriever. The text of a node is the hit's snippet."""

    def __init__(
        self,
        client: SearchClient,
        *,
        async_client: AsyncSearchClient | None = None,
        k: int = 10,
        mode: Mode = "hybrid",
        filter: Filter | MetadataFilters | None = None,
        **options: Any,
    ) -> None:
        """filter: LlamaIndex's, joined by AND alone, or as the API has it. options: of LlamaIndex's
        BaseRetriever. Raises NotPossible for a filter that means what the API cannot ask for."""
        self._client = client
        self._async_client = async_client
        self._options: SearchOptions = {"k": k, "mode": mode, "filter": _filter(filter)}
        super().__init__(**options)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return _nodes(self._client.search(query_bundle.query_str, **self._options))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if self._async_client is None:
            return await super()._aretrieve(query_bundle)
        return _nodes(await self._async_client.search(query_bundle.query_str, **self._options))


def _filter(filter: object) -> list[dict[str, Any]] | None:
    return _parts(filter) if isinstance(filter, MetadataFilters) else api_filter(filter)


def _parts(filters: MetadataFilters) -> list[dict[str, Any]]:
    """Each comparison by itself."""
    only_and(filters.condition.value if filters.condition is not None else "AND")
    parts = []
    for one in filters.filters:
        if isinstance(one, MetadataFilters):
            parts += _parts(one)
        else:
            parts.append(comparison(one.key, one.operator.value, one.value))
    return parts


def _nodes(answer: Answer) -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(
                id_=hit.doc_id,
                text=hit.snippet,
                metadata={**hit.metadata, "title": hit.title, "generation": answer.generation},
                excluded_llm_metadata_keys=["generation"],
                excluded_embed_metadata_keys=["generation"],
            ),
            score=hit.score,
        )
        for hit in answer.hits
    ]
