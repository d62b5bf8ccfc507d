"""The documents of record: put, read and delete."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
import pydantic
from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError

from search import api_schema as schema
from search.access import needs
from search.api_limits import STREAM_STALL_S, limits_of
from search.api_openapi import body_of, problems
from search.api_search import check_batch
from search.document_lines import LINES, LINES_BYTES, LineSplitter, Storing
from search.documents import DEFAULT_SOURCE, Document, validate_doc_id, validate_source
from search.errors import DocumentNotFound
from search.service import Service
from search.threads import Threads

# Writers wait for each other in the database anyway; those that are waited for have threads of
# their own, so that no stuck write keeps a document from being read.
N_WRITING = 4
N_READING = 2
WAIT_VISIBLE_S = 30.0  # or what is left until the deadline, if that is less

JSON_TYPES = ("application/json",)
LINES_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
Wait = Annotated[
    Literal["visible"] | None,
    Query(description="visible: answer once both legs of the live generation have it"),
]
Model = TypeVar("Model", bound=pydantic.BaseModel)


def router(service: Service) -> APIRouter:
    """Everything below /documents."""
    routes = APIRouter(tags=["documents"], default_response_class=Response)
    may_write = [Depends(needs(service, "write"))]
    may_read = [Depends(needs(service, "search"))]
    writing = Threads("write-documents", N_WRITING)
    reading = Threads("read-documents", N_READING)
    written = _Written(service)

    @routes.put(
        "/documents",
        dependencies=may_write,
        responses={**_answers(schema.Stored), **problems(409)},
        openapi_extra=body_of(schema.DocumentsBody),
    )
    async def put_documents(request: Request, wait: Wait = None) -> Response:
        """Insert or replace documents, all or none."""
        raw = await _json_body(request)

        def work() -> tuple[int, dict[str, int]]:
            body = _read(schema.DocumentsBody, raw)
            check_batch(service.limits, len(body.documents), "documents")
            return _put(
                service,
                [_document(item.doc_id, item, body.source) for item in body.documents],
            )

        return await written.answer(request, wait, *await writing.run(work))

    @routes.post(
        "/documents",
        dependencies=may_write,
        responses=_answers(schema.StoredLines),
        openapi_extra=body_of(schema.DocumentBody, media_type=LINES_TYPES[0]),
    )
    async def post_documents(
        request: Request,
        source: Annotated[str, Query(min_length=1)] = DEFAULT_SOURCE,
        wait: Wait = None,
    ) -> Response:
        """A stream of documents, one JSON object a line, stored some hundred lines at a time.

        A line that cannot be stored is told in `rejected` and holds up no other. When the
        connection breaks, what was stored until then stays: whole lots of lines, never a part of
        one. Sending the same stream again stores what is missing.
        """
        _check_type(request, LINES_TYPES)
        limits = limits_of(request)
        max_line_bytes, limits.max_body_bytes = service.limits.max_body_bytes, None
        storing = Storing(
            corpus=service.corpus,
            source=validate_source(source),
            max_line_bytes=max_line_bytes,
        )
        splitter = LineSplitter(max_line_bytes)
        lot: list[tuple[int, bytes | None]] = []
        lot_bytes = 0
        async for piece in request.stream():
            limits.renew_deadline(STREAM_STALL_S)
            for number, content in splitter.feed(piece):
                lot.append((number, content))
                lot_bytes += len(content or b"")
                if len(lot) >= LINES or lot_bytes >= LINES_BYTES:
                    await writing.run(storing.put, lot)
                    service.wrote(storing.head_seq)
                    limits.renew_deadline(STREAM_STALL_S)
                    lot, lot_bytes = [], 0
        lot += splitter.end()
        await writing.run(storing.put, lot)
        counts = storing.to_json()
        return await written.answer(request, wait, counts.pop("seq"), counts)

    @routes.post(
        "/documents/delete",
        dependencies=may_write,
        responses=_answers(schema.Deleted),
        openapi_extra=body_of(schema.DocIdsBody),
    )
    async def delete_documents(request: Request, wait: Wait = None) -> Response:
        """Delete documents; ids that are not known are passed over."""
        raw = await _json_body(request)

        def work() -> tuple[int, dict[str, int]]:
            body = _read(schema.DocIdsBody, raw)
            check_batch(service.limits, len(body.doc_ids), "doc_ids")
            return _delete(service, [validate_doc_id(doc_id) for doc_id in body.doc_ids])

        return await written.answer(request, wait, *await writing.run(work))

    @routes.put(
        "/documents/{doc_id:path}",
        dependencies=may_write,
        responses={**_answers(schema.Stored), **problems(409)},
        openapi_extra=body_of(schema.DocumentPut),
    )
    async def put_document(request: Request, doc_id: str, wait: Wait = None) -> Response:
        """Insert or replace one document."""
        doc_id = _in_path(request, doc_id)
        raw = await _json_body(request)

        def work() -> tuple[int, dict[str, int]]:
            body = _read(schema.DocumentPut, raw)
            return _put(service, [_document(doc_id, body, body.source)])

        return await written.answer(request, wait, *await writing.run(work))

    @routes.delete(
        "/documents/{doc_id:path}", dependencies=may_write, responses=_answers(schema.Deleted)
    )
    async def delete_document(request: Request, doc_id: str, wait: Wait = None) -> Response:
        """Delete one document; `deleted` is 0 when there was none."""
        doc_id = _in_path(request, doc_id)
        result = await writing.run(_delete, service, [doc_id])
        return await written.answer(request, wait, *result)

    @routes.get(
        "/documents/{doc_id:path}",
        dependencies=may_read,
        responses={200: {"model": schema.StoredDocument}, **problems(404)},
    )
    async def get_document(request: Request, doc_id: str) -> Response:
        """One document as the corpus has it: what was put last, visible to queries or not."""
        doc_id = _in_path(request, doc_id)
        change = (await reading.run(service.corpus.get_many, [doc_id])).get(doc_id)
        if change is None or change.document is None:
            raise DocumentNotFound(f"no document {doc_id!r}")
        document = change.document
        return _json(
            {
                "doc_id": document.doc_id,
                "title": document.title,
                "text": document.text,
                "metadata": dict(document.metadata),
                "source": document.source,
                "seq": change.seq,
            }
        )

    return routes


class _Written:
    """Answers to what was written: at once, or when it is visible."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._waiting = Threads("wait-visible", service.limits.max_concurrent)

    async def answer(
        self, request: Request, wait: str | None, seq: int, counts: Mapping[str, Any]
    ) -> Response:
        """202 with `visible` false when it was stored and has not become visible in time."""
        self._service.wrote(seq)
        if wait is None:
            return _json({**counts, "seq": seq})
        limits = limits_of(request)
        seconds = WAIT_VISIBLE_S
        if limits.deadline is not None:
            seconds = min(seconds, 0.9 * (limits.deadline - time.monotonic()))
        is_visible = False
        if self._service.manager.current is not None and seconds > 0:
            with limits.uncounted():
                is_visible = await self._waiting.run(self._service.wait_until_visible, seq, seconds)
        value = {**counts, "seq": seq, "visible": is_visible}
        return _json(value, status_code=200 if is_visible else 202)


