"""Another Qdrant collection: one document a point, from its payload."""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from reindexer.errors import SourceInvalid, SourceStopped
from reindexer.sources.locations import digest, location_of, without_credentials
from reindexer.sources.positions import AtEnd, Position
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import SinglePartSource
from search.errors import CollectionMissing, StoreError
from search.qdrant_payloads import PayloadPage, QdrantPayloads
from training.outgoing import check_address

PAGE_POINTS = 500
REST_PORT = 6333  # where a server is asked whose address has none
API_KEY_VARIABLE = "QDRANT_API_KEY"


class CollectionSource(SinglePartSource):
    """Documents from the payloads of a collection, in the order of its points' ids.

    The id of a document is that of its point, unless the payload has `_id` or a field is named.
    The API key is read from the environment variable QDRANT_API_KEY.

    Raises SourceInvalid when there is no such collection, or none of its first points has a text.
    """

    def __init__(self, ref: str, reader: RecordReader) -> None:
        """ref: https://host:6333#collection."""
        parts = urlsplit(ref)
        self._label = parts.fragment
        if not self._label or parts.scheme not in ("http", "https"):
            raise SourceInvalid(
                f"{without_credentials(ref)} names no Qdrant collection; expected "
                "https://host:6333#collection"
            )
        check_address(ref, default_port=REST_PORT)
        self._location = location_of(ref)
        super().__init__(reader)
        self._payloads = QdrantPayloads(
            urlunsplit(parts._replace(fragment="")),
            self._label,
            api_key=os.environ.get(API_KEY_VARIABLE),
        )
        self._position: Position | None = None
        self._n_read = 0
        try:
            first = self._payloads.page(None, PAGE_POINTS)
            self._n_points = self._payloads.count()
        except CollectionMissing:
            raise SourceInvalid(
                f"there is no collection {self._label!r} at {self._location.partition('#')[0]}"
            ) from None
        except StoreError as error:
            raise SourceInvalid(without_credentials(str(error))) from error
        fields = {field for _, payload in first.payloads for field in payload}
        if fields:
            reader.check_fields(self._label, fields if reader.has_id_field else {"_id", *fields})

    @property
    def share_read(self) -> float | None:
        return min(1.0, self._n_read / self._n_points) if self._n_points else None

    @property
    def location(self) -> str:
        return self._location

    @property
    def version(self) -> str:
        return digest(("qdrant", *self._reader.fields))

    @property
    def at_end(self) -> AtEnd:
        return "read_again"

    @property
    def position(self) -> Position | None:
        return self._position

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        from_id: int | str | None = after["point"] if after else None
        passed = from_id  # was read already: a page begins with the point it is asked from
        self._position = after
        self._n_read = after["points"] if after else 0
        while True:
            page = self._page(from_id)
            for point_id, payload in page.payloads:
                if point_id == passed:
                    continue
                self._n_read += 1
                self._position = {"point": point_id, "points": self._n_read}
                yield self._reader.read(
                    f"{self._label}:{point_id}", {"_id": str(point_id), **payload}
                )
            if page.next_id is None:
                return
            from_id = page.next_id

    def _page(self, from_id: int | str | None) -> PayloadPage:
        try:
            return self._payloads.page(from_id, PAGE_POINTS)
        except StoreError as error:
            raise SourceStopped(
                f"{without_credentials(str(error))}; what was read is stored: run the same command "
                "again, and it goes on from there"
            ) from error
