"""Sources that are one thing: one file, one table, one collection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

from reindexer.sources.files import SourceFile
from reindexer.sources.positions import AtEnd, Position, SourcePart
from reindexer.sources.rows import RecordReader, Rejected, Row


class SinglePartSource(ABC):
    """A `DocumentSource` that is its own only `SourcePart`."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader

    @property
    def name(self) -> str:
        return self._reader.source

    @property
    @abstractmethod
    def share_read(self) -> float | None: ...

    @property
    @abstractmethod
    def location(self) -> str: ...

    @property
    @abstractmethod
    def version(self) -> str | None: ...

    @property
    @abstractmethod
    def at_end(self) -> AtEnd: ...

    @property
    @abstractmethod
    def position(self) -> Position | None: ...

    @abstractmethod
    def rows(self, after: Position | None) -> Iterator[Row | Rejected]: ...

    def parts(self) -> tuple[SourcePart, ...]:
        return (self,)

    def __iter__(self) -> Iterator[Row | Rejected]:
        return self.rows(None)


class FileSource(SinglePartSource):
    """One file of a format."""

    format: ClassVar[str]

    def __init__(self, file: SourceFile, reader: RecordReader) -> None:
        super().__init__(reader)
        self._file = file
        self._label = file.label

    @property
    def location(self) -> str:
        return self._file.location

    @property
    def version(self) -> str | None:
        return self._file.version_with(self.format, *self._reader.fields)

    @property
    def at_end(self) -> AtEnd:
        return self._file.at_end
