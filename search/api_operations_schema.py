"""What requests to operate look like, and what comes back: the fields that every answer has."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from search.api_schema import Body


class Answer(BaseModel):
    """What comes back may say more than is promised here."""

    model_config = ConfigDict(extra="allow")


class BuildBody(Body):
    """A build to ask for."""

    model: str = Field(
        min_length=1,
        max_length=200,
        description="A registered version, or a name for its newest",
        examples=["support@4"],
    )
    cut_over: bool = Field(default=False, description="Switch to it when the gate has passed it")
    evaluation: str | None = Field(
        default=None,
        min_length=1,
        max_length=1_000,
        description="Folder of judged queries inside operate.evaluation_dir: the gate checks "
        "quality too",
    )
    split: str = Field(default="test", pattern=r"^[A-Za-z0-9_.-]{1,64}$")


class CutOverBody(Body):
    """A switch to ask for."""

    generation: str = Field(min_length=1, max_length=200, examples=["docs@7"])
    override: str | None = Field(
        default=None,
        min_length=1,
        max_length=1_000,
        description="Why it may go live although a gate refuses it; this is recorded",
    )


class Status(Answer):
    """As `status --json`."""

    live: dict[str, Any] | None
    standby: dict[str, Any] | None
    builds: list[Build]
    searchers: list[dict[str, Any]]
    workers: list[str]
    corpus: dict[str, Any]


class Build(Answer):
    """As in `status --json`."""

    build_id: int
    generation: str
    model: str
    state: str = Field(
        description="queued, running, paused, stopped (its process is gone), failed, cancelled or "
        "done"
    )
    docs_done: int
    docs_total: int
    docs_per_s: float
    eta_s: float | None
    lag_docs: int
    retries: int
    reason: str | None
    started_at: str
    updated_at: str


class Generation(Answer):
    """As in `generations --json`."""

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


class GenerationDetail(Generation):
    """As `generations show --json`."""

    dtype: str | None = Field(description="float or int8: what its rows were computed in")
    recipe: dict[str, Any]
    verified: dict[str, Any] | None
    votes: list[dict[str, Any]] = Field(
        description="As of now, against each other generation: against, mine, theirs, neither"
    )
    build: dict[str, Any] | None


class Model(Answer):
    """As in `models --json`; of a damaged version only its name and what is wrong."""

    model: str
    fingerprint: str | None = None
    dim: int | None = None
    generations: list[str] = []
    problem: str | None = None


class CutOver(Answer):
    """As `cutover --json`."""

    live_before: str | None
    live_after: str
    standby: str | None
    serving: list[str]
    late: list[str]
    prepare_s: float
    switch_s: float


class Event(Answer):
    """Something that happened, with what belongs to its kind."""

    id: int
    at: float = Field(description="Unix seconds")
    kind: str
    generation: str | None
    who: str


Status.model_rebuild()
