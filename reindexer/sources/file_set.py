"""Several files behind one pattern, read one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reindexer.errors import SourceInvalid
from reindexer.sources.files import SourceFile
from reindexer.sources.positions import AtEnd, Position, SourcePart
from reindexer.sources.rows import RecordReader, Rejected, Row
from reindexer.sources.single_part import FileSource


class FileSetSource:
    """Documents from files of one format. A file is opened when it is its turn, and one that
    cannot be read is rejected; the files after it are still read.

    Raises SourceInvalid when the first file cannot be read.
    """

    def __init__(
        self, files: Sequence[SourceFile], kind: type[FileSource], reader: RecordReader
    ) -> None:
        self._reader = reader
        self._parts = [_Part(file, kind, reader) for file in files]
        self._present: _Part | None = None
        self._sizes = [file.size or 0 for file in files]
        kind(files[0], reader)

    @property
    def name(self) -> str:
        return self._reader.source

    @property
    def share_read(self) -> float | None:
        if self._present is None or not all(self._sizes):
            return None
        at = self._parts.index(self._present)
        done = sum(self._sizes[:at]) + (self._present.share_read or 0.0) * self._sizes[at]
        return done / sum(self._sizes)

    def parts(self) -> Iterator[SourcePart]:
        for part in self._parts:
            self._present = part
            yield part

    def __iter__(self) -> Iterator[Row | Rejected]:
        for part in self.parts():
            yield from part.rows(None)


class _Part:
    """One file of many: what is known of it without opening it."""

    def __init__(self, file: SourceFile, kind: type[FileSource], reader: RecordReader) -> None:
        self._file = file
        self._kind = kind
        self._reader = reader
        self._source: FileSource | None = None

    @property
    def location(self) -> str:
        return self._file.location

    @property
    def version(self) -> str | None:
        return self._file.version_with(self._kind.format, *self._reader.fields)

    @property
    def at_end(self) -> AtEnd:
        return self._file.at_end

    @property
    def position(self) -> Position | None:
        return self._source.position if self._source else None

    @property
    def share_read(self) -> float | None:
        return self._source.share_read if self._source else None

    def rows(self, after: Position | None) -> Iterator[Row | Rejected]:
        try:
            self._source = self._kind(self._file, self._reader)
        except SourceInvalid as error:
            yield Rejected(where=self._file.label, reason=str(error))
            return
        yield from self._source.rows(after)
