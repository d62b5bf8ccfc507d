"""Judged queries and their corpus, read from a BEIR folder.

`corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and `qrels/<split>.tsv`
(`query-id`, `corpus-id`, `score`; Thakur et al. 2021). A query may carry `slice` (a name, or a list
of names) and `metadata` (an object); both tell which slices it belongs to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.errors import JudgmentsInvalid

_QRELS_HEADER = "query-id<TAB>corpus-id<TAB>score"


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgments:
    """The judged queries of one split."""

    queries: Mapping[str, str]  # text by query id; only those that have judgments
    qrels: Mapping[str, Mapping[str, int]]  # grade by query id and doc_id; above 0 is relevant
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # query ids by slice

    def relevant(self, query_id: str) -> list[str]:
        """The doc_ids that answer a query."""
        return [doc_id for doc_id, grade in self.qrels[query_id].items() if grade > 0]


@dataclass(frozen=True, slots=True)
class JudgedDocument:
    """One line of a BEIR folder's corpus.jsonl."""

    doc_id: str
    title: str
    text: str

    @property
    def full_text(self) -> str:
        """Title and text as one string, as they are encoded."""
        return " ".join(part for part in (self.title, self.text) if part)


def splits(folder: Path) -> list[str]:
    """The splits of a BEIR folder that have judgments, sorted; [] when there are none."""
    return sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))


def read_judgments(folder: Path, split: str) -> Judgments:
    """The queries of a split that have judgments, and the judgments.

    Raises JudgmentsInvalid when a file is missing or a line cannot be used, naming the line.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise JudgmentsInvalid(
            f"found {found} at {folder}; expected a folder with corpus.jsonl, queries.jsonl and "
            "qrels/<split>.tsv"
        )
    there = splits(folder)
    if split not in there:
        found = f"the splits {', '.join(there)}" if there else "no qrels/<split>.tsv"
        advice = f"; try --split {there[-1]}" if there else ""
        raise JudgmentsInvalid(f"{folder}: found {found}, expected a split {split!r}{advice}")
    qrels_path, queries_path = folder / "qrels" / f"{split}.tsv", folder / "queries.jsonl"
    qrels = _read_qrels(qrels_path)
    texts: dict[str, str] = {}
    slices: dict[str, list[str]] = {}
    for query_id, text, names in _read_queries(queries_path):
        if query_id in qrels:
            texts[query_id] = text
            for name in names:
                slices.setdefault(name, []).append(query_id)
    missing = [query_id for query_id in qrels if query_id not in texts]
    if missing:
        raise JudgmentsInvalid(
            f"{queries_path}: {len(missing)} of the {len(qrels)} queries judged in "
            f"{qrels_path.name} are not in it, such as {missing[0]!r}"
        )
    return Judgments(
        queries={query_id: texts[query_id] for query_id in qrels},
        qrels=qrels,
        slices={name: tuple(query_ids) for name, query_ids in sorted(slices.items())},
    )


def judgments_hash(judgments: Judgments) -> str:
    """SHA-256 (hex) over every query's text and grades; the order does not matter."""
    digest = hashlib.sha256()
    for query_id, grades in sorted(judgments.qrels.items()):
        row = [query_id, judgments.queries[query_id], sorted(grades.items())]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def count_documents(folder: Path) -> int:
    """How many documents a BEIR folder has, for progress: lines that hold something, unread.

    Raises JudgmentsInvalid when the file is missing.
    """
    return sum(1 for _ in _lines(folder / "corpus.jsonl"))


def read_documents(folder: Path) -> Iterator[JudgedDocument]:
    """The documents of a BEIR folder, one at a time.

    Raises JudgmentsInvalid when the file is missing or a line cannot be used, naming the line.
    """
    for where, row in read_rows(folder / "corpus.jsonl"):
        title, text = row.get("title") or "", row.get("text") or ""
        if not isinstance(title, str) or not isinstance(text, str):
            raise JudgmentsInvalid(f"{where}: expected title and text to be text")
        yield JudgedDocument(_id(row, where), title, text)


def find_documents(folder: Path, doc_ids: Collection[str]) -> Iterator[JudgedDocument]:
    """Those of the wanted documents that the folder has, in its order; stops at the last one."""
    wanted = set(doc_ids)
    if not wanted:
        return
    for document in read_documents(folder):
        if document.doc_id in wanted:
            yield document
            wanted.remove(document.doc_id)
            if not wanted:
                return


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        if number == 1 and line.startswith("query-id"):
            continue
        fields = line.split("\t")
        grade = _grade(fields[2]) if len(fields) == 3 else None
        if grade is None:
            raise JudgmentsInvalid(
                f"{path} line {number}: found {line[:80]!r}, expected {_QRELS_HEADER} with a whole "
                "number as score"
            )
        grades = qrels.setdefault(fields[0], {})
        if grades.setdefault(fields[1], grade) != grade:
            raise JudgmentsInvalid(
                f"{path} line {number}: query {fields[0]!r} and document {fields[1]!r} were judged "
                f"{grades[fields[1]]} before and {grade} here; keep one of the two"
            )
    if not any(grade > 0 for grades in qrels.values() for grade in grades.values()):
        raise JudgmentsInvalid(
            f"{path}: found {sum(map(len, qrels.values()))} judgments and none above 0; expected "
            "at least one relevant document"
        )
    return qrels


def _grade(text: str) -> int | None:
    try:
        value = float(text)
        return int(value) if value.is_integer() else None
    except ValueError:
        return None


def _read_queries(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(query id, text, the slices it belongs to) of every line."""
    for where, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise JudgmentsInvalid(f"{where}: expected the query's words as text")
        yield _id(row, where), text, _slices(row, where)


def _slices(row: Mapping[str, Any], where: str) -> list[str]:
    """`slice` as it is, and `name=value` for every piece of metadata that is one plain value."""
    named = row.get("slice") or []
    names = [named] if isinstance(named, str) else named
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise JudgmentsInvalid(f"{where}: expected slice to be a name or a list of names")
    metadata = row.get("metadata")
    if isinstance(metadata, dict):
        for name, value in metadata.items():
            if isinstance(value, bool):
                names = [*names, f"{name}={str(value).lower()}"]
            elif isinstance(value, str | int):
                names = [*names, f"{name}={value}"]
    return list(dict.fromkeys(names))


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSON Lines file with the place it was found at. Raises JudgmentsInvalid."""
    for number, line in _lines(path):
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise JudgmentsInvalid(f"{where} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise JudgmentsInvalid(f"{where}: expected an object in curly brackets")
        yield where, row


def _id(row: Mapping[str, Any], where: str) -> str:
    value = row.get("_id", row.get("id"))
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise JudgmentsInvalid(f"{where}: found no _id")
    return str(value)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that hold something, numbered from 1."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except FileNotFoundError:
        raise JudgmentsInvalid(f"{path} is missing; expected the folder to have it") from None
    except UnicodeDecodeError as error:
        raise JudgmentsInvalid(
            f"{path} is not UTF-8 (byte {error.object[error.start]:#04x}); save it as UTF-8"
        ) from None
    except OSError as error:
        raise JudgmentsInvalid(f"{path} cannot be read: {error.strerror}") from None
