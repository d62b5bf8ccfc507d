"""Filters in the words of each framework: they mean the same, or they are refused; none finds
nothing because it was not understood."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from search.adapters.errors import NotPossible
from search.client import SearchClient
from tests.running_service import RunningService
from tests.word_directory import WordDirectory

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when Haystack is imported

QUERY = "all of them"
N_DOCUMENTS = 12


def metadata(number: int) -> dict[str, Any]:
    return {"year": 2015 + number, "lang": "de" if number % 2 else "en", "draft": number == 3}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("filters") / "data"
    with WordDirectory(folder, run_worker=False) as directory:
        for number in range(N_DOCUMENTS):
            directory.put(f"d{number}", f"all of d{number}", metadata=metadata(number))
        directory.go_live(directory.build("word@1"))
        with RunningService(directory) as running:
            yield running


@pytest.fixture(scope="module")
def client(running: RunningService) -> Iterator[SearchClient]:
    with SearchClient(running.url) as client:
        yield client


# -- Haystack --------------------------------------------------------------------------------------


def is_(field: str, operator: str, value: object) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


def joined(operator: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"operator": operator, "conditions": list(conditions)}


@pytest.fixture(scope="module")
def haystack(running: RunningService) -> Iterator[Any]:
    from search.adapters.haystack import ReindexerRetriever

    retriever = ReindexerRetriever(running.url, top_k=N_DOCUMENTS)
    yield retriever
    retriever.close()


@pytest.mark.parametrize(
    "filters",
    [
        is_("meta.year", ">=", 2020),
        is_("meta.year", ">", 2020),
        is_("meta.year", "<=", 2020.5),
        is_("meta.year", "<", 2020),
        is_("meta.year", "==", 2020),
        is_("year", "==", 2020),
        is_("meta.lang", "==", "de"),
        is_("meta.draft", "==", True),
        is_("meta.lang", "in", ["de", "fr"]),
        joined("AND", is_("meta.year", ">=", 2018), is_("meta.year", "<", 2022)),
        joined(
            "AND",
            is_("meta.lang", "==", "en"),
            joined("AND", is_("meta.year", ">", 2018), is_("meta.year", "in", [2019, 2021, 2022])),
        ),
    ],
    ids=str,
)
def test_a_haystack_filter_finds_what_haystack_itself_would(
    haystack: Any, filters: dict[str, Any]
) -> None:
    from haystack import Document
    from haystack.utils.filters import document_matches_filter

    expected = {
        f"d{number}"
        for number in range(N_DOCUMENTS)
        if document_matches_filter(filters, Document(meta=metadata(number)))
    }
    assert 0 < len(expected) < N_DOCUMENTS
    found = haystack.run(QUERY, filters=filters)
    assert {document.id for document in found["documents"]} == expected
    assert asyncio.run(haystack.run_async(QUERY, filters=filters)) == found


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        (is_("meta.year", "!=", 2020), "there are ==, in"),
        (is_("meta.year", "not in", [2020]), "there are ==, in"),
        (is_("meta.year", ">=", "2020-01-01"), "with a number"),
        (is_("meta.year", "==", None), "with text"),
        (is_("meta.year", "==", [2020]), "with text"),
        (is_("meta.year", "in", []), "list of these"),
        (is_("meta.title", "==", "T"), "the title is none"),
        (is_("content", "==", "all of d1"), "'content' of a document is none"),
        (joined("OR", is_("meta.year", "==", 1), is_("meta.year", "==", 2)), "joined by OR"),
        (joined("NOT", is_("meta.year", "==", 1)), "joined by NOT"),
        (joined("AND", joined("OR", is_("meta.year", "==", 1))), "joined by OR"),
        (joined("AND", {"year": 2020}), "expected a field"),
        ({"field": "meta.year", "operator": "=="}, "expected a field"),
        ({"$and": "x"}, "no field of the metadata"),
    ],
    ids=str,
)
def test_a_haystack_filter_without_a_meaning_here_is_refused(
    haystack: Any, filters: dict[str, Any], told: str
) -> None:
    with pytest.raises(NotPossible, match=told):
        haystack.run(QUERY, filters=filters)


def test_a_haystack_pipeline_in_an_event_loop_awaits_the_retriever(running: RunningService) -> None:
    from haystack import Pipeline

    from search.adapters.haystack import ReindexerRetriever

    pipeline = Pipeline()
    retriever = ReindexerRetriever(running.url, filters=is_("meta.year", "==", 2016))
    pipeline.add_component("retriever", retriever)
    found = asyncio.run(pipeline.run_async({"retriever": {"query": QUERY}}))
    assert [document.id for document in found["retriever"]["documents"]] == ["d1"]
    retriever.close()


# -- LlamaIndex ------------------------------------------------------------------------------------


def test_llama_index_filters_find_what_they_mean(client: SearchClient) -> None:
    from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters

    from search.adapters.llama_index import ReindexerRetriever

    def found(filter: Any) -> set[str]:
        nodes = ReindexerRetriever(client, k=N_DOCUMENTS, filter=filter).retrieve(QUERY)
        return {node.node.node_id for node in nodes}

    def of(*filters: Any) -> MetadataFilters:
        return MetadataFilters(filters=list(filters))

    late = MetadataFilter(key="year", operator=FilterOperator.GTE, value=2022)
    english = MetadataFilter(key="lang", value="en")
    some = MetadataFilter(key="year", operator=FilterOperator.IN, value=[2022, 2023])
    assert found(of(late)) == {f"d{number}" for number in range(7, N_DOCUMENTS)}
    assert found(of(late, of(english))) == {"d8", "d10"}
    assert found(of(english, some)) == {"d8"}
    assert found({"year": {"gte": 2025}}) == {"d10", "d11"}


def test_llama_index_filters_without_a_meaning_here_are_refused(client: SearchClient) -> None:
    from llama_index.core.vector_stores import (
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
    )

    from search.adapters.llama_index import ReindexerRetriever

    is_possible = {"==", "in", ">", ">=", "<", "<="}
    for operator in FilterOperator:
        if operator.value not in is_possible:
            one = MetadataFilter(key="lang", operator=operator, value=["en"])
            with pytest.raises(NotPossible, match="there are ==, in"):
                ReindexerRetriever(client, filter=MetadataFilters(filters=[one]))
    for condition in (FilterCondition.OR, FilterCondition.NOT):
        either = MetadataFilters(
            filters=[MetadataFilter(key="lang", value="en")], condition=condition
        )
        for filter in (either, MetadataFilters(filters=[either])):
            with pytest.raises(NotPossible, match="all conditions must hold"):
                ReindexerRetriever(client, filter=filter)
    with pytest.raises(NotPossible, match="expected"):
        ReindexerRetriever(client, filter={"key": "lang", "operator": "==", "value": "en"})


# -- LangChain -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter",
    [
        lambda document: document.metadata["year"] > 2020,
        "year >= 2020",
        [("year", 2020)],
        is_("year", ">=", 2020),
        joined("AND", is_("year", ">=", 2020)),
        {"$or": "x"},
        {"title": "T"},
    ],
    ids=lambda value: "function" if callable(value) else str(value),
)
def test_a_langchain_filter_of_another_store_is_refused(client: SearchClient, filter: Any) -> None:
    from search.adapters.langchain import ReindexerRetriever, ReindexerVectorStore

    store = ReindexerVectorStore(client)
    for search in (
        store.similarity_search,
        store.similarity_search_with_score,
        store.similarity_search_with_relevance_scores,
        store.as_retriever().invoke,
        ReindexerRetriever(client=client).invoke,
    ):
        with pytest.raises(NotPossible, match=r"the filter is|no field|the title"):
            search(QUERY, filter=filter)


def test_a_langchain_filter_with_the_operators_of_another_store_is_an_error(
    client: SearchClient,
) -> None:
    from search.adapters.langchain import ReindexerVectorStore
    from search.client.errors import ClientError

    store = ReindexerVectorStore(client)
    for filter in ({"year": {"$gte": 2020}}, {"year": {"gte": "2020"}}, {"must": [{"key": "x"}]}):
        with pytest.raises(ClientError, match="filter on"):
            store.similarity_search(QUERY, filter=filter)
    found = store.similarity_search(QUERY, filter=[{"year": {"gte": 2020}}, {"year": [2021, 2022]}])
    assert {document.id for document in found} == {"d6", "d7"}
