"""Hard negatives: texts that look like the answer and are not.

Candidates come from dense search, from BM25, or from the positive's own document. A candidate
counts when it is clearly further from the query than the positive is, since most of what is closer
is an answer that nobody marked (positive-aware mining with a relative margin: Moreira et al. 2024,
NV-Retriever).
"""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.audit import CrossScores
from training.encoded_texts import EncodedTexts
from training.errors import RecipeInvalid
from training.extras import require
from training.lookalikes import bm25_lookalikes, words
from training.pairs import Pair, text_key
from training.training_recipe import NegativeSource

MARGIN = 0.05  # of the positive's cosine: a negative stays at least so far below
SAME_TEXT = 0.8  # share of three-word sequences that two texts have in common (Jaccard)
BM25_DEPTH = 50
QUERIES_PER_BLOCK = 1_024


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A text that may become a negative."""

    text: str
    doc_id: str | None = None
    group: str | None = None  # as Pair.group


@dataclass(frozen=True, kw_only=True, slots=True)
class Mined:
    """Pairs with their negatives, best first, and what the search for them came to."""

    pairs: list[Pair]
    candidates: int  # different texts that were looked at
    found: int  # negatives added
    same_document: int  # of them from the positive's own group
    without: int  # pairs that got none


def candidates_from(
    pairs: Iterable[Pair],
    documents: Iterable[tuple[str, str]] = (),
    group_of: Mapping[str, str] | None = None,
) -> list[Candidate]:
    """The positives of the pairs, and the documents of a corpus, each text once.

    documents: (doc_id, text). group_of: groups by doc_id; where it has none, a document belongs to
    the group of a pair that its doc_id begins with (`lease-7` for `lease-7#12`). When the pairs
    have groups, documents of other groups are left out: they may be the ones that the model is
    tested on.
    """
    group_of = group_of or {}
    found: dict[str, Candidate] = {}
    groups: set[str] = set()
    for pair in pairs:
        groups |= {pair.group} if pair.group is not None else set()
        for text in (pair.positive, *pair.negatives):
            found.setdefault(text, Candidate(text=text, doc_id=pair.doc_id, group=pair.group))
    for doc_id, text in documents:
        group = group_of.get(doc_id) or _group_of(doc_id, groups)
        if text.strip() and (group in groups or not groups):
            found.setdefault(text, Candidate(text=text, doc_id=doc_id, group=group))
    return list(found.values())


def mine(
    pairs: Sequence[Pair],
    candidates: Sequence[Candidate],
    encoder: EncodedTexts,
    *,
    source: NegativeSource,
    per_anchor: int,
    scores_of: CrossScores | None = None,
    on_progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Mined:
    """Give each pair up to per_anchor negatives; those it has already come first.

    Never a negative: a known positive of the same query, a near copy of one, or a text within the
    margin of the query's farthest positive. same-document fills up with dense ones.

    scores_of: judges the margin in place of the cosine, such as PairScorer.scores. on_progress gets
    texts encoded, of how many.
    Raises RecipeInvalid when same-document is asked for and no pair says what it belongs to.
    """
    if source == "none":
        return Mined(pairs=list(pairs), candidates=0, found=0, same_document=0, without=0)
    if source == "same-document" and all(pair.group is None for pair in pairs):
        raise RecipeInvalid(
            "no pair has a group, so there is no telling which texts are of one document; build "
            "the pairs with `reindexer pairs build --group-field FIELD`, or take --negatives dense"
        )
    anchors = list(dict.fromkeys(pair.anchor for pair in pairs))
    texts = list(dict.fromkeys(candidate.text for candidate in candidates))
    encoder.remember(anchors, texts, on_progress)
    known = _Positives(pairs)
    lists: list[Mapping[str, Sequence[str]]] = []
    if source == "same-document":
        lists.append(_within_margin(_of_same_group(pairs, candidates), known, encoder, scores_of))
    if source in ("bm25", "both"):
        lists.append(_within_margin(_by_bm25(anchors, texts), known, encoder, scores_of))
    if source in ("dense", "both", "same-document"):
        lists.append(_dense(pairs, texts, encoder, per_anchor, scores_of))

    grouped = {candidate.text: candidate.group for candidate in candidates}
    found = same_document = without = 0
    result: list[Pair] = []
    for pair in pairs:
        offered: Iterable[str]
        negatives = list(pair.negatives)
        offered = _in_turn([mined.get(pair.anchor, ()) for mined in lists])
        if source == "same-document" and pair.group is not None:
            offered = sorted(offered, key=lambda text: grouped.get(text) != pair.group)
        for text in offered:
            if len(negatives) >= per_anchor:
                break
            if text not in negatives and not known.cover(pair.anchor, text):
                negatives.append(text)
                found += 1
                same_document += pair.group is not None and grouped.get(text) == pair.group
        without += not negatives
        result.append(replace(pair, negatives=tuple(negatives)))
    return Mined(
        pairs=result,
        candidates=len(texts),
        found=found,
        same_document=same_document,
        without=without,
    )


# -- what is never a negative ---------------------------------------------------------------------


class _Positives:
    """The known answers of every query, and whether another text is as good as one of them."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._texts: dict[str, list[str]] = defaultdict(list)
        self._shingles: dict[str, frozenset[tuple[str, ...]]] = {}
        for pair in pairs:
            if pair.score is None or pair.score > 0:
                self._texts[text_key(pair.anchor)].append(pair.positive)

    def of(self, anchor: str) -> Sequence[str]:
        return self._texts[text_key(anchor)]

    def cover(self, anchor: str, text: str) -> bool:
        """Whether the text is an answer, nearly a copy of one, or the query itself."""
        if text_key(text) == text_key(anchor):
            return True
        shingles = self._of_text(text)
        return any(
            text == positive or _jaccard(shingles, self._of_text(positive)) >= SAME_TEXT
            for positive in self.of(anchor)
        )

    def _of_text(self, text: str) -> frozenset[tuple[str, ...]]:
        if (found := self._shingles.get(text)) is None:
            said = words(text)
            found = frozenset(zip(said, said[1:], said[2:], strict=False))
            found = found or frozenset([tuple(said)])
            self._shingles[text] = found
        return found


