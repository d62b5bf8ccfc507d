"""The client for code that runs in an event loop of asyncio."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Self, TypeVar, Unpack

import httpx

from search.client import calls, uploads, values
from search.client.answers import settle
from search.client.calls import Call, Query, SearchOptions
from search.client.connection import http_options, request_options
from search.client.event_lines import EventLines
from search.client.paging import MAX_HITS, Paging
from search.client.patience import Attempts, Outcome, Patience
from search.client.uploads import Progress
from search.client.waiting import is_done

Result = TypeVar("Result")


class AsyncSearchClient:
    """One service. May be used by several tasks of one loop; close it, or use it with
    `async with`.

    Every method raises ClientError; its subclasses are in `search.client.errors`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        token: str | None = None,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """token: of the service that owns a data directory, instead of a key. transport: of
        httpx, for proxies, certificates of one's own, and tests."""
        self._patience = Patience() if patience is None else patience
        self._http = httpx.AsyncClient(**http_options(base_url, api_key, token, transport))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    def within(self, seconds: float | None) -> Self:
        """The same client, over the same connections, with another deadline; None for none."""
        other = copy.copy(self)
        other._patience = self._patience.within(seconds)
        return other

    # -- search ----------------------------------------------------------------------------------

    async def search(self, query: str, **options: Unpack[SearchOptions]) -> values.Answer:
        """The k best documents for a query."""
        return await self._do(calls.search(query, options))

    async def search_batch(
        self, queries: Sequence[str | Query], *, generation: str | None = None
    ) -> values.Answers:
        """Many queries, encoded together and all answered from one generation."""
        return await self._do(calls.search_batch(queries, generation))

    async def iterate(
        self,
        query: str,
        *,
        page: int = 50,
        max_hits: int = MAX_HITS,
        **options: Unpack[SearchOptions],
    ) -> AsyncIterator[values.Hit]:
        """Hit after hit, best first, asked for as they are needed; all from one generation."""
        paging = Paging(query, page=page, max_hits=max_hits, options=options)
        while (call := paging.next_call()) is not None:
            for hit in paging.take(await self._do(call)):
                yield hit

    # -- documents -------------------------------------------------------------------------------

    async def put(
        self,
        documents: Sequence[values.Document],
        *,
        source: str | None = None,
        wait: bool = False,
    ) -> values.Stored:
        """Insert or replace documents, all or none. wait: until queries see them."""
        return await self._do(calls.put(documents, source, wait))

    async def put_one(
        self, document: values.Document, *, source: str | None = None, wait: bool = False
    ) -> values.Stored:
        return await self._do(calls.put_one(document, source, wait))

    async def upload(
        self,
        documents: Iterable[values.Document],
        *,
        source: str | None = None,
        wait: bool = False,
        on_progress: Callable[[Progress], None] = lambda _progress: None,
    ) -> values.StoredLines:
        """Any number of documents, with the memory of a thousand. What cannot be stored is told in
        `rejected` and holds up nothing; after an error, the same again stores what is missing."""
        stored, n_bytes = values.StoredLines(), 0
        for lot in uploads.cut_lots(documents):
            call = calls.put_lines(lot.lines, source, wait and lot.is_last)
            stored = uploads.add(stored, lot, await self._do(call))
            n_bytes += len(lot.lines)
            on_progress(uploads.progress(stored, n_bytes))
        return stored

    async def get(self, doc_id: str) -> values.StoredDocument:
        """The document as it was put last, visible to queries or not. Raises NotFound."""
        return await self._do(calls.get(doc_id))

    async def delete(self, doc_ids: Sequence[str], *, wait: bool = False) -> values.Deleted:
        """Ids that are not known are passed over."""
        return await self._do(calls.delete(doc_ids, wait))

    async def delete_one(self, doc_id: str, *, wait: bool = False) -> values.Deleted:
        return await self._do(calls.delete_one(doc_id, wait))

    # -- feedback --------------------------------------------------------------------------------

    async def feedback(self, *items: values.Feedback) -> values.StoredFeedback:
        """Clicks and judgments of answers that the service gave; all are stored, or none."""
        return await self._do(calls.feedback(items))

    async def vote(self, query: str, *, one: str, other: str, better: str | None) -> values.Vote:
        """Which of two generations answered a query better; None for neither."""
        return await self._do(calls.vote(query, one, other, better))

    async def votes(self) -> tuple[values.Votes, ...]:
        return await self._do(calls.votes())

    # -- operating -------------------------------------------------------------------------------

    async def info(self) -> values.Info:
        """What the process that answers answers from."""
        return await self._do(calls.info())

    async def ready(self) -> values.Ready:
        """Raises Unavailable, with the reason, when queries should not be sent here."""
        return await self._do(calls.ready())

    async def status(self) -> values.Status:
        return await self._do(calls.status())

    async def generations(self) -> tuple[values.Generation, ...]:
        return await self._do(calls.generations())

    async def generation(self, name: str) -> values.Generation:
        return await self._do(calls.generation(name))

    async def models(self) -> tuple[values.Model, ...]:
        return await self._do(calls.models())

    async def model(self, name: str) -> values.Model:
        """A version such as `support@4`, or the newest of a name."""
        return await self._do(calls.model(name))

    async def builds(self) -> tuple[values.Build, ...]:
        """Newest first."""
        return await self._do(calls.builds())

    async def build(self, build_id: int) -> values.Build:
        return await self._do(calls.build(build_id))

    async def start_build(
        self,
        model: str,
        *,
        cut_over: bool = False,
        evaluation: str | None = None,
        split: str | None = None,
    ) -> values.Build:
        """Ask for a build; a worker does it. cut_over: and switch when the gate has passed it."""
        return await self._do(calls.start_build(model, cut_over, evaluation, split))

    async def pause(self, build_id: int) -> values.Build:
        return await self._do(calls.change_build(build_id, "pause"))

    async def resume(self, build_id: int) -> values.Build:
        return await self._do(calls.change_build(build_id, "resume"))

    async def cancel(self, build_id: int) -> values.Build:
        return await self._do(calls.change_build(build_id, "cancel"))

    async def wait_for_build(
        self,
        build_id: int,
        *,
        timeout_s: float | None = None,
        look_s: float = 2.0,
        on_progress: Callable[[values.Build], None] = lambda _build: None,
    ) -> values.Build:
        """Until it is done. look_s: between two looks. Raises BuildFailed, DeadlinePassed."""
        began = time.monotonic()
        while not is_done(build := await self.build(build_id), began, timeout_s):
            on_progress(build)
            await asyncio.sleep(look_s)
        on_progress(build)
        return build

    async def cut_over(self, generation: str, *, override: str | None = None) -> values.CutOver:
        """Switch every serving process; returns when they answer from it. override: why, although
        a gate refuses it. Raises Conflict."""
        return await self._do(calls.cut_over(generation, override))

    async def rollback(self) -> values.CutOver:
        """Back to the standby generation; what was written since is in it."""
        return await self._do(calls.rollback())

    async def past_events(self, *, after: int = 0) -> tuple[values.Event, ...]:
        """The first 100 events after this one."""
        return await self._do(calls.events(after))

    async def events(self, *, after: int | None = None) -> AsyncIterator[values.Event]:
        """What happens, as it happens, without end: after this event, or else from now on. A stream
        that breaks is taken up where it broke; Unreachable when that fails several times."""
        lines = EventLines(after)
        call = calls.event_stream()
        attempts = Attempts(call=call, patience=self._patience)
        while True:
            attempts.begin()
            outcome: Outcome
            try:
                async with self._http.stream(**lines.begin()) as outcome:
                    if outcome.status_code == 200:
                        async for line in outcome.aiter_lines():
                            attempts.answered()
                            if (event := lines.feed(line)) is not None:
                                yield event
                        outcome = httpx.RemoteProtocolError("the stream has ended")
                    else:
                        await outcome.aread()
            except httpx.TransportError as error:
                outcome = error
            if (wait_s := attempts.wait_s(outcome)) is None:
                settle(call, attempts, outcome)
                return
            await asyncio.sleep(wait_s)

    # -- one call --------------------------------------------------------------------------------

    async def _do(self, call: Call[Result]) -> Result:
        attempts = Attempts(call=call, patience=self._patience)
        while True:
            outcome: Outcome
            try:
                timeout = attempts.begin()
                outcome = await self._http.request(**request_options(call), timeout=timeout)
            except httpx.TransportError as error:
                outcome = error
            if (wait_s := attempts.wait_s(outcome)) is None:
                return settle(call, attempts, outcome)
            await asyncio.sleep(wait_s)
