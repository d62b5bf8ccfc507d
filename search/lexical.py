"""The lexical half of a generation: BM25 over whole documents, kept in step with the corpus log.

bm25s scores. Compacted documents are a bm25s index of their own, the *base*. What has changed since
is kept beside it as term counts, and a query then hands bm25s the postings of its few terms, from
both, scored with the statistics of the corpus as it is now. So scores are at any moment those of an
index built from scratch; a compaction makes queries faster, not different.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cache, cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.analyzer import ANALYZER_VERSION, Analyzer
from search.documents import Change, Condition, Document, Filter
from search.errors import InvalidQuery, LexicalDamaged, SearchError
from search.lexical_base import Base, Vocabulary
from search.lexical_files import (
    ArrayFile,
    Manifest,
    map_arrays,
    open_files,
    remove_files,
    write_arrays,
    write_manifest,
    writing,
)
from search.lexical_state import LexicalState, bm25
from search.metadata import Fields
from search.recipe import AnalyzerRecipe

# Compaction is due when this share of the documents has changed, but not for fewer changes than
# pay for it, nor later than when a save of the changes takes seconds.
COMPACT_SHARE = 1 / 8
MIN_PENDING, MAX_PENDING = 2_000, 50_000  # changes
SPARE_HITS = 16  # asked of bm25s beyond k, to see whether documents tie at the k-th place


class LexicalHit(NamedTuple):
    """A document that holds at least one term of the query."""

    doc_id: str
    score: float  # BM25, above 0
    seq: int


class LexicalIndex:
    """BM25 over the documents of the corpus up to a watermark.

    Any number of threads may search while one applies changes and another compacts or saves. A
    search reads one immutable state from beginning to end and waits for nobody.
    """

    def __init__(self, state: LexicalState, analyzer: AnalyzerRecipe, path: Path | None) -> None:
        """Use `open` or `empty`. path: where `save` writes; None for an index that is only read."""
        self._state: LexicalState | None = state  # None once closed
        self._recipe = analyzer
        self._path = path
        self._writing = threading.Lock()  # around every change of _state
        self._compacting = threading.Lock()
        self._saving = threading.Lock()
        self._meanwhile: list[Change] | None = None  # applied while a compaction runs
        self._base_file: tuple[Base, ArrayFile] | None = None
        self._saved: LexicalState | None = None

    @classmethod
    def empty(cls, analyzer: AnalyzerRecipe) -> LexicalIndex:
        """An index in memory alone."""
        return cls(_empty_state(analyzer), analyzer, None)

    @classmethod
    def open(cls, path: Path, analyzer: AnalyzerRecipe, *, writable: bool = True) -> LexicalIndex:
        """The index as it was last saved; empty, with watermark 0, when nothing was saved yet.

        writable: whether `save` may be called. Changes may be applied in memory either way.
        Raises LexicalDamaged when a file is missing or altered, or was made by another analyzer:
        then `discard` it and apply the corpus log from 0.
        """
        index = cls(_empty_state(analyzer), analyzer, path if writable else None)
        index._load(path)
        return index

    @staticmethod
    def discard(path: Path) -> None:
        """Remove what was saved. Does nothing when there is nothing."""
        if path.is_dir():
            remove_files(path)

    @property
    def watermark(self) -> int:
        """The highest seq that was applied; 0 for none."""
        return self._now.watermark

    @property
    def documents(self) -> int:
        return self._now.documents

    @property
    def pending(self) -> int:
        """Changes since the last compaction."""
        return len(self._now.changed)

    def apply(self, changes: Sequence[Change]) -> None:
        """Put and delete documents; visible to searches when this returns.

        A change whose seq is not above that of the document's last applied change is left out, so
        changes may come twice and in any order. A caller that never compacts is helped out.
        """
        with self._writing:
            self._state = self._now.after(changes, self._analyzer)
            if self._meanwhile is not None:
                self._meanwhile += changes
        if self.pending > 2 * _pending_limit(self._now):
            self.compact()

    def should_compact(self) -> bool:
        return self.pending > _pending_limit(self._now)

    def compact(self) -> None:
        """Merge what has changed into the base. Searches go on, and so do changes."""
        with self._compacting:
            meanwhile: list[Change] = []
            with self._writing:
                state, self._meanwhile = self._now, meanwhile
            try:
                if len(state.changed):
                    compacted = state.compacted()
                    with self._writing:
                        if self._state is not None:
                            self._state = compacted.after(meanwhile, self._analyzer)
            finally:
                with self._writing:
                    self._meanwhile = None

    def search(self, query: str, k: int, where: Filter = ()) -> list[LexicalHit]:
        """The k best documents that satisfy the filter and hold a term of the query, best first,
        ties by doc_id. Raises InvalidQuery for k < 1."""
        if k < 1:
            raise InvalidQuery(f"k is {k}, expected at least 1")
        state = self._now
        terms = _known(state, self._analyzer.terms(query))
        if not terms:
            return []
        mask = state.matches(where) if where else None
        rows, scores = _best(*_engine(state, terms), state.n_rows, k, mask)
        found = zip(state.doc_ids(rows), scores, state.seqs(rows), strict=True)
        hits = list(map(LexicalHit._make, found))
        if len(set(scores)) < len(scores):
            hits.sort(key=_by_doc_id)  # two sorts on plain keys are quicker than one on pairs
            hits.sort(key=_by_score, reverse=True)
        return hits[:k]

    def matched_terms(self, query: str) -> list[str]:
        """The query's terms, each once, that at least one document holds."""
        state = self._now
        return [
            term for term in dict.fromkeys(self._analyzer.terms(query)) if _known(state, [term])
        ]

    def contains(self, doc_id: str) -> bool:
        return self._now.contains(doc_id)

    def scan(self) -> Iterator[tuple[str, int, str]]:
        """(doc_id, seq, content_hash) of every document, as of now."""
        return self._now.scan()

    def save(self) -> None:
        """Write what is in memory, atomically: a process killed here leaves the old files or the
        new. Costs as much as the changes since the last compaction; after one, a whole base.

        Raises SearchError for an index that was opened to be read only.
        """
        if self._path is None:
            raise SearchError("the lexical index was opened to be read; open it with writable=True")
        with self._saving:
            state = self._now
            if self._saved is state:
                return
            with writing(self._path):
                base_file = self._write_base(self._path, state)
                changes = write_arrays(self._path, "changes", state.changes_to_arrays())
                write_manifest(
                    self._path,
                    Manifest(
                        analyzer=_analyzer_json(self._recipe),
                        watermark=state.watermark,
                        documents=state.documents,
                        fields=state.base.fields.names,
                        base=base_file,
                        changes=changes,
                    ),
                )
            self._saved = state
            self._map_base(self._path, state.base, base_file)

    @cached_property
    def _analyzer(self) -> Analyzer:
        return Analyzer(self._recipe, stop_words(self._recipe))

    def close(self) -> None:
        """Let go of the arrays, without saving. Searches under way still finish."""
        with self._writing:
            self._state = None
        self._saved = self._base_file = None

    @property
    def _now(self) -> LexicalState:
        state = self._state
        if state is None:
            raise SearchError("the lexical index is closed; open it again")
        return state

    def _load(self, path: Path) -> None:
        opened = open_files(path)
        if opened is None:
            return
        manifest, base_arrays, changes_arrays = opened
        expected = _analyzer_json(self._recipe)
        if manifest.analyzer != expected:
            raise LexicalDamaged(
                f"the lexical index {path} was made with the analyzer {manifest.analyzer}, "
                f"expected {expected}; it must be rebuilt from the corpus: run `reindexer sync`"
            )
        base, terms = Base.from_arrays(base_arrays, Fields(manifest.fields))
        self._state = LexicalState.from_arrays(
            base,
            terms,
            changes_arrays,
            watermark=manifest.watermark,
            k1=self._recipe.k1,
            b=self._recipe.b,
        )
        self._saved = self._state
        self._base_file = (base, manifest.base)

    def _write_base(self, path: Path, state: LexicalState) -> ArrayFile:
        """The base's file: the one it came from, if that is still there, else a new one."""
        if self._base_file is not None:
            base, file = self._base_file
            if base is state.base and (path / file.name).exists():
                return file
        terms = state.vocabulary.terms[: state.base.postings.n_terms]
        return write_arrays(path, "base", state.base.to_arrays(terms))

    def _map_base(self, path: Path, base: Base, file: ArrayFile) -> None:
        """Read a base that was just written from its file, which the system may page out."""
        if self._base_file is not None and self._base_file[1] == file:
            return
        mapped, _ = Base.from_arrays(map_arrays(path, file, check=False), base.fields)
        with self._writing:
            if self._state is not None and self._state.base is base:
                was_saved = self._saved is self._state
                self._state = replace(self._state, base=mapped)
                self._saved = self._state if was_saved else self._saved
                self._base_file = (mapped, file)


