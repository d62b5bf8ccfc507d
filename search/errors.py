"""Errors of `search/`. Each message says what was found, what was expected and what to run next.

SearchError
├── InvalidDocument        a document or id that cannot be stored
├── InvalidQuery           a query, filter, k or mode that cannot be answered
├── NoLiveGeneration       nothing has been built and switched to yet
├── GenerationNotFound     no such generation
├── DocumentNotFound       no such document
├── BuildNotFound          no such build
├── WrongState             the operation does not fit the generation's state
├── InvalidOperation       what was asked of the installation makes no sense
├── SpaceMismatch          encoder, generation and collection do not share one vector space
├── CutOverRefused         the compare-and-swap or the preparation did not go through
│   └── TargetBehind       the generation to switch to has not applied what the live one has
├── LeaseLost              somebody else holds the lease now: stop writing
├── AccessError            a request that may not do what it asks for
│   ├── NotAuthenticated   no key, or one that is not known
│   ├── ScopeMissing       the key may not do this
│   ├── RateLimited        more requests than the key may make
│   └── ForeignRequest     a browser sent it for a page of another origin
├── LimitError             a request that is one too many, or too much
│   ├── Overloaded         too many requests under way in this process
│   ├── DeadlineExceeded   it took longer than a request may
│   └── NotReady           this process should get no requests now
├── FeedbackOff            feedback was sent, and no log is kept
├── InvalidFeedback        a click, judgment or vote that cannot be stored
├── QueryNotFound          feedback on a query that is not in the log
├── InvalidKey             an API key that cannot be made
├── KeyNotFound            no such API key
├── StoreError
│   ├── StoreUnavailable   refused, timed out, overloaded: worth trying again
│   ├── StoreLocked        another process owns this embedded collection
│   ├── DiskFull           the disk has no room for the next write
│   ├── CollectionMissing  the collection is not there
│   └── CollectionDamaged  the collection cannot be read
├── LexicalDamaged         a lexical file is missing or does not match its checksum
└── DatabaseError
    ├── DatabaseUnavailable  cannot be reached, or stayed locked
    └── DatabaseTooNew       made by a newer release
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


class SearchError(Exception):
    """Base of everything `search/` raises on purpose."""


class InvalidDocument(SearchError):
    """A document or id that cannot be stored."""


class InvalidQuery(SearchError):
    """A query, filter, k or mode that cannot be answered."""


class NoLiveGeneration(SearchError):
    """Nothing has been built and switched to yet."""


class GenerationNotFound(SearchError):
    """No such generation."""


class BuildNotFound(SearchError):
    """No such build."""


class DocumentNotFound(SearchError):
    """No such document."""


class WrongState(SearchError):
    """The operation does not fit the generation's state."""


class InvalidOperation(SearchError):
    """What was asked of the installation makes no sense."""


class SpaceMismatch(SearchError):
    """Encoder, generation and collection do not share one vector space."""


class CutOverRefused(SearchError):
    """The switch did not happen; the generation that was live still is."""


class TargetBehind(CutOverRefused):
    """The generation to switch to has not applied what the live one has; it may catch up."""


class LeaseLost(SearchError):
    """Somebody else holds the lease now: this process must stop writing."""


class AccessError(SearchError):
    """A request that may not do what it asks for."""

    @property
    def headers(self) -> dict[str, str]:
        """What the answer has to say beside its body."""
        return {}


class NotAuthenticated(AccessError):
    """The request has no API key, or one that is not known (any more)."""

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": 'Bearer realm="reindexer"'}


class ScopeMissing(AccessError):
    """The key is good, and not for this."""

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message)
        self.scope = scope

    @property
    def headers(self) -> dict[str, str]:
        """RFC 6750, section 3.1."""
        challenge = f'Bearer realm="reindexer", error="insufficient_scope", scope="{self.scope}"'
        return {"WWW-Authenticate": challenge}


class RateLimited(AccessError):
    """More requests than the key, or the address, may make."""

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class ForeignRequest(AccessError):
    """A browser sent it for a page of another origin, or under a name that is not ours."""


class LimitError(SearchError):
    """A request that is one too many, or too much, for this process now."""


class Overloaded(LimitError):
    """As many requests are under way as this process takes."""

    headers: Mapping[str, str] = MappingProxyType({"Retry-After": "1"})


class DeadlineExceeded(LimitError):
    """The request took longer than one may."""


class NotReady(LimitError):
    """This process should get no requests now."""

    headers: Mapping[str, str] = MappingProxyType({"Retry-After": "1"})


class FeedbackOff(SearchError):
    """Feedback was sent, and no query log is kept that it could belong to."""


class InvalidFeedback(SearchError):
    """A click, judgment or vote that cannot be stored."""


class QueryNotFound(SearchError):
    """Feedback on a query that is not in the log."""


class InvalidKey(SearchError):
    """An API key with this name, scope or rate cannot be made."""


class KeyNotFound(SearchError):
    """No such API key."""


class StoreError(SearchError):
    """A dense collection could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store refused, timed out or is overloaded; trying again may help."""


class StoreLocked(StoreError):
    """Another process owns this embedded collection."""


class DiskFull(StoreError):
    """The disk has no room for what was to be written; nothing of it was."""


class CollectionMissing(StoreError):
    """The collection does not exist."""


class CollectionDamaged(StoreError):
    """The collection exists and cannot be read."""


class LexicalDamaged(SearchError):
    """A lexical index file is missing or does not match its checksum."""


class DatabaseError(SearchError):
    """The corpus, catalog or journal could not do what was asked."""


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached, or stayed locked for too long."""


class DatabaseTooNew(DatabaseError):
    """The database was made by a newer release."""
