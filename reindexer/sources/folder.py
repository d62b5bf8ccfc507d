"""A folder of text and Markdown files: one document a file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from reindexer.errors import SourceInvalid
from reindexer.sources.lines import utf16_encoding
from reindexer.sources.rows import Rejected, Row
from search.documents import MAX_TEXT_BYTES, Document
from search.errors import InvalidDocument
from training.unicode_text import is_unicode

_MARKDOWN = frozenset({".md", ".markdown"})
_SUFFIXES = frozenset({".txt", *_MARKDOWN})
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(```|~~~)")


class FolderSource:
    """The .txt and .md files of a folder and the folders in it, in order of their paths.

    The id is the path in the folder (`guides/setup.md`), the title the first Markdown heading or
    else the file's name, and the metadata field `folder` the path of the folder the file lies in.
    Hidden files and folders are passed over, and so are links to what is read anyway; a link that
    leads out of the folder is rejected.

    Raises SourceInvalid when the folder cannot be read or holds no such file.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._root = path.resolve()
        try:
            next(path.iterdir(), None)
        except OSError as error:
            raise SourceInvalid(f"folder {path} cannot be read: {error.strerror}") from error
        if not any(isinstance(found, Rejected) or found for found in self._walk(path)):
            raise SourceInvalid(
                f"folder {path} holds no .txt or .md file ({self._contents()}); name a file, a "
                "BEIR folder (with corpus.jsonl), or a folder of texts"
            )

    @property
    def name(self) -> str:
        return self._name

    @property
    def share_read(self) -> float | None:
        return None

    def __iter__(self) -> Iterator[Row | Rejected]:
        for found in self._walk(self._path):
            yield found if isinstance(found, Rejected) else self._read(found)

    def _walk(self, folder: Path) -> Iterator[Path | Rejected]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=_path_order)
        except OSError as error:
            yield Rejected(
                where=self._shown(folder), reason=f"the folder cannot be read: {error.strerror}"
            )
            return
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                is_text = path.suffix.lower() in _SUFFIXES
                if (is_text or path.is_dir()) and not self._contains(path):
                    yield Rejected(
                        where=self._shown(path),
                        reason="a link that leads out of the folder is not followed; "
                        "ingest what it points at by itself",
                        doc_id=self._doc_id(path),
                    )
            elif entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            elif entry.is_file(follow_symlinks=False) and path.suffix.lower() in _SUFFIXES:
                yield path

    def _read(self, path: Path) -> Row | Rejected:
        where = self._shown(path)
        doc_id = self._doc_id(path)
        try:
            if doc_id is None:
                raise InvalidDocument("the name of the file is not UTF-8; rename it")
            text = _text(path)
            folder = path.relative_to(self._path).parent.as_posix()
            document = Document.of(
                doc_id=doc_id,
                text=text,
                title=(path.suffix.lower() in _MARKDOWN and _first_heading(text)) or path.stem,
                metadata={"folder": folder},
                source=self._name,
            )
        except OSError as error:
            return Rejected(
                where=where, reason=f"the file cannot be read: {error.strerror}", doc_id=doc_id
            )
        except InvalidDocument as error:
            return Rejected(where=where, reason=str(error), doc_id=doc_id)
        return Row(where=where, document=document)

    def _contains(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._root)
        except (OSError, RuntimeError):  # a loop of links
            return True

    def _doc_id(self, path: Path) -> str | None:
        doc_id = path.relative_to(self._path).as_posix()
        return doc_id if is_unicode(doc_id) else None

    def _shown(self, path: Path) -> str:
        shown = path.relative_to(self._path).as_posix()
        return os.fsencode(shown).decode("utf-8", "backslashreplace")

    def _contents(self) -> str:
        kinds = Counter(
            path.suffix.lower() or "without an ending"
            for path in self._path.iterdir()
            if path.is_file() and not path.name.startswith(".")
        )
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
        return f"found: {found}" if found else "it is empty"


def _path_order(entry: os.DirEntry[str]) -> str:
    """A folder sorts as if its name ended in a slash: the walk then follows the order of paths."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name


def _text(path: Path) -> str:
    """Raises OSError, or InvalidDocument with the reason."""
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise InvalidDocument(
            f"the file has {path.stat().st_size:,} bytes, at most {MAX_TEXT_BYTES:,} are allowed; "
            "split the document"
        )
    if encoding := utf16_encoding(content[:4096]):
        raise InvalidDocument(f"the file is {encoding}, expected UTF-8; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidDocument(
            f"not UTF-8: byte 0x{content[error.start]:02x} at byte {error.start + 1} of the file; "
            "save it as UTF-8"
        ) from None
    if not text.strip():
        raise InvalidDocument("the file is empty")
    return text


def _first_heading(text: str) -> str | None:
    """The first heading of a Markdown text, outside front matter and code blocks."""
    lines = text.split("\n", 400)[:400]
    fence: str | None = None
    previous = ""
    start = 0
    if lines[0].rstrip() == "---":
        ends = [i for i, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "...")]
        start = ends[0] + 1 if ends else 0
    for line in lines[start:]:
        if mark := _FENCE.match(line):
            if fence is None:
                fence = mark[1]
            elif fence == mark[1]:
                fence = None
        elif fence is None:
            if heading := _HEADING.fullmatch(line):
                return heading[1]
            if previous and _UNDERLINE.fullmatch(line):
                return previous
            previous = line.strip()
    return None
