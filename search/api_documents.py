"""Documents of record over HTTP."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from search.api_problem import problem
from search.documents import DEFAULT_SOURCE, Document
from search.errors import WrongState
from search.service import Service

MAX_DOCUMENTS = 1_000
WAIT_VISIBLE_S = 30.0


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DocumentBody(_Body):
    """A document to put."""

    doc_id: str
    text: str
    title: str = ""
    metadata: dict[str, Any] = Field(default_factory=dict)


class DocumentsBody(_Body):
    """Documents to put, all or none."""

    documents: list[DocumentBody] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    source: str = DEFAULT_SOURCE


def router(service: Service) -> APIRouter:
    """Put, read and delete documents."""
    routes = APIRouter()

    @routes.put("/documents")
    def put_documents(body: DocumentsBody, wait: Literal["visible"] | None = None) -> Any:
        documents = [
            Document.of(
                doc_id=item.doc_id,
                text=item.text,
                title=item.title,
                metadata=item.metadata,
                source=body.source,
            )
            for item in body.documents
        ]
        result = service.corpus.put(documents)
        if result.refused:
            doc_id, owner = next(iter(result.refused.items()))
            raise WrongState(
                f"document {doc_id!r} belongs to source {owner!r}, not {body.source!r}; "
                f"{len(result.refused)} of {len(documents)} documents were not stored"
            )
        return _written(
            service,
            wait,
            result.head_seq,
            {
                "added": result.added,
                "changed": result.changed,
                "unchanged": result.unchanged,
            },
        )

    @routes.delete("/documents/{doc_id:path}")
    def delete_document(doc_id: str, wait: Literal["visible"] | None = None) -> Any:
        result = service.corpus.delete([doc_id])
        return _written(service, wait, result.head_seq, {"deleted": result.deleted})

    @routes.get("/documents/{doc_id:path}")
    def get_document(doc_id: str) -> Any:
        change = service.corpus.get_many([doc_id]).get(doc_id)
        if change is None or change.document is None:
            return problem(404, "No such document", f"no document {doc_id!r}")
        document = change.document
        return {
            "doc_id": document.doc_id,
            "title": document.title,
            "text": document.text,
            "metadata": dict(document.metadata),
            "source": document.source,
            "seq": change.seq,
        }

    return routes


def _written(service: Service, wait: str | None, seq: int, counts: dict[str, Any]) -> Any:
    service.wrote(seq)
    answer = {**counts, "seq": seq}
    if wait == "visible":
        answer["visible"] = service.wait_until_visible(seq, WAIT_VISIBLE_S)
    return answer
