"""The recipe of a generation: everything that decides what its vectors and postings are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from search.dense import CollectionSpec, FieldType, Quantization


@dataclass(frozen=True, kw_only=True, slots=True)
class AnalyzerRecipe:
    """How text becomes BM25 tokens and how they are scored.

    BM25 as Lucene scores it (Robertson and Zaragoza 2009, with idf = ln(1 + (N-n+0.5)/(n+0.5))).
    """

    language: str = "english"  # Snowball language; "none": no stemming and no stop words
    stop_words: bool = True
    k1: float = 1.5
    b: float = 0.75

    @property
    def id(self) -> str:
        """Short name; generations whose analyzers are equal share one lexical index."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.language}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"


LexicalKind = Literal["bm25s", "qdrant"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LexicalRecipe:
    """Where BM25 is worked out: by bm25s in an index of its own, which generations share, or by the
    Qdrant server from sparse vectors in the generation's collection."""

    kind: LexicalKind = "bm25s"
    # Of the vectors of kind qdrant, which cannot be told apart afterwards.
    analyzer_version: int | None = None
    average_length: float = field(default=0.0, compare=False)  # of a document, in terms; fixed


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitterRecipe:
    """How a long document becomes passages, in tokens of the generation's model."""

    max_tokens: int  # of one passage, title and special tokens included
    overlap_tokens: int  # shared by neighbouring passages


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedOn:
    """The judged queries that a fusion was fitted on."""

    queries: int
    judgments_sha256: str
    at: float  # Unix seconds
    ndcg_at_10: float  # of the fitted fusion, cross-validated
    rrf_ndcg_at_10: float  # of plain reciprocal rank fusion on the same queries


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionRecipe:
    """How the two legs become one ranking.

    rrf: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009), as long as nothing is known of
    the domain. convex: a weighted mean of scores (Bruch, Gai and Ingber 2023), with weights that
    `reindexer tune` fits to judged queries; they add up to 1, and a weight of 1 is one leg alone.
    """

    method: Literal["rrf", "convex"] = "rrf"
    lexical_weight: float = 1.0
    dense_weight: float = 1.0
    rrf_k: int = 60  # rank starts at 1; method rrf only
    dense_span: float = 1.0  # cosine that counts as 1; method convex only
    depth: int = 50  # documents from each leg, unless a query asks for another depth or for more
    fitted: FittedOn | None = None  # None: not fitted

    @property
    def in_words(self) -> str:
        """Such as `0.35 BM25 + 0.65 dense, fitted on 120 queries`."""
        if self.method == "rrf":
            words = "reciprocal rank fusion"
        elif self.dense_weight in (0.0, 1.0):
            words = "dense alone" if self.dense_weight else "BM25 alone"
        else:
            words = f"{self.lexical_weight:.2f} BM25 + {self.dense_weight:.2f} dense"
        if self.depth != type(self)().depth:
            words += f", depth {self.depth}"
        if self.fitted is not None:
            words += f", fitted on {self.fitted.queries:,} queries"
        return words

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FusionRecipe:
        fitted = value.get("fitted")
        return cls(**{**value, "fitted": FittedOn(**fitted) if fitted is not None else None})


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What a generation is made of; immutable once the generation is recorded, its fusion apart:
    vectors and postings do not depend on that."""

    model: str  # support@4
    fingerprint: str  # of the encoder (weights, tokenizer, prompts, pooling, lengths, dim)
    dim: int
    splitter: SplitterRecipe
    analyzer: AnalyzerRecipe = field(default_factory=AnalyzerRecipe)
    lexical: LexicalRecipe = field(default_factory=LexicalRecipe)
    fusion: FusionRecipe = field(default_factory=FusionRecipe)
    hnsw_m: int = 16
    hnsw_ef_construct: int = 128
    quantization: Quantization = "none"
    filter_fields: Mapping[str, FieldType] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        value: dict[str, Any] = json.loads(text)
        value["splitter"] = SplitterRecipe(**value["splitter"])
        value["analyzer"] = AnalyzerRecipe(**value["analyzer"])
        value["lexical"] = LexicalRecipe(**value.get("lexical", {}))
        value["fusion"] = FusionRecipe.from_json(value["fusion"])
        return cls(**value)

    def collection_spec(self, generation: str) -> CollectionSpec:
        return CollectionSpec(
            generation=generation,
            fingerprint=self.fingerprint,
            dim=self.dim,
            hnsw_m=self.hnsw_m,
            hnsw_ef_construct=self.hnsw_ef_construct,
            quantization=self.quantization,
            filter_fields=self.filter_fields,
            terms=self.lexical.kind == "qdrant",
        )
