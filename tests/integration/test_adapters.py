"""The adapters in the real frameworks, against a real service."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reindexer.cli import SECTIONS
from search.client import AsyncSearchClient, Document, SearchClient
from tests.running_service import RunningService
from tests.word_directory import WordDirectory

WAIT_S = 30.0
ROOT = Path(__file__).parents[2]
LIVE = "docs@1"
Q = "T7 all of d7"  # the words of one document

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when Haystack is imported


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """LIVE answers from a few documents."""
    with WordDirectory(tmp_path_factory.mktemp("adapters") / "data", run_worker=False) as directory:
        for number in range(20):
            directory.put(
                f"d{number}", f"all of d{number}", title=f"T{number}", metadata={"year": number}
            )
        directory.go_live(directory.build("word@1"))
        with RunningService(directory) as running:
            yield running


@pytest.fixture(scope="module")
def client(running: RunningService) -> Iterator[SearchClient]:
    with SearchClient(running.url) as client:
        yield client


# -- LangChain -------------------------------------------------------------------------------------


def test_langchain_retrieves(client: SearchClient) -> None:
    from search.adapters.langchain import ReindexerRetriever

    retriever = ReindexerRetriever(client=client, k=3, mode="dense", filter={"year": {"gte": 5}})
    found = retriever.invoke(Q)

    assert len(found) == 3
    assert (found[0].id, found[0].page_content) == ("d7", "all of d7")
    assert found[0].metadata["title"] == "T7"
    assert found[0].metadata["year"] == 7
    assert found[0].metadata["found"]["generation"] == LIVE
    assert all(one.metadata["year"] >= 5 for one in found)


def test_langchain_retrieves_whole_documents_in_an_event_loop(
    client: SearchClient, running: RunningService
) -> None:
    from search.adapters.langchain import ReindexerRetriever

    text = "zanzibar " * 200
    client.put([Document(doc_id="long", text=text)], wait=True)

    async def work() -> list[Any]:
        async with AsyncSearchClient(running.url) as other:
            retriever = ReindexerRetriever(client=client, async_client=other, k=1, whole=True)
            return await retriever.ainvoke("zanzibar")

    (found,) = asyncio.run(work())
    assert found.page_content == text
    whole = ReindexerRetriever(client=client, k=1, whole=True).invoke("zanzibar")
    assert whole[0].page_content == text
    in_thread = asyncio.run(ReindexerRetriever(client=client, k=1).ainvoke("zanzibar"))
    assert len(in_thread[0].page_content) < len(text)
    client.delete(["long"], wait=True)


def test_langchain_writes_what_it_finds_again(client: SearchClient) -> None:
    from langchain_core.documents import Document as LangChainDocument

    from search.adapters.langchain import ReindexerVectorStore

    store = ReindexerVectorStore(client)
    (first,) = store.add_texts(["xylophone music"], [{"title": "Xylophones", "year": 1800}])
    ids = store.add_documents([LangChainDocument("ukulele music", id="u1"), LangChainDocument("x")])

    (found, score), *_ = store.similarity_search_with_score("xylophone", k=2)
    assert found.id == first
    assert found.metadata["title"] == "Xylophones"
    assert score > 0
    assert store.similarity_search("music", k=4, filter={"year": 1800})[0].id == first
    assert ids[0] == "u1"
    assert [one.page_content for one in store.get_by_ids(["u1", "nobody"])] == ["ukulele music"]
    ((_, relevance), *_) = store.similarity_search_with_relevance_scores(
        "Xylophones xylophone music", k=1
    )
    assert 0.9 < relevance <= 1.0
    assert store.as_retriever(search_kwargs={"k": 1}).invoke("ukulele")[0].id == "u1"
    assert store.delete([first, *ids])
    assert store.get_by_ids([first, *ids]) == []


def test_langchain_is_told_what_is_not_possible(client: SearchClient) -> None:
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from search.adapters.errors import NotPossible
    from search.adapters.langchain import ReindexerVectorStore

    store = ReindexerVectorStore(client)
    with pytest.raises(NotPossible, match="add_texts"):
        ReindexerVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=4))
    with pytest.raises(NotPossible, match="would delete everything"):
        store.delete()
    with pytest.raises(NotPossible, match="2 texts, 1 metadatas"):
        store.add_texts(["a", "b"], [{}])


def test_langchain_passes_on_what_invoke_is_given(
    client: SearchClient, running: RunningService
) -> None:
    """What the retriever suite of `langchain-tests` asks for, and the event loop as well."""
    from search.adapters.errors import NotPossible
    from search.adapters.langchain import ReindexerRetriever

    retriever = ReindexerRetriever(client=client, k=2)
    assert [len(retriever.invoke(Q, None, k=k)) for k in (1, 3)] == [1, 3]
    assert len(retriever.invoke(Q)) == 2
    (third,) = retriever.invoke(Q, filter={"year": 3}, mode="dense")
    assert third.id == "d3"
    with pytest.raises(NotPossible, match="knows no top_k"):
        retriever.invoke(Q, top_k=1)

    async def work() -> list[int]:
        async with AsyncSearchClient(running.url) as other:
            both = retriever, ReindexerRetriever(client=client, async_client=other, k=2)
            return [len(await one.ainvoke(Q, None, **k)) for one in both for k in ({}, {"k": 1})]

    assert asyncio.run(work()) == [2, 1, 2, 1]


def test_langchain_stores_in_an_event_loop_what_it_finds_again(client: SearchClient) -> None:
    from langchain_core.documents import Document as LangChainDocument

    from search.adapters.langchain import ReindexerVectorStore

    store = ReindexerVectorStore(client)

    async def work() -> None:
        ids = await store.aadd_texts(["theremin music"], [{"year": 1920}], ids=["t1"])
        ids += await store.aadd_documents([LangChainDocument("banjo music", id="b1")])
        assert ids == ["t1", "b1"]
        assert [one.id for one in await store.aget_by_ids(ids)] == ids
        assert (await store.asimilarity_search("theremin", k=1))[0].id == "t1"
        ((found, _),) = await store.asimilarity_search_with_score("banjo", k=1)
        assert found.id == "b1"
        ((_, cosine),) = await store.asimilarity_search_with_relevance_scores("banjo music", k=1)
        assert 0.9 < cosine <= 1.0
        assert (await store.asearch("theremin", "similarity", k=1))[0].id == "t1"
        assert (await store.as_retriever().ainvoke("theremin"))[0].id == "t1"
        assert await store.adelete(ids)
        assert await store.aget_by_ids(ids) == []

    asyncio.run(work())


def test_langchain_methods_that_are_not_possible_say_so(client: SearchClient) -> None:
    from langchain_core.documents import Document as LangChainDocument
    from langchain_core.embeddings import DeterministicFakeEmbedding

    from search.adapters.errors import NotPossible
    from search.adapters.langchain import ReindexerVectorStore

    store, embedding = ReindexerVectorStore(client), DeterministicFakeEmbedding(size=4)
    for call in (
        lambda: store.max_marginal_relevance_search("a", k=2),
        lambda: store.max_marginal_relevance_search_by_vector([0.1]),
        lambda: store.similarity_search_by_vector([0.1], k=2),
        lambda: store.search("a", "mmr"),
        lambda: store.as_retriever(search_type="mmr").invoke("a"),
        lambda: store.from_documents([LangChainDocument("a")], embedding),
        lambda: asyncio.run(store.amax_marginal_relevance_search("a")),
        lambda: asyncio.run(store.amax_marginal_relevance_search_by_vector([0.1])),
        lambda: asyncio.run(store.asimilarity_search_by_vector([0.1])),
        lambda: asyncio.run(store.afrom_texts(["a"], embedding)),
        lambda: asyncio.run(store.afrom_documents([LangChainDocument("a")], embedding)),
        lambda: asyncio.run(store.adelete()),
    ):
        with pytest.raises(NotPossible, match=r"use \w+|name the ids"):
            call()
    for search in (
        store.similarity_search,
        store.similarity_search_with_score,
        store.similarity_search_with_relevance_scores,
    ):
        with pytest.raises(NotPossible, match="knows no pre_filter"):
            search("a", pre_filter={"year": 3})


# -- LlamaIndex, Haystack --------------------------------------------------------------------------


def test_llama_index_retrieves(client: SearchClient, running: RunningService) -> None:
    from search.adapters.llama_index import ReindexerRetriever

    retriever = ReindexerRetriever(client, k=2, mode="dense")
    nodes = retriever.retrieve(Q)

    assert [nodes[0].node.node_id, nodes[0].node.get_content()] == ["d7", "all of d7"]
    assert nodes[0].score == pytest.approx(1.0, abs=1e-3)
    assert nodes[0].node.metadata["title"] == "T7"

    async def work() -> list[Any]:
        async with AsyncSearchClient(running.url) as other:
            return await ReindexerRetriever(client, async_client=other, k=2).aretrieve("all of d8")

    assert len(asyncio.run(work())) == 2
    assert len(asyncio.run(retriever.aretrieve(Q))) == 2


def test_haystack_retrieves_in_a_pipeline_that_survives_yaml(
    running: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    from haystack import Pipeline
    from haystack.utils import Secret

    from search.adapters.haystack import ReindexerRetriever

    monkeypatch.setenv("REINDEXER_KEY", "rk_swordfish")
    key = Secret.from_env_var("REINDEXER_KEY")
    keyed = ReindexerRetriever.from_dict(ReindexerRetriever(running.url, api_key=key).to_dict())
    assert keyed.api_key == key
    assert "swordfish" not in str(keyed.to_dict())
    pipeline = Pipeline()
    pipeline.add_component("retriever", ReindexerRetriever(running.url, top_k=2, mode="dense"))

    again = Pipeline.loads(pipeline.dumps(), unsafe=True)
    found = again.run({"retriever": {"query": Q}})["retriever"]

    assert found["generation"] == LIVE
    assert [found["documents"][0].id, found["documents"][0].content] == ["d7", "all of d7"]
    assert len(found["documents"]) == 2
    few = {"query": Q, "top_k": 1, "filters": {"year": 3}}
    (document,) = again.run({"retriever": few})["retriever"]["documents"]
    assert document.id == "d3"
    again.get_component("retriever").close()


# -- MCP -------------------------------------------------------------------------------------------


def test_an_assistant_searches_and_reads_over_stdio(running: RunningService) -> None:
    from mcp import Client
    from mcp.client.stdio import StdioServerParameters

    assert "mcp" in SECTIONS["Documents and answers"]
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "reindexer", "mcp", "--data-dir", str(running.data.path)],
        cwd=str(ROOT),
    )

    async def work() -> None:
        async with Client(server) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(tools) == {"search", "get_document", "status"}
            assert all(
                tool.annotations is not None and tool.annotations.read_only_hint
                for tool in tools.values()
            )
            found = await client.call_tool("search", {"query": Q, "k": 2, "mode": "dense"})
            assert found.structured_content is not None
            assert found.structured_content["hits"][0]["doc_id"] == "d7"
            document = await client.call_tool("get_document", {"doc_id": "d7"})
            assert document.structured_content is not None
            assert document.structured_content["text"] == "all of d7"
            status = await client.call_tool("status", {})
            assert status.structured_content is not None
            assert status.structured_content["live"]["generation"] == LIVE
            missing = await client.call_tool("get_document", {"doc_id": "nobody"})
            assert missing.is_error
            assert "no document 'nobody'" in str(missing.content)

    asyncio.run(work())


def test_an_assistant_is_told_that_nothing_serves(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "reindexer", "mcp", "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 1
    assert "run `reindexer serve`" in done.stderr


def test_every_snippet_of_the_documentation_runs(
    running: RunningService, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs" / "adapters.md").read_text()
    names: dict[str, object] = {"url": running.url, "key": None}
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert len(snippets) == page.count("```python")
    for snippet in snippets:
        exec(snippet, names)
    printed = capsys.readouterr().out
    assert "d7" in printed
    assert "Xylophones" in printed


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("langchain", "langchain_core", "langchain"),
        ("llama_index", "llama_index", "llama-index"),
        ("haystack", "haystack", "haystack"),
        ("mcp", "mcp", "mcp"),
    ],
)
def test_without_the_framework_the_extra_is_named(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.errors import ExtraMissing

    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"search.adapters.{module}", raising=False)

    with pytest.raises(ExtraMissing, match=rf"reindexer\[{extra}\]"):
        importlib.import_module(f"search.adapters.{module}")
