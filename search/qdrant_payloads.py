"""What somebody else's Qdrant collection holds: the payloads of its points, without the vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search.qdrant_calls import QdrantCalls


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadPage:
    """Some points in the order of their ids."""

    payloads: list[tuple[int | str, dict[str, Any]]]  # id of the point, payload
    next_id: int | str | None  # the page after this one begins there; None: there is none


class QdrantPayloads:
    """One collection of one server, read over REST."""

    def __init__(self, url: str, collection: str, *, api_key: str | None = None) -> None:
        """Nothing is sent yet."""
        self._calls = QdrantCalls.to(url, api_key)
        self._collection = collection

    def page(self, from_id: int | str | None, size: int) -> PayloadPage:
        """At most `size` points from an id on; from the first one without it.

        Raises CollectionMissing, StoreUnavailable or StoreError.
        """
        records, next_id = self._calls.run(
            "scroll",
            collection_name=self._collection,
            limit=size,
            offset=from_id,
            with_payload=True,
            with_vectors=False,
        )
        return PayloadPage(
            payloads=[(record.id, record.payload or {}) for record in records], next_id=next_id
        )

    def count(self) -> int:
        """By the server's estimate."""
        found = self._calls.run("count", collection_name=self._collection, exact=False)
        return int(found.count)