_by_doc_id = attrgetter("doc_id")
_by_score = attrgetter("score")


def warm() -> None:
    """Load and compile the scoring engine, so that the first search is as quick as the next.

    Takes 0.5 s, and some 10 s when it runs for the first time on a machine.
    """
    index = LexicalIndex.empty(AnalyzerRecipe(language="none"))
    document = Document(doc_id="a", text="a", metadata={"a": True})
    index.apply([Change(seq=1, doc_id="a", content_hash="", document=document)])
    index.search("a", 1)
    index.search("a", 1, (Condition(field="a", any_of=(True,)),))


def _known(state: LexicalState, terms: list[str]) -> list[int]:
    """The numbers of the terms that a document holds."""
    numbers = [state.vocabulary.get(term) for term in terms]
    return [
        number
        for number in numbers
        if number is not None and number < len(state.frequencies) and state.frequencies[number] > 0
    ]


def _engine(state: LexicalState, terms: list[int]) -> tuple[Any, list[int]]:
    """A bm25s index that scores these terms over all rows, and their numbers in it."""
    base = state.base
    if not len(state.changed):
        return _index(base.postings.starts, base.postings.rows, base.scores, state.n_rows), terms
    parts = (base.postings, state.changed_postings)
    spans = [part.span(term) for term in terms for part in parts]
    rows = np.concatenate([p.rows[s] for p, s in zip(parts * len(terms), spans, strict=True)])
    counts = np.concatenate(
        [p.counts[s] for p, s in zip(parts * len(terms), spans, strict=True)],
        dtype=np.float32,
        casting="same_kind",
    )
    sizes = np.array([span.stop - span.start for span in spans]).reshape(-1, 2).sum(axis=1)
    starts = np.zeros(len(terms) + 1, np.int64)
    np.cumsum(sizes, out=starts[1:])
    scores = bm25(counts, state.norms.take(rows), np.repeat(state.idf(terms), sizes))
    return _index(starts, rows, scores, state.n_rows), list(range(len(terms)))