def _answers(model: type[pydantic.BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"model": model},
        202: {"model": model, "description": "Stored; not visible within the time for waiting"},
    }


def _put(service: Service, documents: list[Document]) -> tuple[int, dict[str, int]]:
    result = service.corpus.put(documents, or_none=True)
    counts = {"added": result.added, "changed": result.changed, "unchanged": result.unchanged}
    return result.head_seq, counts


def _delete(service: Service, doc_ids: list[str]) -> tuple[int, dict[str, int]]:
    result = service.corpus.delete(doc_ids)
    return result.head_seq, {"deleted": result.deleted}


def _document(doc_id: str, body: schema.DocumentText, source: str) -> Document:
    return Document.of(
        doc_id=doc_id,
        text=body.text,
        title=body.title,
        metadata=body.metadata,
        source=source,
    )


def _read(model: type[Model], raw: bytes) -> Model:
    """The body as a value: parsed and checked in one go, off the event loop, since it may be
    large. Raises RequestValidationError."""
    try:
        return model.model_validate_json(raw)
    except pydantic.ValidationError as error:
        found = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(found) from None


async def _json_body(request: Request) -> bytes:
    _check_type(request, JSON_TYPES)
    return await request.body()


def _check_type(request: Request, types: Sequence[str]) -> None:
    """A page of another origin can have a browser send a form, and text, but none of these types
    without asking first. Raises HTTPException."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given not in types:
        raise HTTPException(415, f"the body is {given or 'of no type'}; send {types[0]}")


def _in_path(request: Request, doc_id: str) -> str:
    """The doc_id at the end of a path, which a server decodes whatever the bytes are."""
    raw = request.scope.get("raw_path")
    if "\ufffd" in doc_id and raw is not None:
        with contextlib.suppress(UnicodeDecodeError):
            unquote_to_bytes(raw).decode()
            return validate_doc_id(doc_id)
        raise RequestValidationError(
            [{"type": "utf8", "loc": ("path", "doc_id"), "msg": "not UTF-8, percent-encoded"}]
        )
    return validate_doc_id(doc_id)


def _json(value: object, *, status_code: int = 200) -> Response:
    return Response(orjson.dumps(value), status_code=status_code, media_type="application/json")
