"""Training pairs: what belongs together, and what only looks as if it did."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from training.errors import PairsInvalid


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


def write_pairs(path: Path, pairs: Iterable[Pair]) -> int:
    """Write one JSON object a line and return how many; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    n_pairs = 0
    try:
        with unfinished.open("wb") as file:
            for pair in pairs:
                file.write(orjson.dumps(pair.to_json(), option=orjson.OPT_APPEND_NEWLINE))
                n_pairs += 1
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return n_pairs


def pairs_hash(pairs: Iterable[Pair]) -> str:
    """SHA-256 (hex) of the pairs: the same for any order and any file format."""
    digests = sorted(
        hashlib.sha256(orjson.dumps(pair.to_json(), option=orjson.OPT_SORT_KEYS)).digest()
        for pair in pairs
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def read_pairs(path: Path | str, *, loss: str | None = None) -> list[Pair]:
    """The pairs of a JSON Lines file, checked against what the loss needs.

    Raises PairsInvalid, naming the line.
    """
    del loss
    pairs = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if line.strip():
            try:
                row = orjson.loads(line)
                row["negatives"] = tuple(row.get("negatives") or ())
                pairs.append(Pair(**row))
            except (orjson.JSONDecodeError, TypeError, PairsInvalid) as error:
                raise PairsInvalid(f"{path}:{number}: {error}") from error
    return pairs
