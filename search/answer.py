"""What a searcher answers: values that know their JSON and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from search.documents import Value

Mode = Literal["hybrid", "dense", "lexical"]
RunMode = Literal["hybrid", "dense", "lexical", "hybrid-rrf"]  # the last: whatever was fitted
Part = Literal["lexical", "dense", "corpus"]  # what an answer may have to do without


class TookMs(NamedTuple):
    """Where the time of a query went, in milliseconds. Both legs may have gone on at once."""

    encode: float = 0.0
    lexical: float = 0.0
    dense: float = 0.0
    fuse: float = 0.0
    hydrate: float = 0.0
    total: float = 0.0

    def to_json(self) -> dict[str, float]:
        return {name: round(ms, 3) for name, ms in self._asdict().items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """How a hit came to its place."""

    lexical_score: float | None  # BM25; None: the lexical leg did not return the document
    dense_score: float | None  # cosine of the best passage
    contributions: Mapping[str, float]  # what each leg added to the fused score, by leg
    weights: Mapping[str, float]  # of each leg in the generation's fusion, by leg
    passage: int | None  # number of the best passage, from 0
    seq: int | None  # the document's change as the corpus has it now; None without the corpus

    def to_json(self) -> dict[str, Any]:
        return {
            "lexical_score": self.lexical_score,
            "dense_score": self.dense_score,
            "contributions": dict(self.contributions),
            "weights": dict(self.weights),
            "passage": self.passage,
            "seq": self.seq,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """One document of an answer."""

    rank: int  # from 1
    doc_id: str
    score: float  # fused; the leg's own (BM25 or cosine) when only one was asked for
    title: str
    snippet: str
    metadata: Mapping[str, Value]
    lexical_rank: int | None
    dense_rank: int | None
    explanation: Explanation | None = None

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "rank": self.rank,
            "doc_id": self.doc_id,
            "score": self.score,
            "title": self.title,
            "snippet": self.snippet,
            "metadata": dict(self.metadata),
            "lexical_rank": self.lexical_rank,
            "dense_rank": self.dense_rank,
        }
        if self.explanation is not None:
            value |= self.explanation.to_json()
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The hits of one query, all from one generation."""

    query: str
    mode: Mode
    generation: str  # docs@7
    model: str  # support@4
    hits: tuple[Hit, ...]
    took_ms: TookMs
    problems: Mapping[Part, str] = field(default_factory=dict)  # why a part is missing

    @property
    def degraded(self) -> list[Part]:
        """The parts that failed and that the answer does without; [] as a rule."""
        return list(self.problems)

    def to_json(self) -> dict[str, Any]:
        """The answer as the command line and the API print it; `problems` only when there are."""
        value: dict[str, Any] = {
            "query": self.query,
            "mode": self.mode,
            "generation": self.generation,
            "model": self.model,
            "degraded": self.degraded,
            "took_ms": self.took_ms.to_json(),
            "hits": [hit.to_json() for hit in self.hits],
        }
        if self.problems:
            value["problems"] = dict(self.problems)
        return value
