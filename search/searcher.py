"""One opened generation, and how it answers a query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np

from search.answer import Answer, Mode, RunMode
from search.corpus import Corpus
from search.dense import DenseCollection, DenseHit, FloatMatrix, FloatVector
from search.documents import Filter, validate_filter
from search.errors import InvalidQuery, SpaceMismatch
from search.fusion import PLAIN_RRF
from search.query import MAX_DEPTH, Query, rank
from search.recipe import FusionRecipe, Recipe
from training.errors import EncodingFailed, TrainingError

if TYPE_CHECKING:
    from search.lexical import LexicalHit

MODES: tuple[Mode, ...] = get_args(Mode)
MAX_QUERY_CHARACTERS = 10_000
MAX_K = 1_000
DEFAULT_DEPTH = PLAIN_RRF.depth

_ENCODED_TOGETHER = 32  # queries of one batch; between two such lots the deadline is looked at
_WARM_UP = "the first query of a generation"


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """One query. Raises InvalidQuery when it cannot be answered as it is."""

    query: str
    k: int = 10  # hits wanted
    mode: Mode = "hybrid"
    where: Filter = ()
    depth: int | None = None  # documents from each leg; unless given the fusion's or k, the larger
    explain: bool = False

    def __post_init__(self) -> None:
        if not self.query.strip():
            raise InvalidQuery("the query is empty; expected some words")
        if len(self.query) > MAX_QUERY_CHARACTERS:
            raise InvalidQuery(
                f"the query has {len(self.query):,} characters, at most "
                f"{MAX_QUERY_CHARACTERS:,} are allowed"
            )
        try:
            self.query.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidQuery(
                f"the query is not valid Unicode (character {error.start}); send UTF-8"
            ) from None
        if self.mode not in MODES:
            raise InvalidQuery(f"mode {self.mode!r} is unknown; expected {', '.join(MODES)}")
        if not 1 <= self.k <= MAX_K:
            raise InvalidQuery(f"k is {self.k}, expected 1 to {MAX_K:,}")
        if self.depth is not None and not self.k <= self.depth <= MAX_DEPTH:
            raise InvalidQuery(
                f"depth is {self.depth}, expected at least k ({self.k}) and at most {MAX_DEPTH:,}"
            )
        validate_filter(self.where)

    def leg_depth(self, fusion: FusionRecipe) -> int:
        return self.depth if self.depth is not None else max(fusion.depth, self.k)


class QueryEncoder(Protocol):
    """The query side of a loaded model version; `training.encoder.Encoder` is one."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def dim(self) -> int: ...

    def encode_queries(self, texts: Sequence[str], /) -> FloatMatrix: ...


