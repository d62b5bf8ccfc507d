"""What the service answers, as frozen values.

A field that a newer service adds is passed over; one that is missing is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeVar

from search.client.errors import AnswerInvalid

Json = Mapping[str, Any]
Value = TypeVar("Value")
_WHOLE = {"whole": True}  # a field that takes everything that was answered


def read(kind: type[Value], answer: object) -> Value:
    """A value of this kind from JSON. Raises AnswerInvalid."""
    if not isinstance(answer, Mapping):
        raise AnswerInvalid(f"{kind.__name__} is expected, found {str(answer)[:80]!r}")
    given: dict[str, Any] = {}
    for item in fields(kind):  # type: ignore[arg-type]
        if item.metadata.get("whole"):
            given[item.name] = answer
        elif item.name in answer:
            found = answer[item.name]
            each = item.metadata.get("each")
            given[item.name] = found if each is None else tuple(read(each, one) for one in found)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise AnswerInvalid(
                f"{kind.__name__} without {item.name!r}, found {sorted(answer)}; is this address "
                "a `reindexer serve`?"
            )
    return kind(**given)


def read_many(kind: type[Value], answer: object) -> tuple[Value, ...]:
    """Raises AnswerInvalid."""
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise AnswerInvalid(f"a list of {kind.__name__} is expected, found {str(answer)[:80]!r}")
    return tuple(read(kind, one) for one in answer)


# -- search ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One document of an answer; what follows the ranks is there with `explain`."""

    rank: int  # from 1
    doc_id: str
    score: float
    title: str
    snippet: str
    metadata: Json
    lexical_rank: int | None
    dense_rank: int | None
    lexical_score: float | None = None
    dense_score: float | None = None
    contributions: Mapping[str, float] | None = None
    weights: Mapping[str, float] | None = None
    passage: int | None = None
    seq: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The hits of one query, all from one generation."""

    query_id: str
    query: str
    mode: str
    generation: str
    model: str
    degraded: Sequence[str]  # parts that failed: lexical, dense, corpus
    took_ms: Mapping[str, float]
    hits: tuple[Hit, ...] = field(metadata={"each": Hit})
    problems: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """One answer for each query, in the order they were sent."""

    generation: str
    model: str
    took_ms: float
    answers: tuple[Answer, ...] = field(metadata={"each": Answer})


# -- documents -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A document to put."""

    doc_id: str
    text: str
    title: str = ""
    metadata: Json = field(default_factory=dict)  # text, numbers, booleans, or lists of these

    def to_json(self) -> dict[str, Any]:
        return {
            "doc_id": self.doc_id,
            "text": self.text,
            "title": self.title,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredDocument:
    """A document as the corpus has it."""

    doc_id: str
    title: str
    text: str
    metadata: Json
    source: str
    seq: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What was stored."""

    added: int
    changed: int
    unchanged: int
    seq: int  # the corpus head right after
    visible: bool | None = None  # to queries, where that was waited for


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """What was deleted."""

    deleted: int
    seq: int
    visible: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RejectedLine:
    """A document of an upload that was not stored."""

    line: int  # from 1
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredLines:
    """What was stored of an upload, and what was not."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    lines: int = 0
    n_rejected: int = 0
    rejected: tuple[RejectedLine, ...] = field(default=(), metadata={"each": RejectedLine})
    seq: int = 0
    visible: bool | None = None


# -- feedback --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Feedback:
    """A click on a hit, or a judgment of it."""

    query_id: str
    doc_id: str
    kind: Literal["click", "judgment"] = "click"
    position: int | None = None
    value: float = 1.0

    def to_json(self) -> dict[str, Any]:
        found = {"query_id": self.query_id, "doc_id": self.doc_id, "kind": self.kind}
        if self.position is not None:
            found["position"] = self.position  # type: ignore[assignment]
        return {**found, "value": float(self.value)}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredFeedback:
    """What became of it."""

    stored: int
    not_sampled: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """It was stored."""

    stored: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Votes:
    """The votes between two generations."""

    one: str
    other: str
    votes: int
    one_better: int
    other_better: int
    neither: int


# -- operating -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Info:
    """What the process that answered answers from."""

    generation: str | None
    model: str | None
    head_seq: int
    problem: str | None
    open: Sequence[str]
    fingerprint: str | None = None
    dim: int | None = None
    watermark: int | None = None
    lexical_watermark: int | None = None
    indexed: float | None = None
    device: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The process can take queries."""

    status: str
    generation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """How far a build is."""

    build_id: int
    generation: str
    model: str
    state: str  # queued, running, paused, stopped, failed, cancelled or done
    docs_done: int
    docs_total: int
    docs_per_s: float
    eta_s: float | None
    lag_docs: int
    retries: int
    reason: str | None
    started_at: str
    updated_at: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """As `reindexer status --json`."""

    live: Json | None
    standby: Json | None
    builds: tuple[Build, ...] = field(metadata={"each": Build})
    searchers: Sequence[Json]
    workers: Sequence[str]
    corpus: Json
    json: Json = field(default_factory=dict, repr=False, metadata=_WHOLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """One searchable copy of the corpus. Of one by its name, `json` has recipe and verification."""

    generation: str
    state: str
    model: str
    collection: str
    watermark: int
    lag_docs: int
    documents: int
    disk_bytes: int | None
    created_at: str
    state_at: str
    json: Json = field(default_factory=dict, repr=False, metadata=_WHOLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A registered model version; of a damaged one only its name and what is wrong."""

    model: str
    fingerprint: str | None = None
    dim: int | None = None
    generations: Sequence[str] = ()
    problem: str | None = None
    json: Json = field(default_factory=dict, repr=False, metadata=_WHOLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class CutOver:
    """A switch that happened."""

    live_before: str | None
    live_after: str
    standby: str | None
    serving: Sequence[str]
    late: Sequence[str]
    prepare_s: float
    switch_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something that happened; `json` has what belongs to its kind."""

    id: int
    at: float  # Unix seconds
    kind: str
    generation: str | None
    who: str
    json: Json = field(default_factory=dict, repr=False, metadata=_WHOLE)
