"""One query on its way through a searcher."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from search import traces
from search.answer import Answer, Explanation, Hit, Part, RunMode, TookMs
from search.dense import DenseHit, FloatVector, SearchesAside
from search.documents import Change, Document, Filter, Value
from search.errors import DeadlineExceeded, InvalidQuery, SearchError
from search.fusion import Fused, contributions, fuse
from search.recipe import FusionRecipe
from search.snippet import query_words, snippet
from training.errors import TrainingError

if TYPE_CHECKING:
    from search.lexical import LexicalHit
    from search.searcher import Searcher, SearchRequest

log = logging.getLogger(__name__)

MAX_DEPTH = 10_000  # documents from each leg

_REFILL = 50  # candidates looked up at once, when some of the first k are gone
_DEEPER = 4  # times the depth, when tombstones have used up what the legs gave
_NO_METADATA: Mapping[str, Value] = MappingProxyType({})


@runtime_checkable
class BothLegs(Protocol):
    """A lexical leg where the vectors are; `search.lexical_qdrant.QdrantLexical` is one."""

    def search_both(
        self, query: str, vector: FloatVector, k: int, where: Filter = ()
    ) -> tuple[list[LexicalHit], list[DenseHit]]: ...


class Query:
    """What is known of one query so far. Used once, by one thread."""

    def __init__(
        self,
        searcher: Searcher,
        request: SearchRequest,
        *,
        vector: FloatVector | None = None,
        until: float | None = None,
    ) -> None:
        """vector: of the query, if it was encoded together with others.
        until: time.monotonic() from when on nobody waits for the answer."""
        self._searcher = searcher
        self._request = request
        self._began = time.perf_counter()
        self._took_ms: dict[str, float] = {}
        self._errors: dict[Part, Exception] = {}
        self._fusion = searcher.recipe.fusion
        self._depth = request.leg_depth(self._fusion)
        self._vector = vector
        self._until = until
        self._lexical: Sequence[LexicalHit] = ()
        self._dense: Sequence[DenseHit] = ()

    def answer(self) -> Answer:
        request, searcher = self._request, self._searcher
        with traces.span("search", generation=searcher.generation, mode=request.mode, k=request.k):
            return self._answer(request, searcher)

    def _answer(self, request: SearchRequest, searcher: Searcher) -> Answer:
        self._ask_legs()
        found = self._find()
        while len(found) < request.k and self._is_more():
            self._depth = min(self._depth * _DEEPER, MAX_DEPTH)
            self._ask_legs()
            found = self._find()
        hits = self._hits(found)
        return Answer(
            query=request.query,
            mode=request.mode,
            generation=searcher.generation,
            model=searcher.model,
            hits=hits,
            took_ms=TookMs(**self._took_ms, total=(time.perf_counter() - self._began) * 1e3),
            problems={part: str(error) for part, error in self._errors.items()},
        )

    # -- the two legs --------------------------------------------------------------------------

    def _ask_legs(self) -> None:
        # In one process one after the other: a second thread was measured and gains nothing over
        # 100,000 documents, where a leg takes a millisecond and keeps Python's lock.
        mode = self._request.mode
        if mode == "hybrid" and not self._errors and self._asked_both():
            self._check_time()
            return
        with contextlib.ExitStack() as stack:
            ask_dense = self._ask_dense
            if mode == "hybrid" and not self._errors:
                with self._may_fail("dense"):
                    ask_dense = self._begin_dense(stack)
            if mode != "dense" and "lexical" not in self._errors:
                with self._may_fail("lexical"), self._timed("lexical"):
                    self._lexical = self._searcher.lexical.search(
                        self._request.query, self._depth, self._request.where
                    )
            if mode != "lexical" and "dense" not in self._errors:
                self._check_time()
                with self._may_fail("dense"):
                    self._dense = ask_dense()
        self._check_time()
        failed = [part for part in ("lexical", "dense") if part in self._errors]
        if len(failed) == (2 if mode == "hybrid" else 1):
            error = self._errors[failed[-1]]
            for part in failed[:-1]:
                error.add_note(f"and the {part} leg: {self._errors[part]}")
            raise error

    def _asked_both(self) -> bool:
        """Whether one request has been the answer of both legs; where it fails, each by itself
        shows what it still can."""
        leg = self._searcher.lexical
        if not isinstance(leg, BothLegs):
            return False
        request = self._request
        try:
            vector = self._encoded()
            with self._timed("dense"):  # the lexical leg took no time of its own
                self._lexical, self._dense = leg.search_both(
                    request.query, vector, self._depth, request.where
                )
        except (SearchError, TrainingError) as error:
            if isinstance(error, InvalidQuery):
                raise
            log.info("%s: not both legs at once: %s", self._searcher.generation, error)
            return False
        return True

    def _ask_dense(self) -> Sequence[DenseHit]:
        vector = self._encoded()
        with self._timed("dense"):
            return self._searcher.collection.search(vector, self._depth, self._request.where)

    def _begin_dense(self, stack: contextlib.ExitStack) -> Callable[[], Sequence[DenseHit]]:
        """Where the collection can, it searches while the lexical leg is asked."""
        collection = self._searcher.collection
        if not isinstance(collection, SearchesAside):
            return self._ask_dense
        vector, began = self._encoded(), time.perf_counter()
        hits = stack.enter_context(
            collection.begin_search(vector, self._depth, self._request.where)
        )

        def wait() -> Sequence[DenseHit]:
            with self._timed("dense", began):
                return hits()

        return wait

    def _encoded(self) -> FloatVector:
        if self._vector is None:
            with self._timed("encode"):
                self._vector = self._searcher.encode([self._request.query])[0]
        return self._vector

    def _is_more(self) -> bool:
        """Whether a leg has more documents to give than it was asked for."""
        return self._depth < MAX_DEPTH and max(len(self._lexical), len(self._dense)) >= self._depth

    # -- the documents -------------------------------------------------------------------------

    def _find(self) -> list[tuple[Fused, Change | None]]:
        """The k best that are there, with what the corpus has; None for that without a corpus."""
        k = self._request.k
        ranked = self._rank(k)
        found = self._existing(ranked)
        if len(found) < len(ranked):
            rest = self._rank(len(self._lexical) + len(self._dense))[k:]
            n = max(k, _REFILL)
            while rest and len(found) < k:
                found += self._existing(rest[:n])
                rest = rest[n:]
        return found[:k]

    def _rank(self, k: int) -> list[Fused]:
        with self._timed("fuse"):
            return rank(
                self._request.mode, self._lexical, self._dense, self._fusion, k, depth=self._depth
            )

    def _existing(self, ranked: Sequence[Fused]) -> list[tuple[Fused, Change | None]]:
        """Those that the corpus still has and that match the filter as they are now: a leg may be
        some changes behind."""
        if "corpus" not in self._errors:
            with self._may_fail("corpus"), self._timed("hydrate"):
                changes = self._searcher.corpus.get_many([place.doc_id for place in ranked])
                return [
                    (place, change)
                    for place in ranked
                    if (change := changes.get(place.doc_id)) is not None
                    and change.document is not None
                    and all(
                        condition.matches(change.document.metadata)
                        for condition in self._request.where
                    )
                ]
        return [(place, None) for place in ranked]

    def _hits(self, found: Sequence[tuple[Fused, Change | None]]) -> tuple[Hit, ...]:
        with self._timed("hydrate"):
            words = query_words(self._request.query)
            wanted = {place.doc_id for place, _ in found}
            dense = {hit.doc_id: hit for hit in self._dense if hit.doc_id in wanted}
            hits = [
                self._hit(rank, place, change, dense.get(place.doc_id), words)
                for rank, (place, change) in enumerate(found, 1)
            ]
        if self._request.explain:
            hits = self._explained(hits, found, dense)
        return tuple(hits)

    def _hit(
        self,
        rank: int,
        place: Fused,
        change: Change | None,
        dense: DenseHit | None,
        words: Sequence[str],
    ) -> Hit:
        document = change.document if change is not None else None
        title, shown, metadata = "", "", _NO_METADATA
        if change is not None and document is not None:
            title, metadata = document.title, document.metadata
            shown = snippet(_passage(document, dense, change.seq), words)
        return Hit(
            rank=rank,
            doc_id=place.doc_id,
            score=place.score,
            title=title,
            snippet=shown,
            metadata=metadata,
            lexical_rank=place.lexical_rank,
            dense_rank=place.dense_rank,
        )

    def _explained(
        self,
        hits: Sequence[Hit],
        found: Sequence[tuple[Fused, Change | None]],
        dense: Mapping[str, DenseHit],
    ) -> list[Hit]:
        """The hits with how each came to its place."""
        mode, fusion = self._request.mode, self._fusion
        lexical = {hit.doc_id: hit for hit in self._lexical}
        if mode == "hybrid":
            added = contributions(
                self._lexical,
                self._dense,
                fusion,
                [hit.doc_id for hit in hits],
                depth=self._depth,
            )
            weights = {"lexical": fusion.lexical_weight, "dense": fusion.dense_weight}
        else:
            added = {hit.doc_id: {mode: hit.score} for hit in hits}
            weights = {mode: 1.0}
        return [
            replace(
                hit,
                explanation=Explanation(
                    lexical_score=lexical[hit.doc_id].score if hit.doc_id in lexical else None,
                    dense_score=dense[hit.doc_id].score if hit.doc_id in dense else None,
                    contributions=added[hit.doc_id],
                    weights=weights,
                    passage=dense[hit.doc_id].number if hit.doc_id in dense else None,
                    seq=change.seq if change is not None else None,
                ),
            )
            for hit, (_, change) in zip(hits, found, strict=True)
        ]

    # -- time and trouble ----------------------------------------------------------------------

    def _check_time(self) -> None:
        """What a part has begun it also ends; no further part begins once nobody waits."""
        if self._until is not None and time.monotonic() > self._until:
            raise DeadlineExceeded(
                f"the query took longer than it may: {(time.perf_counter() - self._began):.1f} s; "
                "ask for fewer hits, or try again"
            )

    @contextlib.contextmanager
    def _timed(self, part: str, began: float | None = None) -> Iterator[None]:
        began = time.perf_counter() if began is None else began
        try:
            with traces.span(part):
                yield
        finally:
            ms = (time.perf_counter() - began) * 1e3
            self._took_ms[part] = self._took_ms.get(part, 0.0) + ms

    @contextlib.contextmanager
    def _may_fail(self, part: Part) -> Iterator[None]:
        """Go on without a part that fails, whatever the reason; only a wrong query is the user's to
        correct."""
        try:
            yield
        except InvalidQuery:
            raise
        except Exception as error:
            expected = isinstance(error, SearchError | TrainingError)
            log.warning(
                "%s: the %s part failed: %s",
                self._searcher.generation,
                part,
                error,
                exc_info=not expected,
            )
            self._errors[part] = error


def rank(
    mode: RunMode,
    lexical: Sequence[LexicalHit],
    dense: Sequence[DenseHit],
    fusion: FusionRecipe,
    k: int,
    *,
    depth: int,
) -> list[Fused]:
    """The k best by this fusion; of one leg alone in its own order and with its own scores."""
    if mode == "lexical":
        return [Fused(hit.doc_id, hit.score, rank, None) for rank, hit in enumerate(lexical[:k], 1)]
    if mode == "dense":
        return [Fused(hit.doc_id, hit.score, None, rank) for rank, hit in enumerate(dense[:k], 1)]
    return fuse(lexical, dense, fusion, k, depth=depth)


def _passage(document: Document, hit: DenseHit | None, seq: int) -> str:
    """The part of the text that the hit is about; all of it where that is not known: the dense leg
    has not found the document, or has found it as it was before an edit."""
    if hit is None or hit.seq != seq:
        return document.text
    return document.text[hit.start : hit.end] or document.text
