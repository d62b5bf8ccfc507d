"""What requests and answers look like: read into values here, and told by the OpenAPI document.

Answers are written as JSON directly and not checked against these on their way out; a test asks
every endpoint and compares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from search.answer import Mode, RunMode
from search.documents import DEFAULT_SOURCE, MAX_DOC_ID_BYTES
from search.query import MAX_DEPTH
from search.searcher import MAX_K, MAX_QUERY_CHARACTERS

MAX_BATCH = 10_000  # whatever the settings allow

Text = Annotated[str, Field(min_length=1, max_length=MAX_QUERY_CHARACTERS)]
K = Annotated[int, Field(ge=1, le=MAX_K, description="Hits wanted")]
Depth = Annotated[
    int | None,
    Field(ge=1, le=MAX_DEPTH, description="Documents that each leg gives, at least k"),
]
FilterJson = dict[str, Any] | list[dict[str, Any]] | None

_FILTER = Field(
    default=None,
    description='Conditions that must all hold: {"field": value | [any, of] | {"gte": 1}}; '
    "a list of such objects where one field has several conditions",
    examples=[{"year": {"gte": 2020}, "topic": ["virus", "vaccine"]}],
)
_GENERATION = Field(
    default=None, description="Ask this generation, if this process has it open; else live"
)


class Body(BaseModel):
    """What is sent. Nothing is guessed: a number is no text, and a field that is not known is
    refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


# -- search ----------------------------------------------------------------------------------------


class QueryBody(Body):
    """One of many queries."""

    query: Text = Field(examples=["how do vaccines work"])
    k: K = 10
    mode: Mode = "hybrid"
    filter: FilterJson = _FILTER
    depth: Depth = None
    explain: bool = Field(default=False, description="Say how each hit came to its place")


class SearchBody(QueryBody):
    """A query."""

    generation: str | None = _GENERATION


class BatchBody(Body):
    """Many queries, all answered from one generation."""

    queries: list[QueryBody] = Field(min_length=1, max_length=MAX_BATCH)
    generation: str | None = _GENERATION


class RunsBody(Body):
    """Many queries against one generation, for evaluation: ids only."""

    queries: list[str] = Field(max_length=MAX_BATCH)
    mode: RunMode = "hybrid"
    depth: int = Field(default=100, ge=1, le=MAX_K)
    generation: str | None = None


class LegsBody(Body):
    """Many queries against both legs of one generation, for fitting its fusion: ids and scores."""

    queries: list[str] = Field(max_length=MAX_BATCH)
    depth: int = Field(default=100, ge=1, le=MAX_K)
    generation: str | None = None


class VerifyBody(Body):
    """The generation to check."""

    generation: str


class Hit(BaseModel):
    """One document of an answer. With `explain`, also how it came to its place."""

    rank: int = Field(ge=1)
    doc_id: str
    score: float = Field(description="Fused; the leg's own when only one was asked for")
    title: str
    snippet: str
    metadata: dict[str, Any]
    lexical_rank: int | None
    dense_rank: int | None
    lexical_score: float | None = Field(default=None, description="BM25; with explain")
    dense_score: float | None = Field(default=None, description="Cosine; with explain")
    contributions: dict[str, float] | None = Field(default=None, description="With explain")
    weights: dict[str, float] | None = Field(default=None, description="With explain")
    passage: int | None = Field(default=None, description="Best passage, from 0; with explain")
    seq: int | None = Field(default=None, description="The document's change; with explain")


class Answer(BaseModel):
    """The hits of one query, all from one generation."""

    query_id: str = Field(description="Of this query, for feedback about its hits")
    query: str
    mode: Mode
    generation: str = Field(examples=["docs@7"])
    model: str = Field(examples=["support@4"])
    degraded: list[str] = Field(description="Parts that failed: lexical, dense, corpus")
    problems: dict[str, str] | None = Field(default=None, description="Why, by part; if any")
    took_ms: dict[str, float]
    hits: list[Hit]


