"""What people thought of the answers: POST /feedback, POST /votes, GET /votes/summary."""

from __future__ import annotations

from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from search.access import needs
from search.api_openapi import problems
from search.api_schema import Body, Text
from search.api_search import check_batch
from search.documents import MAX_DOC_ID_BYTES
from search.feedback import Feedback
from search.service import Service
from search.threads import Threads

N_THREADS = 2
MAX_POSITION = 10_000
MAX_GRADE = 1_000.0

QueryId = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9._~:/+=@-]{1,128}$",
        description="`query_id` of the answer",
        examples=["q3f8Zk1x0aWm2LpE"],
    ),
]
GenerationName = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}@[0-9]{1,9}$", examples=["docs@7"])
]


class FeedbackBody(Body):
    """A click on a hit, or a judgment of it."""

    query_id: QueryId
    doc_id: str = Field(min_length=1, max_length=MAX_DOC_ID_BYTES)
    kind: Literal["click", "judgment"] = "click"
    position: int | None = Field(
        default=None,
        ge=1,
        le=MAX_POSITION,
        description="Where it was shown, from 1; where the answer had it unless given",
    )
    value: float = Field(
        default=1.0,
        ge=0,
        le=MAX_GRADE,
        description="The grade of a judgment, 0 for not relevant; 1 for a click",
    )


class StoredFeedback(BaseModel):
    """What became of it. What belongs to a query that the log left out is not kept."""

    stored: int
    not_sampled: int


class VoteBody(Body):
    """Which of two generations answered a query better; null for neither."""

    query: Text
    one: GenerationName
    other: GenerationName
    better: GenerationName | None


class Vote(BaseModel):
    """It was stored."""

    stored: Literal[1]


class Votes(BaseModel):
    """The votes between two generations."""

    one: str
    other: str
    votes: int
    one_better: int
    other_better: int
    neither: int


def router(service: Service) -> APIRouter:
    """Clicks, judgments and votes."""
    routes = APIRouter(tags=["feedback"], default_response_class=Response)
    threads = Threads("feedback", N_THREADS)
    may_ask = Depends(needs(service, "search"))

    @routes.post(
        "/feedback",
        dependencies=[may_ask],
        responses={200: {"model": StoredFeedback}, **problems(404, 409)},
    )
    async def post_feedback(
        request: Request, body: FeedbackBody | Annotated[list[FeedbackBody], Field(min_length=1)]
    ) -> Response:
        """Clicks and judgments of answers that this service gave: one, or a list of them. All are
        stored, or none."""
        bodies = body if isinstance(body, list) else [body]
        check_batch(service.limits, len(bodies), "clicks and judgments")
        items = [Feedback(**item.model_dump()) for item in bodies]
        stored = await threads.run(service.feedback.add, items, who=request.state.who)
        return _json(stored.to_json())

    @routes.post(
        "/votes", dependencies=[may_ask], responses={200: {"model": Vote}, **problems(404)}
    )
    async def post_vote(request: Request, body: VoteBody) -> Response:
        """A person compared what two generations answered to a query."""
        await threads.run(service.feedback.vote, **body.model_dump(), who=request.state.who)
        return _json({"stored": 1})

    @routes.get("/votes/summary", dependencies=[may_ask], responses={200: {"model": list[Votes]}})
    async def get_votes() -> Response:
        """How people voted, for every pair of generations."""
        return _json(await threads.run(service.feedback.votes))

    return routes


def _json(value: object) -> Response:
    return Response(orjson.dumps(value), media_type="application/json")