def _index(
    starts: NDArray[np.int64],
    rows: NDArray[np.int32],
    scores: NDArray[np.float32],
    n_rows: int,
) -> Any:
    """A bm25s index over arrays that are there already."""
    for array in (starts, rows, scores):
        array.setflags(write=False)  # one kind of array: the scorer is compiled for each kind
    index = _bm25s().BM25(method="lucene", backend="numba")
    index.scores = {"data": scores, "indices": rows, "indptr": starts, "num_docs": n_rows}
    index.vocab_dict = {}
    index.unique_token_ids_set = range(len(starts) - 1)
    index.nonoccurrence_array = None
    return index


def _best(
    index: Any, terms: list[int], n_rows: int, k: int, mask: NDArray[np.float32] | None
) -> tuple[list[int], list[float]]:
    """The k best rows with a score above 0, all that tie at the k-th place included, and their
    scores; best first."""
    asked = min(k + SPARE_HITS, n_rows)
    found = index.retrieve([terms], k=asked, weight_mask=mask, show_progress=False)
    rows: list[int] = found.documents[0].tolist()
    scores: list[float] = found.scores[0].tolist()
    least = scores[k - 1] if k < asked else 0.0
    if least > 0 and scores[-1] == least and asked < n_rows:
        every = index.get_scores_from_ids(terms, weight_mask=mask)
        best = np.flatnonzero(every >= every[rows[:k]].min())
        best = best[np.argsort(-every[best], kind="stable")]
        return best.tolist(), every[best].tolist()
    n_hits = k if least > 0 else 0
    while n_hits < asked and scores[n_hits] >= least and scores[n_hits] > 0:
        n_hits += 1
    return rows[:n_hits], scores[:n_hits]


@cache
def _bm25s() -> Any:
    """bm25s with numba, which take 0.5 s to import."""
    import bm25s
    from bm25s.numba import retrieve_utils

    # Compiling takes seconds. Kept on disk it is done once a machine, where that is possible.
    with contextlib.suppress(RuntimeError, OSError, AttributeError):
        retrieve_utils._retrieve_internal_jitted_serial.enable_caching()
    return bm25s


def stop_words(recipe: AnalyzerRecipe) -> Sequence[str]:
    """bm25s' list for the language. Where it has none, a low idf does most of the same."""
    if recipe.language == "none" or not recipe.stop_words:
        return ()
    from bm25s import stopwords

    name = {"english": "EN", "porter": "EN"}.get(recipe.language, recipe.language.upper())
    words: Sequence[str] = getattr(stopwords, f"STOPWORDS_{name}", ())
    return words


def _empty_state(analyzer: AnalyzerRecipe) -> LexicalState:
    return LexicalState.of_base(
        Base.empty(), Vocabulary(), watermark=0, k1=analyzer.k1, b=analyzer.b
    )


def _pending_limit(state: LexicalState) -> int:
    return min(max(int(state.documents * COMPACT_SHARE), MIN_PENDING), MAX_PENDING)


def _analyzer_json(analyzer: AnalyzerRecipe) -> dict[str, Any]:
    return {**asdict(analyzer), "version": ANALYZER_VERSION}