class Answers(BaseModel):
    """One answer for each query, in the order they were sent."""

    generation: str
    model: str
    took_ms: float
    answers: list[Answer]


class Runs(BaseModel):
    """Ids, best first, for each query."""

    generation: str
    model: str
    mode: RunMode
    runs: list[list[str]]


Scored = Annotated[list[str | float], Field(min_length=2, max_length=2)]


class Legs(BaseModel):
    """[doc_id, score], best first, for each query and leg."""

    generation: str
    model: str
    lexical: list[list[Scored]]
    dense: list[list[Scored]]


class Verification(BaseModel):
    """What the structural checks found."""

    model_config = ConfigDict(extra="allow")

    generation: str
    passed: bool


# -- documents -------------------------------------------------------------------------------------

DocId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_DOC_ID_BYTES,
        description="Any text up to 512 bytes without control characters",
        examples=["faq/shipping"],
    ),
]


class DocumentText(Body):
    """A document without its id."""

    text: str = Field(examples=["Orders leave the warehouse within a day."])
    title: str = ""
    metadata: dict[str, Any] = Field(
        default_factory=dict,
        description="Text, numbers, booleans, or lists of these",
        examples=[{"topic": "shipping", "year": 2026}],
    )


class DocumentPut(DocumentText):
    """A document whose id is in the path."""

    source: str = Field(default=DEFAULT_SOURCE, min_length=1)


class DocumentBody(DocumentText):
    """A document."""

    doc_id: DocId


class DocumentsBody(Body):
    """Documents to put, all or none."""

    documents: list[DocumentBody] = Field(min_length=1, max_length=MAX_BATCH)
    source: str = Field(
        default=DEFAULT_SOURCE,
        min_length=1,
        description="Whose documents these are; a document of another source is not replaced",
    )


class DocIdsBody(Body):
    """Documents to delete, in one transaction; ids that are not known are passed over."""

    doc_ids: list[DocId] = Field(min_length=1, max_length=MAX_BATCH)


class _Written(BaseModel):
    seq: int = Field(description="The corpus head right after: wait for this to be visible")
    visible: bool | None = Field(
        default=None,
        description="With wait=visible: whether both legs of the live generation have it",
    )


class Stored(_Written):
    """What was stored."""

    added: int
    changed: int
    unchanged: int


class RejectedLine(BaseModel):
    """A line that was not stored."""

    line: int = Field(ge=1)
    reason: str


class StoredLines(Stored):
    """What was stored of a stream, and what was not."""

    lines: int
    n_rejected: int
    rejected: list[RejectedLine] = Field(description="The first 1,000 of them")


class Deleted(_Written):
    """What was deleted."""

    deleted: int


class StoredDocument(BaseModel):
    """A document as the corpus has it."""

    doc_id: str
    title: str
    text: str
    metadata: dict[str, Any]
    source: str
    seq: int


# -- the service -----------------------------------------------------------------------------------


class Info(BaseModel):
    """What this process answers from; null and left out before anything is live."""

    model_config = ConfigDict(extra="allow")

    generation: str | None
    model: str | None = Field(description="The exact version: name@number")
    fingerprint: str | None = Field(default=None, description="Of the model, 64 hex digits")
    dim: int | None = None
    watermark: int | None = Field(default=None, description="Last seq in the dense leg")
    lexical_watermark: int | None = Field(default=None, description="Last seq in the lexical leg")
    head_seq: int = Field(description="Last seq of the corpus")
    indexed: float | None = Field(
        default=None, description="Share of the passages that the ANN index covers, 0 to 1"
    )
    device: str | None = None
    problem: str | None = Field(description="Why replay waits, or the collection is not read")
    open: list[str] = Field(description="Generations that this process can answer from")


class Alive(BaseModel):
    """The process runs."""

    status: Literal["alive"]


class Ready(BaseModel):
    """The process can take queries."""

    status: Literal["ready"]
    generation: str


class Problem(BaseModel):
    """What went wrong (RFC 9457), with more members where there is more to say."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(
        default=None, description="Each place in the request that is not understood, and why"
    )
