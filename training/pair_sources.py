"""Where pairs come from: files, Hugging Face datasets, and the judgments of a BEIR folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import PairsInvalid
from training.extras import require
from training.judgments import JudgedDocument, read_judgments
from training.outgoing import check_hub, guard_drivers, raise_refused
from training.pair_columns import PairColumns
from training.pairs import Pair, PairRow, RejectedRow
from training.records import Record, Records, csv_records, jsonl_records, parquet_records

FORMATS = ("auto", "beir", "jsonl", "csv", "parquet", "hf", "clicks")
DEFAULT_SPLIT = "train"
_COMPRESSED = (".gz", ".bz2", ".xz")
_FORMAT_OF = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
_RECORDS: Mapping[str, Callable[[Path], Records]] = {
    "jsonl": jsonl_records,
    "csv": csv_records,
    "parquet": parquet_records,
}
_SAMPLED_RECORDS = 100
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?")  # owner/name:subset@revision


@dataclass(frozen=True, kw_only=True)
class PairSource:
    """Rows of one source, read as they are asked for."""

    format: str
    renamed: Mapping[str, str]  # role by column, of the columns that go by another name
    rows: Iterator[PairRow | RejectedRow]

    def __iter__(self) -> Iterator[PairRow | RejectedRow]:
        return self.rows


def open_pairs(
    ref: str | Path,
    *,
    format: str = "auto",
    split: str | None = None,
    loss: str | None = None,
    rename: Mapping[str, str] | None = None,
    score_max: float = 1.0,
    graded: bool = False,
    group_field: str | None = None,
) -> PairSource:
    """The pairs that `ref` names: a JSONL, CSV, TSV or Parquet file (the first three may be
    compressed), a Hugging Face dataset (a saved folder, or owner/name[:subset][@revision]), or a
    BEIR folder.

    split: of a BEIR folder or a dataset; train unless given. rename: role by column. score_max: the
    score that means 1. graded: keep the grades of a BEIR folder as scores, those of 0 too, instead
    of only what is relevant. group_field: a field of a BEIR corpus that tells which documents
    belong together.

    Raises PairsInvalid when there is no such thing, it cannot be read, or its columns are not what
    the loss needs; JudgmentsInvalid for a BEIR folder. A bad row is a RejectedRow.
    """
    found = format_of(ref) if format == "auto" else format
    if found == "beir":
        grade_pairs = graded or loss == "cosent"
        rows = _judged(Path(ref), split or DEFAULT_SPLIT, grade_pairs, group_field)
        return PairSource(format=found, renamed={}, rows=rows)
    label = Path(ref).name if found in _RECORDS else str(ref)
    if found == "clicks":
        raise PairsInvalid(
            f"{ref} is a click log; make pairs of it first: `reindexer pairs build {ref} -o "
            "pairs.jsonl`"
        )
    if found == "hf":
        records = _dataset(str(ref), split)
    elif found in _RECORDS:
        records = _RECORDS[found](Path(ref))
    else:
        raise PairsInvalid(f"format {found!r}: expected one of {', '.join(FORMATS)}")
    first = list(itertools.islice(records, _SAMPLED_RECORDS))
    sample = [row[1] for row in first if isinstance(row, tuple)]
    names = dict.fromkeys(name for record in sample for name in record)
    if not names and not first:
        raise PairsInvalid(f"{ref} is empty; expected one pair a line")
    columns = (
        PairColumns.of(
            list(names),
            label=str(ref),
            loss=loss,
            rename=rename,
            score_max=score_max,
            sample=sample,
        )
        if names
        else PairColumns(columns={})  # every row so far is rejected
    )
    return PairSource(
        format=found,
        renamed=columns.renamed,
        rows=_rows(itertools.chain(first, records), columns, label),
    )


def format_of(ref: str | Path) -> str:
    """One of FORMATS. Raises PairsInvalid when nothing is there or its kind cannot be told."""
    path = Path(ref)
    if path.is_dir():
        if (path / "corpus.jsonl").is_file():
            return "beir"
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return "hf"
        raise PairsInvalid(
            f"{path} is neither a BEIR folder (corpus.jsonl, queries.jsonl, qrels/) nor a dataset "
            "saved with save_to_disk; name a file in it"
        )
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    found = _FORMAT_OF.get(suffixes[-1]) if suffixes else None
    if not path.exists():
        if found is None and _HUB_ID.fullmatch(str(ref)):
            return "hf"
        raise PairsInvalid(f"there is no file or folder {path}")
    if found is None:
        raise PairsInvalid(
            f"the format of {path.name} is not known from its ending; expected one of "
            f"{', '.join(_FORMAT_OF)}, or say which it is with --format jsonl|csv|parquet|clicks"
        )
    if found == "jsonl" and _is_click_log(path):
        return "clicks"
    return found


def _is_click_log(path: Path) -> bool:
    rows = itertools.islice(jsonl_records(path), _SAMPLED_RECORDS)
    return any(
        isinstance(row, tuple) and {"query", "doc_id", "clicked"} <= set(row[1]) for row in rows
    )


def _rows(records: Records, columns: PairColumns, label: str) -> Iterator[PairRow | RejectedRow]:
    shared: dict[str, str] = {}  # one copy of a positive that many pairs have
    for row in records:
        if isinstance(row, RejectedRow):
            yield row
            continue
        where, record = row
        if not columns.columns:
            raise PairsInvalid(
                f"none of the first {_SAMPLED_RECORDS} rows of {label} can be read; is it "
                "a file of pairs?"
            )
        try:
            for pair in columns.pairs(record):
                yield PairRow(where=where, pair=_share(pair, shared))
        except PairsInvalid as error:
            yield RejectedRow(where=where, reason=str(error))


def _share(pair: Pair, shared: dict[str, str]) -> Pair:
    positive = shared.setdefault(pair.positive, pair.positive)
    if positive is pair.positive:
        return pair
    return Pair(**{name: getattr(pair, name) for name in Pair.__slots__} | {"positive": positive})


def _judged(
    folder: Path, split: str, graded: bool, group_field: str | None
) -> Iterator[PairRow | RejectedRow]:
    judgments = read_judgments(folder, split)
    wanted = {
        doc_id
        for grades in judgments.qrels.values()
        for doc_id, grade in grades.items()
        if grade > 0 or graded
    }
    documents: dict[str, tuple[JudgedDocument, str | None]] = {}
    for row in jsonl_records(folder / "corpus.jsonl"):
        if isinstance(row, RejectedRow):
            yield row
            continue
        where, record = row
        doc_id = str(record.get("_id", record.get("id", "")))
        if doc_id in wanted:
            title, text = record.get("title") or "", record.get("text") or ""
            if isinstance(title, str) and isinstance(text, str):
                document = JudgedDocument(doc_id, title, text)
                documents[doc_id] = document, _group(record, group_field)
            else:
                yield RejectedRow(where=where, reason="expected title and text to be text")
    best = max(grade for grades in judgments.qrels.values() for grade in grades.values())
    for query_id, grades in judgments.qrels.items():
        for doc_id, grade in grades.items():
            if doc_id not in wanted or (grade <= 0 and not graded):
                continue
            where = f"qrels/{split}.tsv query {query_id} document {doc_id}"
            if doc_id not in documents:
                yield RejectedRow(where=where, reason="the document is not in corpus.jsonl")
                continue
            document, group = documents[doc_id]
            try:
                pair = Pair(
                    anchor=judgments.queries[query_id],
                    positive=document.full_text,
                    score=max(0, grade) / best if graded else None,
                    query_id=query_id,
                    doc_id=doc_id,
                    group=group,
                )
            except PairsInvalid as error:
                yield RejectedRow(where=where, reason=str(error))
            else:
                yield PairRow(where=where, pair=pair)


def _group(record: Record, field: str | None) -> str | None:
    if field is None:
        return None
    metadata = record.get("metadata")
    value = record.get(field, metadata.get(field) if isinstance(metadata, dict) else None)
    return None if value is None else str(value)


def _dataset(ref: str, split: str | None) -> Records:
    """The rows of a Hugging Face dataset."""
    if not Path(ref).is_dir():
        check_hub()
    require("datasets")
    import datasets

    found: Any
    try:
        if Path(ref).is_dir():
            found = datasets.load_from_disk(ref)
        else:
            guard_drivers()
            name, _, revision = ref.partition("@")
            name, _, subset = name.partition(":")
            found = datasets.load_dataset(name, subset or None, revision=revision or None)
    except Exception as error:  # whatever the hub, the cache or a damaged folder raise
        raise_refused(error)
        raise PairsInvalid(
            f"the dataset {ref} cannot be read: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        wanted = split or DEFAULT_SPLIT
        if wanted not in found:
            raise PairsInvalid(
                f"{ref} has the splits {', '.join(found)}; expected {wanted!r}: add --split "
                f"{next(iter(found), DEFAULT_SPLIT)}"
            )
        found = found[wanted]
    return ((f"{ref} row {number}", record) for number, record in enumerate(found, 1))
