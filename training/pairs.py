"""Training pairs: what belongs together, and what only looks as if it did."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from training.errors import PairsInvalid
from training.whole_file import whole_file

_SHOWN_REJECTIONS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A query and a text that answers it. Raises PairsInvalid for an empty text, a score outside
    0..1, or a time that is no number."""

    anchor: str
    positive: str
    negatives: tuple[str, ...] = ()  # texts that look right and are not
    score: float | None = None  # 0..1, how well the positive fits; None where nobody graded it
    query_id: str | None = None
    doc_id: str | None = None  # of the positive
    group: str | None = None  # documents that belong together, such as one contract
    time_s: float | None = None  # Unix time of the judgment or click

    def __post_init__(self) -> None:
        if not self.anchor.strip():
            raise PairsInvalid("the anchor is empty")
        if not self.positive.strip():
            raise PairsInvalid("the positive is empty")
        if any(not negative.strip() for negative in self.negatives):
            raise PairsInvalid("a negative is empty")
        if self.score is not None and not 0 <= self.score <= 1:
            raise PairsInvalid(f"the score is {self.score:g}, expected 0 to 1")
        if self.time_s is not None and not math.isfinite(self.time_s):
            raise PairsInvalid(f"the time is {self.time_s}, expected seconds since 1970")

    def to_json(self) -> dict[str, Any]:
        """What is set, as it is written to a file."""
        value: dict[str, Any] = {"anchor": self.anchor, "positive": self.positive}
        if self.negatives:
            value["negatives"] = list(self.negatives)
        for name in ("score", "query_id", "doc_id", "group", "time_s"):
            if (found := getattr(self, name)) is not None:
                value[name] = found
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRow:
    """A pair and the place it was read from."""

    where: str  # pairs.jsonl:7
    pair: Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedRow:
    """A row that is left out. The rows after it are still read."""

    where: str  # pairs.jsonl:7
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"where": self.where, "reason": self.reason}


def text_key(text: str) -> str:
    """Equal for texts that differ in case, spacing, Unicode form or final punctuation only."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split()).rstrip(" .?!")


def text_digest(text: str) -> bytes:
    """16 bytes that are equal for texts of equal text_key."""
    return hashlib.blake2b(text_key(text).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Write one JSON object a line and return how many; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_pairs = 0
    with whole_file(path) as file:
        for pair in pairs:
            file.write(orjson.dumps(pair.to_json(), option=orjson.OPT_APPEND_NEWLINE))
            n_pairs += 1
    return n_pairs


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """SHA-256 (hex) of the pairs: the same for any order and any file format."""
    digests = sorted(
        hashlib.sha256(orjson.dumps(pair.to_json(), option=orjson.OPT_SORT_KEYS)).digest()
        for pair in pairs
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def read_pairs(path: Path | str, *, loss: str | None = None) -> list[Pair]:
    """The pairs of a JSONL, CSV, TSV or Parquet file, or of a Hugging Face dataset (a saved folder
    or a hub id), checked against what the loss needs.

    Training does not guess which rows are meant: raises PairsInvalid when a row cannot be used,
    with the first such places; when columns are missing, with the rename to make; and when the loss
    would learn something else than the pairs say.
    """
    from training.pair_columns import check_pairs  # both are built on Pair
    from training.pair_sources import open_pairs

    pairs: list[Pair] = []
    rejected: list[RejectedRow] = []
    for row in open_pairs(path, loss=loss):
        if isinstance(row, PairRow):
            pairs.append(row.pair)
        else:
            rejected.append(row)
    if rejected:
        shown = "; ".join(f"{row.where}: {row.reason}" for row in rejected[:_SHOWN_REJECTIONS])
        raise PairsInvalid(
            f"{len(rejected):,} of {len(pairs) + len(rejected):,} pairs cannot be used ({shown}). "
            f"Repair them, or leave them out: `reindexer pairs build {path} -o clean.jsonl`"
        )
    if not pairs:
        raise PairsInvalid(f"{path} holds no pair; expected at least one")
    if loss is not None:
        check_pairs(pairs, loss=loss, label=str(path))
    return pairs
