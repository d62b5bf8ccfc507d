"""Finds out what a reference names and opens it as a source."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from reindexer.errors import SourceInvalid
from reindexer.sources.delimited import DelimitedSource
from reindexer.sources.file_set import FileSetSource
from reindexer.sources.files import is_pattern, local_file, remote_files
from reindexer.sources.folder import FolderSource
from reindexer.sources.jsonl import JsonLinesSource
from reindexer.sources.locations import is_url, without_credentials
from reindexer.sources.parquet import ParquetSource
from reindexer.sources.rows import DocumentSource, RecordReader
from reindexer.sources.single_part import FileSource
from reindexer.sources.sql import SqlSource, is_sql_url
from search.documents import DEFAULT_SOURCE, validate_source
from search.errors import InvalidDocument
from training.local_path import local_path

FORMATS = ("auto", "beir", "jsonl", "csv", "parquet", "folder", "sql", "qdrant", "hf")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_FORMAT_OF = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_FILES: Mapping[str, type[FileSource]] = {
    kind.format: kind for kind in (JsonLinesSource, DelimitedSource, ParquetSource)
}
_OF_FORMAT = {  # what says more about one format, and is of no use to the others
    "sql": ("table", "query", "updated_at"),
    "hf": ("split", "subset"),
}


def open_source(
    ref: str | Path,
    *,
    format: str = "auto",
    name: str = DEFAULT_SOURCE,
    id_field: str | None = None,
    text_field: str | None = None,
    title_field: str | None = None,
    table: str | None = None,
    query: str | None = None,
    updated_at: str | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> DocumentSource:
    """The source that `ref` names: JSONL, CSV, TSV or Parquet files (JSONL and CSV may be
    compressed with gzip, bzip2, xz or zstd), a folder of .txt and .md files, a BEIR folder, a
    database, a Qdrant collection, or a data set of the Hugging Face hub.

    ref: a path, the URL of a file (s3://, gs://, https://, ...), a pattern of paths or URLs, a
    SQLAlchemy URL, the URL of a Qdrant server with #collection, or the name of a data set. name:
    the source its documents belong to. id_field, text_field, title_field: where to find these in
    the rows, instead of the usual names. table or query, updated_at: see SqlSource. split, subset:
    see HubSource. Raises SourceInvalid when there is no such thing, it cannot be read, or it has
    no such field.
    """
    if format not in FORMATS:
        raise SourceInvalid(f"format {format!r} is not known; expected {', '.join(FORMATS)}")
    text = str(ref)
    if format == "auto" and is_sql_url(text):
        format = "sql"
    given = {
        "table": table,
        "query": query,
        "updated_at": updated_at,
        "split": split,
        "subset": subset,
    }
    _check_options(format, given)
    try:
        reader = RecordReader(
            validate_source(name),
            id_field=id_field,
            text_field=text_field,
            title_field=title_field,
        )
    except InvalidDocument as error:
        raise SourceInvalid(str(error)) from error
    match format:
        case "sql":
            return SqlSource(text, reader, table=table, query=query, updated_at=updated_at)
        case "qdrant":
            from reindexer.sources.collection import CollectionSource

            return CollectionSource(text, reader)
        case "hf":
            from reindexer.sources.hub import HubSource

            return HubSource(text, reader, split=split or "train", subset=subset)
    if isinstance(ref, str) and is_url(ref):
        return _open_files(ref, format, reader)
    path = local_path(ref)
    if is_pattern(text) and not path.exists():
        return _open_files(f"file://{path.absolute()}", format, reader)
    _check_exists(path)
    found = _format_of(path) if format == "auto" else format
    if found in _FILES:
        if not path.is_file():
            raise SourceInvalid(f"{path} is not a file, expected a {found} file")
        return _FILES[found](local_file(path), reader)
    if not path.is_dir():
        raise SourceInvalid(f"{path} is not a folder, expected a {found} folder")
    if found == "beir":
        return JsonLinesSource(local_file(_beir_corpus(path)), reader)
    if id_field or text_field or title_field:
        raise SourceInvalid(
            f"{path} is a folder of texts, which have no fields; leave out --id-field, "
            "--text-field and --title-field"
        )
    return FolderSource(path, name)


def _check_options(format: str, given: Mapping[str, str | None]) -> None:
    for kind, names in _OF_FORMAT.items():
        for option in names:
            if given[option] is not None and format != kind:
                raise SourceInvalid(
                    f"--{option.replace('_', '-')} is for --format {kind}, this source is read as "
                    f"{format}"
                )


def _open_files(url: str, format: str, reader: RecordReader) -> DocumentSource:
    files = remote_files(url)
    found = _format_of_name(Path(files[0].label)) if format == "auto" else format
    if found not in _FILES:
        raise SourceInvalid(
            f"{without_credentials(url)} is the URL of files, which --format {found} cannot be; "
            f"expected {', '.join(_FILES)}"
        )
    if len(files) == 1:
        return _FILES[found](files[0], reader)
    return FileSetSource(files, _FILES[found], reader)


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
    return _format_of_name(path)


def _format_of_name(path: Path) -> str:
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
