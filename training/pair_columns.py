"""Which column of a file is the anchor, the positive and so on, and what each loss needs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from training.errors import PairsInvalid
from training.pairs import Pair
from training.record_values import document_ids, list_in_a_cell, texts_in, unix_time
from training.records import Record

# A column's own name counts before any of the usual other names, which are tried in no order: two
# of them in one file are a question for the user.
USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "anchor": ("query", "question", "text1", "sentence1", "sentence_a", "text_a", "claim"),
    "positive": (
        "pos", "passage", "answer", "document", "context", "response", "text2", "sentence2",
        "sentence_b", "text_b", "positive_passage", "positive_passages", "positives", "text",
    ),
    "negatives": ("negative", "neg", "hard_negative", "hard_negatives", "negative_passages"),
    "score": ("label", "similarity", "similarity_score", "relevance"),
    "query_id": ("qid",),
    "doc_id": ("docid", "corpus_id", "passage_id", "pid"),
    "group": ("group_id",),
    "time_s": ("time", "timestamp"),
}  # fmt: skip
_NUMBERED_NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?_?\d+")

NEEDED: Mapping[str, tuple[str, ...]] = {  # by loss
    "mnrl": ("anchor", "positive"),
    "cached-mnrl": ("anchor", "positive"),
    "gist": ("anchor", "positive"),
    "triplet": ("anchor", "positive", "negatives"),
    "cosent": ("anchor", "positive", "score"),
}
MATCH_SCORE = 0.5  # pairs below are no match, and only cosent may learn from them
_EXAMPLES: Mapping[str, object] = {
    "anchor": "the query",
    "positive": "a text that answers it",
    "negatives": ["a text that does not"],
    "score": 0.8,
}


@dataclass(frozen=True, kw_only=True)
class PairColumns:
    """Makes pairs of records, once it is known which column plays which role."""

    columns: Mapping[str, tuple[str, ...]]  # by role; only negatives may have more than one
    score_max: float = 1.0  # a score of so much is 1

    @classmethod
    def of(
        cls,
        found: Sequence[str],
        *,
        label: str,
        loss: str | None = None,
        rename: Mapping[str, str] | None = None,
        score_max: float = 1.0,
        sample: Sequence[Record] = (),
    ) -> PairColumns:
        """found: the columns of the file. rename: role by column. sample: a few records, to propose
        the right rename.

        Raises PairsInvalid when the loss needs a column that is not there, or when it is not clear
        which one is meant; the message is the rename to make.
        """
        rename = dict(rename or {})
        needed = needed_columns(loss)
        for column, role in rename.items():
            if role not in USUAL_NAMES:
                raise PairsInvalid(
                    f"--rename {column}={role}: there is no column {role!r}; expected one of "
                    f"{', '.join(USUAL_NAMES)}"
                )
            if column not in found:
                raise PairsInvalid(
                    f"--rename {column}={role}: {label} has no column {column!r}; it has "
                    f"{', '.join(found)}"
                )
        columns: dict[str, tuple[str, ...]] = {}
        for role in USUAL_NAMES:
            columns[role] = _columns_of(role, found, rename, label)
        missing = [role for role in needed if not columns[role]]
        if missing:
            raise PairsInvalid(_missing_message(missing, columns, found, label, loss, sample))
        return cls(
            columns={role: names for role, names in columns.items() if names}, score_max=score_max
        )

    @property
    def renamed(self) -> dict[str, str]:
        """Role by column, of the columns that were read under another name."""
        return {
            name: role for role, names in self.columns.items() for name in names if name != role
        }

    def pairs(self, record: Record) -> Iterator[Pair]:
        """One pair a positive; most records have one. Raises PairsInvalid with the reason."""
        (anchor,) = self._texts(record, "anchor", most=1)
        doc_ids = document_ids(self._value(record, "positive"))
        positives = self._texts(record, "positive")
        for positive, doc_id in zip(positives, doc_ids or [None] * len(positives), strict=True):
            yield Pair(
                anchor=anchor,
                positive=positive,
                negatives=tuple(self._negatives(record)),
                score=self._score(record),
                query_id=self._id(record, "query_id"),
                doc_id=doc_id or self._id(record, "doc_id"),
                group=self._id(record, "group"),
                time_s=unix_time(self._value(record, "time_s")),
            )

    def _value(self, record: Record, role: str) -> object:
        names = self.columns.get(role, ())
        return record.get(names[0]) if names else None

    def _texts(self, record: Record, role: str, *, most: int | None = None) -> list[str]:
        name = self.columns[role][0]
        value = record.get(name)
        texts = list(texts_in(value, role if name == role else f"{role} ({name})"))
        if not texts:
            raise PairsInvalid(f"the {role} is empty")
        if most is not None and len(texts) > most:
            raise PairsInvalid(f"the {role} is a list of {len(texts)}, expected one text")
        return texts

    def _negatives(self, record: Record) -> Iterator[str]:
        for name in self.columns.get("negatives", ()):
            value = record.get(name)
            if value is None or value == "":
                continue
            if isinstance(value, str) and value.lstrip().startswith("["):
                value = list_in_a_cell(value)
            yield from texts_in(value, "negatives" if name == "negatives" else f"negative ({name})")

    def _score(self, record: Record) -> float | None:
        value = self._value(record, "score")
        if value is None or value == "":
            return None
        if not isinstance(value, str | int | float):
            raise PairsInvalid(f"the score is a {type(value).__name__}, expected a number")
        try:
            score = float(value) / self.score_max
        except ValueError:
            raise PairsInvalid(f"the score is {value!r}, expected a number from 0 to 1") from None
        if score > 1:
            raise PairsInvalid(
                f"the score is {value}, expected 0 to {self.score_max:g}; say with --score-max "
                "which score is the best one"
            )
        return score

    def _id(self, record: Record, role: str) -> str | None:
        value = self._value(record, role)
        if value is None or value == "":
            return None
        if isinstance(value, str | int):
            return str(value)
        raise PairsInvalid(f"the {role} is a {type(value).__name__}, expected text")


def needed_columns(loss: str | None) -> tuple[str, ...]:
    """What a loss cannot do without. Raises PairsInvalid for a loss that does not exist."""
    if loss is None:
        return NEEDED["mnrl"]
    if loss not in NEEDED:
        raise PairsInvalid(f"there is no loss {loss!r}; expected one of {', '.join(NEEDED)}")
    return NEEDED[loss]


def check_pairs(pairs: Sequence[Pair], *, loss: str, label: str) -> None:
    """Raises PairsInvalid when pairs lack what the loss needs, or when it would take pairs that
    were graded as no match for matches."""
    needed = needed_columns(loss)
    if "negatives" in needed and (at := _first(pairs, lambda pair: not pair.negatives)) is not None:
        raise PairsInvalid(
            f"pair {at + 1:,} of {label} has no negative and {loss} needs at least one of each: "
            f"{_example('anchor', 'positive', 'negatives')}. Use --loss mnrl, which needs none"
        )
    if "score" in needed:
        if (at := _first(pairs, lambda pair: pair.score is None)) is not None:
            raise PairsInvalid(
                f"pair {at + 1:,} of {label} has no score and {loss} needs one of each, 0 to 1: "
                f"{_example('anchor', 'positive', 'score')}. Use --loss mnrl, which needs none"
            )
    else:
        n_low = sum(pair.score is not None and pair.score < MATCH_SCORE for pair in pairs)
        if n_low:
            raise PairsInvalid(
                f"{n_low:,} of {len(pairs):,} pairs of {label} have a score under "
                f"{MATCH_SCORE:g}, and {loss} would learn them as matches. Keep those that match "
                f"(`reindexer pairs build {label} --min-score {MATCH_SCORE:g} -o matches.jsonl`), "
                "or learn the scores with --loss cosent"
            )


def _columns_of(
    role: str, found: Sequence[str], rename: Mapping[str, str], label: str
) -> tuple[str, ...]:
    named = tuple(column for column in found if rename.get(column) == role)
    if named and (role == "negatives" or len(named) == 1):
        return named
    free = [column for column in found if column not in rename]
    if role in free and not named:
        return (role,)
    usual = named or tuple(column for column in free if _plain(column) in USUAL_NAMES[role])
    if role == "negatives":
        return usual or tuple(name for name in free if _NUMBERED_NEGATIVE.fullmatch(_plain(name)))
    if role == "positive" and len(usual) > 1 and not named:
        usual = tuple(column for column in usual if _plain(column) != "text") or usual
    if len(usual) > 1:
        choices = " or ".join(f"--rename {column}={role}" for column in usual)
        raise PairsInvalid(
            f"{label} has {' and '.join(usual)}, and each of them could be the {role}; say which: "
            f"{choices}"
        )
    return usual


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _missing_message(
    missing: Sequence[str],
    columns: Mapping[str, tuple[str, ...]],
    found: Sequence[str],
    label: str,
    loss: str | None,
    sample: Sequence[Record],
) -> str:
    needed = needed_columns(loss)
    taken = {name for names in columns.values() for name in names}
    free = _by_length([name for name in found if name not in taken], sample)
    renames = [
        f"--rename {name}={role}"
        for role, name in zip(missing, free, strict=False)
        if role in ("anchor", "positive")
    ]
    for_loss = f" for --loss {loss}" if loss else ""
    text = (
        f"{label} has the columns {', '.join(found) or '(none)'}; expected "
        f"{', '.join(needed)}{for_loss}, and no column is known as {' or '.join(missing)}. "
    )
    if len(renames) == len(missing):
        return (
            text + f"Say which is which: `reindexer pairs build {label} {' '.join(renames)} "
            "-o pairs.jsonl`"
        )
    return text + f"A line of the file should look like {_example(*needed)}"


def _by_length(columns: Sequence[str], sample: Sequence[Record]) -> list[str]:
    """Columns that hold text, shortest texts first: queries are shorter than what answers them."""
    lengths: dict[str, float] = {}
    for name in columns:
        texts = [value for record in sample if isinstance(value := record.get(name), str)]
        if texts:
            lengths[name] = sum(map(len, texts)) / len(texts)
    return sorted(lengths, key=lambda name: lengths[name])


def _example(*roles: str) -> str:
    return orjson.dumps({role: _EXAMPLES[role] for role in roles}).decode()


def _first(pairs: Sequence[Pair], test: Any) -> int | None:
    return next((at for at, pair in enumerate(pairs) if test(pair)), None)
