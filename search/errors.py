"""Errors of `search/`. Each message says what was found, what was expected and what to run next.

SearchError
├── InvalidDocument        a document or id that cannot be stored
├── InvalidQuery           a query, filter, k or mode that cannot be answered
├── NoLiveGeneration       nothing has been built and switched to yet
├── GenerationNotFound     no such generation
├── WrongState             the operation does not fit the generation's state
├── SpaceMismatch          encoder, generation and collection do not share one vector space
├── CutOverRefused         the compare-and-swap or the preparation did not go through
├── LeaseLost              somebody else holds the lease now: stop writing
├── StoreError
│   ├── StoreUnavailable   refused, timed out, overloaded: worth trying again
│   ├── StoreLocked        another process owns this embedded collection
│   ├── CollectionMissing  the collection is not there
│   └── CollectionDamaged  the collection cannot be read
├── LexicalDamaged         a lexical file is missing or does not match its checksum
└── DatabaseError
    ├── DatabaseUnavailable  cannot be reached, or stayed locked
    └── DatabaseTooNew       made by a newer release
"""

from __future__ import annotations


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


class WrongState(SearchError):
    """The operation does not fit the generation's state."""


class SpaceMismatch(SearchError):
    """Encoder, generation and collection do not share one vector space."""


class CutOverRefused(SearchError):
    """The switch did not happen; the generation that was live still is."""


class LeaseLost(SearchError):
    """Somebody else holds the lease now: this process must stop writing."""


class StoreError(SearchError):
    """A dense collection could not do what was asked."""


class StoreUnavailable(StoreError):
    """The store refused, timed out or is overloaded; trying again may help."""


class StoreLocked(StoreError):
    """Another process owns this embedded collection."""


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