class LexicalLeg(Protocol):
    """What a searcher asks of a lexical index; `search.lexical.LexicalIndex` is one."""

    def search(self, query: str, k: int, where: Filter = ()) -> list[LexicalHit]: ...


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Searcher:
    """One opened generation. It never changes and asks no alias: a query that holds it has one
    encoder, one collection and one lexical index to its end. Safe to use from several threads.

    It owns none of its parts; whoever opened them closes them. Raises SpaceMismatch unless encoder,
    recipe and collection share one vector space.
    """

    generation: str  # docs@7
    recipe: Recipe
    encoder: QueryEncoder
    collection: DenseCollection
    lexical: LexicalLeg
    corpus: Corpus

    def __post_init__(self) -> None:
        recipe, spec = self.recipe, self.collection.spec
        if self.encoder.fingerprint != recipe.fingerprint:
            raise SpaceMismatch(
                f"{self.generation} was made with {recipe.model} of fingerprint "
                f"{recipe.fingerprint[:12]}, found an encoder of {self.encoder.fingerprint[:12]}; "
                f"run `reindexer models verify {recipe.model}`"
            )
        if spec.fingerprint != recipe.fingerprint or spec.generation != self.generation:
            raise SpaceMismatch(
                f"collection {self.collection.name!r} holds vectors of {spec.generation} with "
                f"fingerprint {spec.fingerprint[:12]}, expected {self.generation} with "
                f"{recipe.fingerprint[:12]}; run `reindexer upgrade {recipe.model} --anew` to "
                "build a new generation"
            )
        if not self.encoder.dim == spec.dim == recipe.dim:
            raise SpaceMismatch(
                f"{self.generation} was made for {recipe.dim} dimensions, found an encoder of "
                f"{self.encoder.dim} and a collection of {spec.dim}; run `reindexer upgrade "
                f"{recipe.model} --anew` to build a new generation"
            )

    @property
    def model(self) -> str:
        return self.recipe.model

    def search(self, request: SearchRequest, *, until: float | None = None) -> Answer:
        """The k best documents.

        A part that fails is left out and named in `degraded`: one leg, or the corpus, without which
        hits have no title, snippet and metadata. Raises the leg's own error when no leg is left,
        and DeadlineExceeded once time.monotonic() is past `until`.
        """
        return Query(self, request, until=until).answer()

    def search_many(
        self, requests: Sequence[SearchRequest], *, until: float | None = None
    ) -> list[Answer]:
        """What `search` answers to each, with the queries encoded together. Raises what it raises
        for the first that cannot be answered."""
        answers: list[Answer] = []
        for start in range(0, len(requests), _ENCODED_TOGETHER):
            part = requests[start : start + _ENCODED_TOGETHER]
            vectors = self._vectors_of(part)
            answers += [
                Query(self, request, vector=vector, until=until).answer()
                for request, vector in zip(part, vectors, strict=True)
            ]
        return answers

    def _vectors_of(self, requests: Sequence[SearchRequest]) -> list[FloatVector | None]:
        """None for a query that needs no vector, or has to be encoded alone: one that cannot be
        encoded is nothing to the others."""
        wanted = [request.query for request in requests if request.mode != "lexical"]
        try:
            rows = iter(self.encode(wanted)) if wanted else iter(())
        except TrainingError:
            return [None] * len(requests)
        return [next(rows) if request.mode != "lexical" else None for request in requests]

    def runs(
        self, queries: Sequence[str], *, mode: RunMode = "hybrid", depth: int = DEFAULT_DEPTH
    ) -> dict[str, Any]:
        """The doc_ids of many queries, best first and at most `depth` each, in `runs`; for
        evaluation. They are encoded together, ranked as `search` ranks, and not looked up in the
        corpus. Mode hybrid-rrf is hybrid as it is without a fitted fusion. Raises what a leg
        raises: an evaluation on one leg would be no evaluation.
        """
        fusion = PLAIN_RRF if mode == "hybrid-rrf" else self.recipe.fusion
        leg_depth = max(fusion.depth, depth)
        runs = []
        for lexical, dense in self._both_legs(queries, mode, leg_depth):
            ranked = rank(mode, lexical, dense, fusion, depth, depth=leg_depth)
            runs.append([place.doc_id for place in ranked])
        return {"generation": self.generation, "model": self.model, "mode": mode, "runs": runs}

    def legs(self, queries: Sequence[str], *, depth: int) -> dict[str, Any]:
        """What each leg says to many queries, in `lexical` and `dense`: [doc_id, score] of at most
        `depth` documents, best first; for fitting a fusion. Raises what a leg raises.
        """
        legs = list(self._both_legs(queries, "hybrid", depth))
        return {
            "generation": self.generation,
            "model": self.model,
            "lexical": [[[hit.doc_id, hit.score] for hit in lexical] for lexical, _ in legs],
            "dense": [[[hit.doc_id, hit.score] for hit in dense] for _, dense in legs],
        }

    def _both_legs(
        self, queries: Sequence[str], mode: RunMode, depth: int
    ) -> Iterator[tuple[Sequence[LexicalHit], Sequence[DenseHit]]]:
        """The hits of each query; none of a leg that the mode does not ask."""
        for query in queries:
            SearchRequest(query=query)  # a query that cannot be answered raises here
        vectors = self.encode(queries) if queries and mode != "lexical" else None
        for row, query in enumerate(queries):
            yield (
                self.lexical.search(query, depth) if mode != "dense" else (),
                self.collection.search(vectors[row], depth) if vectors is not None else (),
            )

    def with_fusion(self, fusion: FusionRecipe) -> Searcher:
        """The same opened generation, fusing in another way."""
        return replace(self, recipe=replace(self.recipe, fusion=fusion))

    def warm(self) -> None:
        """One query through every part, so that the first user does not wait for it. Raises what a
        part raises."""
        hits = self.collection.search(self.encode([_WARM_UP])[0], 1)
        self.lexical.search(_WARM_UP, 1)
        self.corpus.get_many([hit.doc_id for hit in hits])

    def encode(self, queries: Sequence[str]) -> FloatMatrix:
        """(len(queries), dim). Raises EncodingFailed, also on vectors nothing can be near to."""
        vectors = self.encoder.encode_queries(queries)
        if vectors.shape != (len(queries), self.recipe.dim) or not np.isfinite(vectors).all():
            raise EncodingFailed(
                f"{self.model} gave vectors of shape {vectors.shape}, finite: "
                f"{bool(np.isfinite(vectors).all())}; expected {(len(queries), self.recipe.dim)} "
                f"finite numbers; run `reindexer models verify {self.model}`"
            )
        return vectors
