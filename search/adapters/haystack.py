"""Haystack: `ReindexerRetriever`, a component whose documents are hits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from search.adapters.errors import NotPossible
from search.adapters.filters import api_filter, comparison, is_api_form, only_and
from search.client import SearchClient
from search.client.calls import Mode
from training.errors import ExtraMissing

try:
    from haystack import Document, component, default_from_dict, default_to_dict
    from haystack.utils import Secret
except ImportError as error:
    raise ExtraMissing(
        "haystack-ai is not installed; run `pip install 'reindexer[haystack]'`"
    ) from error

_NO_METADATA = {field.name for field in fields(Document)}


@component
class ReindexerRetriever:
    """Hybrid search as a Haystack component. The content of a document is the hit's snippet.

    A pipeline that holds it can be written to YAML: the key stays in the environment.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: Secret | None = None,
        top_k: int = 10,
        mode: Mode = "hybrid",
        filters: dict[str, Any] | None = None,
    ) -> None:
        """api_key: `Secret.from_env_var("REINDEXER_KEY")`, say. filters: comparisons of Haystack,
        joined by AND alone, or as the API has them: {"field": value | [any, of] | {"gte": 1}}.
        """
        self.url = url
        self.api_key = api_key
        self.top_k = top_k
        self.mode = mode
        self.filters = filters
        key = api_key.resolve_value() if api_key is not None else None
        self._client = SearchClient(url, api_key=None if key is None else str(key))

    def to_dict(self) -> dict[str, Any]:
        told: dict[str, Any] = default_to_dict(
            self,
            url=self.url,
            api_key=self.api_key.to_dict() if self.api_key is not None else None,
            top_k=self.top_k,
            mode=self.mode,
            filters=self.filters,
        )
        return told

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ReindexerRetriever:
        options = dict(data["init_parameters"])
        if options.get("api_key") is not None:
            options["api_key"] = Secret.from_dict(options["api_key"])
        made = default_from_dict(cls, {**data, "init_parameters": options})
        assert isinstance(made, cls)
        return made

    @component.output_types(documents=list[Document], generation=str)
    def run(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """filters: instead of those of the component.

        Raises NotPossible for filters that mean what the API cannot ask for."""
        answer = self._client.search(
            query,
            k=self.top_k if top_k is None else top_k,
            mode=self.mode,
            filter=_filter(self.filters if filters is None else filters),
        )
        documents = [
            Document(
                id=hit.doc_id,
                content=hit.snippet,
                meta={**hit.metadata, "title": hit.title},
                score=hit.score,
            )
            for hit in answer.hits
        ]
        return {"documents": documents, "generation": answer.generation}

    @component.output_types(documents=list[Document], generation=str)
    async def run_async(
        self, query: str, top_k: int | None = None, filters: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """As run, in a thread: a component outlives event loops, and connections do not."""
        return await asyncio.to_thread(self.run, query, top_k, filters)

    def close(self) -> None:
        self._client.close()


def _filter(filters: Mapping[str, Any] | None) -> list[dict[str, Any]] | None:
    return api_filter(filters) if not filters or is_api_form(filters) else _parts(filters)


def _parts(filters: Any) -> list[dict[str, Any]]:
    """Each comparison by itself."""
    match filters:
        case {"operator": str(operator), "conditions": [*conditions]}:
            only_and(operator)
            return [part for condition in conditions for part in _parts(condition)]
        case {"field": str(field), "operator": str(operator), "value": value}:
            if field in _NO_METADATA:
                raise NotPossible(f"filters are on metadata, and {field!r} of a document is none")
            return [comparison(field.removeprefix("meta."), operator, value)]
    raise NotPossible(
        f"the filter is {filters!r}; expected a field, an operator and a value, or an operator and "
        "conditions"
    )
