"""Finds out what a reference names and opens it as a source."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from reindexer.errors import SourceInvalid
from reindexer.sources.delimited import DelimitedSource
from reindexer.sources.folder import FolderSource
from reindexer.sources.jsonl import JsonLinesSource
from reindexer.sources.parquet import ParquetSource
from reindexer.sources.rows import DocumentSource, RecordReader
from search.documents import DEFAULT_SOURCE, validate_source
from search.errors import InvalidDocument

FORMATS = ("auto", "beir", "jsonl", "csv", "parquet", "folder")
_COMPRESSED = (".gz", ".bz2", ".xz")
_FORMAT_OF = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_FILES: Mapping[str, Callable[[Path, RecordReader], DocumentSource]] = {
    "jsonl": JsonLinesSource,
    "csv": DelimitedSource,
    "parquet": ParquetSource,
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def open_source(
    ref: str | Path,
    *,
    format: str = "auto",
    name: str = DEFAULT_SOURCE,
    id_field: str | None = None,
    text_field: str | None = None,
    title_field: str | None = None,
) -> DocumentSource:
    """The source that `ref` names: a JSONL, CSV, TSV or Parquet file (JSONL and CSV may be
    compressed with gzip, bzip2 or xz), a folder of .txt and .md files, or a BEIR folder.

    name: the source its documents belong to. id_field, text_field, title_field: where to find
    these in the rows, instead of the usual names. Raises SourceInvalid when there is no such thing,
    it cannot be read, or it has no such field.
    """
    if format not in FORMATS:
        raise SourceInvalid(f"format {format!r} is not known; expected {', '.join(FORMATS)}")
    try:
        reader = RecordReader(
            validate_source(name),
            id_field=id_field,
            text_field=text_field,
            title_field=title_field,
        )
    except InvalidDocument as error:
        raise SourceInvalid(str(error)) from error
    if isinstance(ref, str) and _URL.match(ref):
        raise SourceInvalid(f"{ref} is a URL; download it and name the file or folder")
    path = Path(ref).expanduser()
    _check_exists(path)
    found = _format_of(path) if format == "auto" else format
    if found in _FILES:
        if not path.is_file():
            raise SourceInvalid(f"{path} is not a file, expected a {found} file")
        return _FILES[found](path, reader)
    if not path.is_dir():
        raise SourceInvalid(f"{path} is not a folder, expected a {found} folder")
    if found == "beir":
        return JsonLinesSource(_beir_corpus(path), reader)
    if id_field or text_field or title_field:
        raise SourceInvalid(
            f"{path} is a folder of texts, which have no fields; leave out --id-field, "
            "--text-field and --title-field"
        )
    return FolderSource(path, name)


def _check_exists(path: Path) -> None:
    try:
        if path.exists():
            return
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceInvalid(f"{path} cannot be read: {reason}") from error
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {path.parent / close[0]}?" if close else ""
    raise SourceInvalid(f"there is no file or folder {path}{hint}")


def _format_of(path: Path) -> str:
    if path.is_dir():
        return "beir" if _beir_corpora(path) else "folder"
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    found = _FORMAT_OF.get(suffixes[-1]) if suffixes else None
    if found is None:
        known = ", ".join(_FORMAT_OF)
        raise SourceInvalid(
            f"the format of {path.name} is not known from its ending; expected one of {known} "
            f"(also with {', '.join(_COMPRESSED)}), or say which it is with --format "
            "jsonl|csv|parquet. Single text files: name the folder they are in"
        )
    return found


def _beir_corpora(path: Path) -> list[Path]:
    names = ["corpus.jsonl", *(f"corpus.jsonl{ending}" for ending in _COMPRESSED)]
    return [path / name for name in names if (path / name).is_file()]


def _beir_corpus(path: Path) -> Path:
    corpora = _beir_corpora(path)
    if not corpora:
        raise SourceInvalid(f"{path} is not a BEIR folder: it has no corpus.jsonl")
    return corpora[0]
