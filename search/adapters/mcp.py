"""An MCP server with three tools that only read: search, get_document, status."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from search.client import AsyncSearchClient, ClientError
from search.client.calls import Mode
from training.errors import ExtraMissing

try:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from mcp_types import ToolAnnotations
except ImportError as error:
    raise ExtraMissing("mcp 2 is not installed; run `pip install 'reindexer[mcp]'`") from error

MAX_K = 50  # what a model is given to read at once
MAX_CHARACTERS = 20_000  # of one document

Result = TypeVar("Result")
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def create_server(client: AsyncSearchClient) -> MCPServer:
    """The server; `.run("stdio")` serves it. The client's key needs the scope `search` alone."""
    server = MCPServer(
        "reindexer",
        instructions="Search a corpus by words and by meaning, read its documents, and see which "
        "generation and model answer. Nothing here writes.",
    )

    @server.tool(annotations=_READS)
    async def search(
        query: str, k: int = 10, mode: Mode = "hybrid", filter: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The k best documents for a query, each with a snippet. mode: hybrid (words and meaning),
        dense (meaning) or lexical (words). filter: conditions on metadata that must all hold, as
        {"field": value}, {"field": [any, of]} or {"field": {"gte": 1}}."""
        answer = await _told(
            client.search(query, k=min(max(k, 1), MAX_K), mode=mode, filter=filter)
        )
        return {
            "generation": answer.generation,
            "model": answer.model,
            "degraded": list(answer.degraded),
            "hits": [
                {
                    "doc_id": hit.doc_id,
                    "title": hit.title,
                    "snippet": hit.snippet,
                    "score": hit.score,
                    "metadata": dict(hit.metadata),
                }
                for hit in answer.hits
            ],
        }

    @server.tool(annotations=_READS)
    async def get_document(doc_id: str) -> dict[str, Any]:
        """One document as it is stored, by the doc_id of a hit."""
        document = await _told(client.get(doc_id))
        return {
            "doc_id": document.doc_id,
            "title": document.title,
            "text": document.text[:MAX_CHARACTERS],
            "is_cut": len(document.text) > MAX_CHARACTERS,
            "metadata": dict(document.metadata),
        }

    @server.tool(annotations=_READS)
    async def status() -> dict[str, Any]:
        """What is live and standby, how many documents there are, and how far builds are."""
        found = await _told(client.status())
        return {
            "live": found.live,
            "standby": found.standby,
            "corpus": found.corpus,
            "builds": found.json["builds"],
        }

    return server


async def _told(answering: Awaitable[Result]) -> Result:
    """A refusal is told to the model that asked, which may then ask better."""
    try:
        return await answering
    except ClientError as error:
        raise ToolError(str(error)) from error