def _within_margin(
    offered: Mapping[str, Sequence[str]],
    known: _Positives,
    encoder: EncodedTexts,
    scores_of: CrossScores | None,
) -> dict[str, list[str]]:
    """Of each query's texts those below the margin, closest first. offered: by anchor."""
    kept: dict[str, list[str]] = {}
    for anchor, texts in offered.items():
        positives = known.of(anchor)
        if not texts or not positives:
            continue
        values = _closeness(anchor, [*positives, *texts], encoder, scores_of)
        farthest = float(values[: len(positives)].min())
        limit = farthest - MARGIN * abs(farthest)
        scored = zip(values[len(positives) :].tolist(), texts, strict=True)
        kept[anchor] = [text for value, text in sorted(scored, reverse=True) if value <= limit]
    return kept


def _closeness(
    anchor: str, texts: Sequence[str], encoder: EncodedTexts, scores_of: CrossScores | None
) -> NDArray[np.float32]:
    """(len(texts),) how close each text is to the query."""
    if scores_of is not None:
        return np.asarray(scores_of([(anchor, text) for text in texts]), np.float32)
    cosines: NDArray[np.float32] = (
        encoder.encode_documents(texts) @ encoder.encode_queries([anchor])[0]
    )
    return cosines


# -- where candidates come from -------------------------------------------------------------------


def _of_same_group(pairs: Iterable[Pair], candidates: Iterable[Candidate]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for candidate in candidates:
        if candidate.group is not None:
            members[candidate.group].append(candidate.text)
    groups: dict[str, set[str]] = defaultdict(set)  # one question may be asked of many documents
    for pair in pairs:
        groups[pair.anchor] |= {pair.group} if pair.group is not None else set()
    return {
        anchor: [text for group in sorted(found) for text in members[group]]
        for anchor, found in groups.items()
    }


def _by_bm25(anchors: Sequence[str], texts: Sequence[str]) -> dict[str, list[str]]:
    found = bm25_lookalikes(anchors, texts, BM25_DEPTH)
    return {anchor: [texts[at] for at in row] for anchor, row in zip(anchors, found, strict=True)}


def _dense(
    pairs: Sequence[Pair],
    texts: Sequence[str],
    encoder: EncodedTexts,
    per_anchor: int,
    scores_of: CrossScores | None,
) -> dict[str, list[str]]:
    """sentence-transformers' own miner, reading vectors that are there already."""
    require("datasets")
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    positive = [pair for pair in pairs if pair.score is None or pair.score > 0]
    columns = {
        "anchor": [pair.anchor for pair in positive],
        "positive": [pair.positive for pair in positive],
    }
    wanted = min(3 * per_anchor, len(texts))  # near copies of a positive are taken out afterwards
    with contextlib.redirect_stderr(io.StringIO()):  # its bars cannot be turned off
        rows = mine_hard_negatives(
            Dataset.from_dict(columns),
            _EncodedModel(encoder),  # type: ignore[arg-type]
            corpus=list(texts),
            cross_encoder=_Predicting(scores_of) if scores_of is not None else None,  # type: ignore[arg-type]
            relative_margin=MARGIN,
            num_negatives=wanted,
            output_format="triplet",
            faiss_batch_size=QUERIES_PER_BLOCK,
            verbose=False,
        )
    found: dict[str, list[str]] = defaultdict(list)
    for anchor, negative in zip(rows["anchor"], rows["negative"], strict=True):
        found[anchor].append(negative)
    return found


class _EncodedModel:
    """The part of a SentenceTransformer that the miner uses."""

    device = torch.device("cpu")

    def __init__(self, encoder: EncodedTexts) -> None:
        self._encoder = encoder

    def encode_query(self, texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
        return self._encoder.encode_queries(texts)

    def encode_document(self, texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
        return self._encoder.encode_documents(texts)

    def similarity(self, one: Any, other: Any) -> torch.Tensor:
        return torch.as_tensor(one) @ torch.as_tensor(other).T

    def similarity_pairwise(self, one: Any, other: Any) -> torch.Tensor:
        return (torch.as_tensor(one) * torch.as_tensor(other)).sum(dim=1)


class _Predicting:
    """The part of a CrossEncoder that the miner uses."""

    def __init__(self, scores_of: CrossScores) -> None:
        self._scores_of = scores_of

    def predict(self, texts: Sequence[tuple[str, str]], **_: Any) -> torch.Tensor:
        return torch.tensor(self._scores_of(texts))


# -- small parts ----------------------------------------------------------------------------------


def _in_turn(lists: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first of each list, then the second of each, and so on."""
    for rank in range(max(map(len, lists), default=0)):
        for texts in lists:
            if rank < len(texts):
                yield texts[rank]


def _group_of(doc_id: str, groups: set[str]) -> str | None:
    """The group whose name the doc_id begins with, whole parts only."""
    for end in range(len(doc_id), 0, -1):
        is_whole = end == len(doc_id) or not doc_id[end].isalnum()
        if is_whole and doc_id[:end] in groups:
            return doc_id[:end]
    return None


def _jaccard(one: frozenset[Any], other: frozenset[Any]) -> float:
    return len(one & other) / max(1, len(one | other))
