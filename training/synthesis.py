"""Queries for documents that have none, written by a language model.

As in InPars (Bonifacio et al. 2022, https://arxiv.org/abs/2202.05144) and Promptagator (Dai et al.
2022, https://arxiv.org/abs/2209.11755): a model reads a document and writes queries for it, and a
query that does not lead back to its document is left out (the round trip).
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.errors import RequestFailed, TrainingError
from training.judgments import JudgedDocument
from training.llm_answers import AnswerFile, find_queries, request_key
from training.llm_calls import Completion, Endpoint, EndpointCalls
from training.pairs import Pair

MAX_DOCUMENT_CHARS = 6_000  # about 1,500 tokens: more than most embedding models read
MIN_QUERY_CHARS = 3
MAX_QUERY_CHARS = 400
COPIED_CHARS = 80  # a query of this length that stands in the document word by word
BYTES_PER_TOKEN = 4  # for the estimate; GPT-style vocabularies, English
TOKENS_PER_QUERY = 20  # for the estimate
TOKENS_PER_REQUEST = 10  # for the estimate: what the protocol adds

INSTRUCTIONS = """\
You write test queries for a search engine. You get one document of its collection. Write {n} \
queries that real people would type and that this document answers better than its neighbours do.

- Write in the language of the document, in the words of somebody who looks for this and has not \
read it, rather than in the document's own phrases.
- Let them differ: some a few keywords, some a whole question, some after a detail, some after the \
main point.
- Name what the query is about. Nobody types "this document", "the author" or "the study above".
- Ask only for what the document really tells."""

ANSWER_FORM = """\
Answer with a JSON list of {n} strings and nothing else: ["first query", "second query"]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens, as the endpoint counted them (or as they are expected)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted_requests: int = 0  # answered without a count

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            uncounted_requests=self.uncounted_requests + other.uncounted_requests,
        )

    def cost(self, prompt_price: float | None, completion_price: float | None) -> float | None:
        """In the currency of the prices, which are for a million tokens; None without them."""
        if prompt_price is None or completion_price is None:
            return None
        tokens = self.prompt_tokens * prompt_price + self.completion_tokens * completion_price
        return tokens / 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisTask:
    """What to ask for, and about which documents."""

    documents: tuple[JudgedDocument, ...]
    n_queries: int = 3  # for each document
    instructions: str = INSTRUCTIONS  # {n} in them becomes n_queries

    def messages(self, document: JudgedDocument) -> list[dict[str, str]]:
        asked = f"{self.instructions.strip()}\n\n{ANSWER_FORM}".replace("{n}", str(self.n_queries))
        return [
            {"role": "system", "content": asked},
            {"role": "user", "content": f"Document:\n\n{_shown(document)}"},
        ]

    def key(self, document: JudgedDocument, endpoint: Endpoint) -> str:
        return request_key(
            self.messages(document),
            model=endpoint.model,
            temperature=endpoint.temperature,
            n=self.n_queries,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisEstimate:
    """What a task will ask of the endpoint. Nothing was sent for it."""

    documents: int
    answered: int  # documents whose answer is kept from an earlier run
    requests: int
    usage: Usage  # expected, by the length of the texts


@dataclass(frozen=True, kw_only=True, slots=True)
class Synthesis:
    """What came of a task."""

    pairs: tuple[Pair, ...]
    documents: int
    answered_before: int  # documents whose answer was kept from an earlier run
    requests: int  # sent now, repeated ones included
    failed: Mapping[str, str]  # doc_id -> why there is no query for it
    rejected: Mapping[str, int]  # queries left out, by reason
    usage: Usage  # of the requests sent now


def choose_documents(
    documents: Iterable[JudgedDocument], *, without: frozenset[str] | set[str], limit: int | None
) -> list[JudgedDocument]:
    """Documents to write queries for: none that is in `without` (doc_ids) or empty, and at most
    `limit`. The choice is random but always the same, and a larger one contains a smaller one, so
    that the answers to the smaller one count."""
    open_documents = (
        document
        for document in documents
        if document.doc_id not in without and document.full_text.strip()
    )
    if limit is None:
        return list(open_documents)
    chosen = heapq.nsmallest(limit, open_documents, key=lambda document: _draw(document.doc_id))
    return sorted(chosen, key=lambda document: document.doc_id)


def estimate(task: SynthesisTask, endpoint: Endpoint, answers: Path) -> SynthesisEstimate:
    """What the task would ask now, with the answers of earlier runs at hand. Sends nothing."""
    usage = Usage()
    to_ask: set[str] = set()
    n_answered = 0
    with AnswerFile(answers) as kept:
        for document in task.documents:
            key = task.key(document, endpoint)
            if kept.get(key) is not None:
                n_answered += 1
            elif key not in to_ask:
                to_ask.add(key)
                usage += _expected(task, document)
    return SynthesisEstimate(
        documents=len(task.documents), answered=n_answered, requests=len(to_ask), usage=usage
    )


def synthesise(
    task: SynthesisTask,
    endpoint: Endpoint,
    answers: Path,
    on_progress: Callable[[int, Usage], None] | None = None,
) -> Synthesis:
    """Ask the endpoint for queries for every document, and make pairs of them.

    answers: the file that keeps every answer as it comes. Whatever stops this, running it again
    asks only for what is missing; a kill loses no more than the requests in flight. on_progress
    gets the number of documents done, and the tokens used so far. Not to be called inside a
    running event loop.

    Raises EndpointRefused and EndpointUnavailable when the endpoint cannot be used; TrainingError
    when no document got a query.
    """
    with AnswerFile(answers) as kept:
        run = _Run(task, endpoint, kept, on_progress or _ignore)
        asyncio.run(run.ask_all())
    pairs, rejected = _pairs(task, run.queries)
    if not pairs and task.documents:
        doc_id, reason = next(iter(run.failed.items()), ("", "every query was left out"))
        raise TrainingError(
            f"{endpoint.model} gave no usable query for any of {len(task.documents):,} documents, "
            f"such as {doc_id!r}: {reason}. Try another --llm-model or --llm-prompt"
        )
    return Synthesis(
        pairs=tuple(pairs),
        documents=len(task.documents),
        answered_before=run.answered_before,
        requests=run.requests,
        failed=run.failed,
        rejected=rejected,
        usage=run.usage,
    )


class _Run:
    """One pass over the documents of a task."""

    def __init__(
        self,
        task: SynthesisTask,
        endpoint: Endpoint,
        kept: AnswerFile,
        on_progress: Callable[[int, Usage], None],
    ) -> None:
        self.queries: dict[str, list[str]] = {}  # by doc_id, as the model wrote them
        self.failed: dict[str, str] = {}
        self.usage = Usage()
        self.requests = 0
        self.answered_before = 0
        self._task = task
        self._endpoint = endpoint
        self._kept = kept
        self._on_progress = on_progress

    async def ask_all(self) -> None:
        """Documents that read the same share one request."""
        alike: dict[str, list[JudgedDocument]] = {}
        for document in self._task.documents:
            alike.setdefault(self._task.key(document, self._endpoint), []).append(document)
        for key in list(alike):
            if (answer := self._kept.get(key)) is not None:
                documents = alike.pop(key)
                self.answered_before += len(documents)
                self._take(documents, find_queries(answer.text))
        self._report()
        if not alike:
            return
        waiting = iter(alike.items())  # shared by the workers
        async with EndpointCalls(self._endpoint) as calls:
            try:
                async with asyncio.TaskGroup() as workers:
                    for _ in range(min(self._endpoint.concurrency, len(alike))):
                        workers.create_task(self._work(calls, waiting))
            finally:
                self.requests = calls.n_requests
        if calls.stopped_by is not None:
            raise calls.stopped_by

    async def _work(
        self, calls: EndpointCalls, waiting: Iterator[tuple[str, list[JudgedDocument]]]
    ) -> None:
        """What stops one stops all, after the answers on their way: they cost as much."""
        for key, documents in waiting:
            try:
                self._take(documents, await self._ask(calls, key, documents[0]))
            except RequestFailed as error:
                self.failed.update({document.doc_id: str(error) for document in documents})
            except Exception as error:
                calls.stop(error)
                return
            self._report()

    async def _ask(self, calls: EndpointCalls, key: str, document: JudgedDocument) -> list[str]:
        """The queries of a new answer; asked once more when there are none in it."""
        messages = self._task.messages(document)
        for _ in range(2):
            answer = await calls.ask(messages)
            self.usage += _used(answer)
            if found := find_queries(answer.text):
                self._kept.put(key, answer)
                return found
        if not answer.whole:
            raise RequestFailed(
                f"the answer was cut at {self._endpoint.max_tokens:,} tokens before the first "
                "query; raise --llm-max-tokens"
            )
        start = " ".join(answer.text.split())[:80]
        raise RequestFailed(f"no queries in the answer, twice: {start!r}")

    def _take(self, documents: Iterable[JudgedDocument], queries: list[str]) -> None:
        self.queries.update({document.doc_id: queries for document in documents})

    def _report(self) -> None:
        self._on_progress(len(self.queries) + len(self.failed), self.usage)


def _pairs(
    task: SynthesisTask, queries: Mapping[str, Sequence[str]]
) -> tuple[list[Pair], dict[str, int]]:
    """Pairs of the queries worth keeping, and how many were left out, by reason. The order is that
    of the documents, whatever order the answers came in."""
    pairs: list[Pair] = []
    rejected: Counter[str] = Counter()
    seen: set[str] = set()
    for document in task.documents:
        n_kept = 0
        for written in queries.get(document.doc_id, ()):
            query = " ".join(written.split())
            if reason := _reason_to_reject(query, document, seen):
                rejected[reason] += 1
                continue
            if n_kept == task.n_queries:
                rejected["more than asked for"] += 1
                continue
            n_kept += 1
            seen.add(query.casefold())
            pairs.append(
                Pair(
                    anchor=query,
                    positive=document.full_text,
                    query_id=f"llm-{hashlib.sha256(query.encode()).hexdigest()[:12]}",
                    doc_id=document.doc_id,
                )
            )
    return pairs, dict(rejected)


def _reason_to_reject(query: str, document: JudgedDocument, seen: set[str]) -> str | None:
    if len(query) < MIN_QUERY_CHARS or not re.search(r"\w", query):
        return "empty"
    if len(query) > MAX_QUERY_CHARS:
        return "too long"
    if query.casefold() in seen:
        return "duplicate"
    text = " ".join(document.full_text.casefold().split())
    if query.casefold() == text or (len(query) >= COPIED_CHARS and query.casefold() in text):
        return "copied from the document"
    return None


def _shown(document: JudgedDocument) -> str:
    """What the language model reads of a document."""
    text = f"{document.title}\n\n{document.text}" if document.title else document.text
    return text[:MAX_DOCUMENT_CHARS]


def _draw(doc_id: str) -> bytes:
    return hashlib.sha256(doc_id.encode()).digest()


def _expected(task: SynthesisTask, document: JudgedDocument) -> Usage:
    n_bytes = sum(len(message["content"].encode()) for message in task.messages(document))
    return Usage(
        prompt_tokens=n_bytes // BYTES_PER_TOKEN + TOKENS_PER_REQUEST,
        completion_tokens=task.n_queries * TOKENS_PER_QUERY,
    )


def _used(answer: Completion) -> Usage:
    return Usage(
        prompt_tokens=answer.prompt_tokens or 0,
        completion_tokens=answer.completion_tokens or 0,
        uncounted_requests=int(answer.prompt_tokens is None),
    )


def _ignore(_done: int, _usage: Usage) -> None:
    """For a caller that wants no progress."""
