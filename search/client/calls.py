"""Every call of the API as a value: what is sent, and how what comes back is read.

Nothing here talks to anybody; `SearchClient` and `AsyncSearchClient` carry the calls out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import orjson

from search.client import values
from search.client.values import read, read_many

Result = TypeVar("Result")
Mode = Literal["hybrid", "dense", "lexical"]
Filter = Mapping[str, Any] | Sequence[Mapping[str, Any]]
LINES = "application/x-ndjson"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call(Generic[Result]):
    """One request, and how its answer is read."""

    method: Literal["GET", "PUT", "POST", "DELETE"]
    path: str  # as the OpenAPI document has it, with {names}
    read: Callable[[Any], Result]
    names: Mapping[str, str | int] = field(default_factory=dict)  # for the path
    params: Mapping[str, str | int] = field(default_factory=dict)
    body: Any = None  # JSON
    lines: bytes | None = None  # NDJSON, instead of a body
    may_repeat: bool = True  # asking again cannot do it twice, and may help
    has_deadline: bool = True  # False: it takes as long as it takes

    @property
    def url(self) -> str:
        """Path with its names filled in: no name can reach another path."""
        filled = {name: _quoted(str(value)) for name, value in self.names.items()}
        return self.path.format(**filled)

    @property
    def content(self) -> bytes | None:
        if self.lines is not None:
            return self.lines
        return None if self.body is None else orjson.dumps(self.body)

    @property
    def headers(self) -> dict[str, str]:
        if self.content is None:
            return {}
        return {"content-type": "application/json" if self.lines is None else LINES}


class SearchOptions(TypedDict, total=False):
    """What a query may say besides its text."""

    k: int  # hits wanted
    mode: Mode
    filter: Filter | None  # {"field": value | [any, of] | {"gte": 1}}, all must hold
    depth: int | None  # documents that each leg gives
    explain: bool
    generation: str | None  # instead of the live one, if the process has it open


class Query(TypedDict, total=False):
    """One query of a batch; `query` must be there."""

    query: str
    k: int
    mode: Mode
    filter: Filter | None
    depth: int | None
    explain: bool


# -- search ----------------------------------------------------------------------------------------


def search(query: str, options: SearchOptions) -> Call[values.Answer]:
    return Call(
        method="POST",
        path="/search",
        body={"query": query, **_given(options)},
        read=partial(read, values.Answer),
    )


def search_batch(queries: Sequence[str | Query], generation: str | None) -> Call[values.Answers]:
    asked = [{"query": one} if isinstance(one, str) else _given(one) for one in queries]
    return Call(
        method="POST",
        path="/search/batch",
        body={"queries": asked, **_given({"generation": generation})},
        read=partial(read, values.Answers),
    )


# -- documents -------------------------------------------------------------------------------------


def put(
    documents: Sequence[values.Document], source: str | None, wait: bool
) -> Call[values.Stored]:
    return Call(
        method="PUT",
        path="/documents",
        params=_wait(wait),
        body={
            "documents": [document.to_json() for document in documents],
            **_given({"source": source}),
        },
        read=partial(read, values.Stored),
    )


def put_one(document: values.Document, source: str | None, wait: bool) -> Call[values.Stored]:
    body = {**document.to_json(), **_given({"source": source})}
    doc_id = body.pop("doc_id")
    return Call(
        method="PUT",
        path="/documents/{doc_id}",
        names={"doc_id": doc_id},
        params=_wait(wait),
        body=body,
        read=partial(read, values.Stored),
    )


def put_lines(lines: bytes, source: str | None, wait: bool) -> Call[values.StoredLines]:
    """lines: one JSON document a line."""
    return Call(
        method="POST",
        path="/documents",
        params={**_given({"source": source}), **_wait(wait)},
        lines=lines,
        read=partial(read, values.StoredLines),
    )


def get(doc_id: str) -> Call[values.StoredDocument]:
    return Call(
        method="GET",
        path="/documents/{doc_id}",
        names={"doc_id": doc_id},
        read=partial(read, values.StoredDocument),
    )


def delete(doc_ids: Sequence[str], wait: bool) -> Call[values.Deleted]:
    return Call(
        method="POST",
        path="/documents/delete",
        params=_wait(wait),
        body={"doc_ids": list(doc_ids)},
        read=partial(read, values.Deleted),
    )


def delete_one(doc_id: str, wait: bool) -> Call[values.Deleted]:
    return Call(
        method="DELETE",
        path="/documents/{doc_id}",
        names={"doc_id": doc_id},
        params=_wait(wait),
        read=partial(read, values.Deleted),
    )


# -- feedback --------------------------------------------------------------------------------------


def feedback(items: Sequence[values.Feedback]) -> Call[values.StoredFeedback]:
    return Call(
        method="POST",
        path="/feedback",
        body=[item.to_json() for item in items],
        read=partial(read, values.StoredFeedback),
        may_repeat=False,
    )


def vote(query: str, one: str, other: str, better: str | None) -> Call[values.Vote]:
    return Call(
        method="POST",
        path="/votes",
        body={"query": query, "one": one, "other": other, "better": better},
        read=partial(read, values.Vote),
        may_repeat=False,
    )


def votes() -> Call[tuple[values.Votes, ...]]:
    return Call(method="GET", path="/votes/summary", read=partial(read_many, values.Votes))


# -- operating -------------------------------------------------------------------------------------


def info() -> Call[values.Info]:
    return Call(method="GET", path="/info", read=partial(read, values.Info))


def ready() -> Call[values.Ready]:
    return Call(method="GET", path="/readyz", read=partial(read, values.Ready), may_repeat=False)


def status() -> Call[values.Status]:
    return Call(method="GET", path="/status", read=partial(read, values.Status))


def generations() -> Call[tuple[values.Generation, ...]]:
    return Call(method="GET", path="/generations", read=partial(read_many, values.Generation))


def generation(name: str) -> Call[values.Generation]:
    return Call(
        method="GET",
        path="/generations/{name}",
        names={"name": name},
        read=partial(read, values.Generation),
    )


def models() -> Call[tuple[values.Model, ...]]:
    return Call(method="GET", path="/models", read=partial(read_many, values.Model))


def model(name: str) -> Call[values.Model]:
    return Call(
        method="GET",
        path="/models/{name}",
        names={"name": name},
        read=partial(read, values.Model),
    )


def builds() -> Call[tuple[values.Build, ...]]:
    return Call(method="GET", path="/builds", read=partial(read_many, values.Build))


def build(build_id: int) -> Call[values.Build]:
    return Call(
        method="GET",
        path="/builds/{build_id}",
        names={"build_id": build_id},
        read=partial(read, values.Build),
    )


def start_build(
    model: str, cut_over: bool, evaluation: str | None, split: str | None
) -> Call[values.Build]:
    return Call(
        method="POST",
        path="/builds",
        body={
            "model": model,
            "cut_over": cut_over,
            **_given({"evaluation": evaluation, "split": split}),
        },
        read=partial(read, values.Build),
        may_repeat=False,
        has_deadline=False,
    )


def change_build(build_id: int, verb: Literal["pause", "resume", "cancel"]) -> Call[values.Build]:
    return Call(
        method="POST",
        path=f"/builds/{{build_id}}/{verb}",
        names={"build_id": build_id},
        read=partial(read, values.Build),
        may_repeat=False,
        has_deadline=False,
    )


def cut_over(generation: str, override: str | None) -> Call[values.CutOver]:
    return Call(
        method="POST",
        path="/cutover",
        body={"generation": generation, **_given({"override": override})},
        read=partial(read, values.CutOver),
        may_repeat=False,
        has_deadline=False,
    )


def rollback() -> Call[values.CutOver]:
    return Call(
        method="POST",
        path="/rollback",
        read=partial(read, values.CutOver),
        may_repeat=False,
        has_deadline=False,
    )


def events(after: int) -> Call[tuple[values.Event, ...]]:
    return Call(
        method="GET",
        path="/events",
        params={"after": after},
        read=partial(read_many, values.Event),
    )


def event_stream() -> Call[None]:
    """The same path, asked for what happens from then on; `EventLines` reads it."""
    return Call(method="GET", path="/events", read=lambda _: None, has_deadline=False)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What is None is the service's to decide."""
    return {name: value for name, value in options.items() if value is not None}


def _wait(wait: bool) -> dict[str, str]:
    return {"wait": "visible"} if wait else {}


def _quoted(name: str) -> str:
    """One segment of a path, whatever is in it; dots too, since `..` means something there."""
    return quote(name, safe="").replace(".", "%2E")
