"""A typed client of the HTTP API: `SearchClient`, and `AsyncSearchClient` for asyncio.

It needs httpx and orjson alone; nothing of the service is imported.
"""

from search.client.asynchronous import AsyncSearchClient
from search.client.blocking import SearchClient
from search.client.errors import ClientError
from search.client.patience import Patience
from search.client.uploads import Progress
from search.client.values import Answer, Build, Document, Event, Feedback, Hit, StoredLines

__all__ = [
    "Answer",
    "AsyncSearchClient",
    "Build",
    "ClientError",
    "Document",
    "Event",
    "Feedback",
    "Hit",
    "Patience",
    "Progress",
    "SearchClient",
    "StoredLines",
]
