"""What a lexical index promises, whatever happened to it before."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import bm25s
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from search.documents import Change, Condition, Document, Filter, parse_filter
from search.errors import InvalidQuery, SearchError
from search.lexical import MIN_PENDING, LexicalHit, LexicalIndex
from search.recipe import AnalyzerRecipe

PLAIN = AnalyzerRecipe(language="none")


def put(seq: int, doc_id: str, text: str, **metadata: object) -> Change:
    document = Document.of(doc_id=doc_id, text=text, metadata=metadata)
    return Change(seq=seq, doc_id=doc_id, content_hash=document.content_hash, document=document)


def delete(seq: int, doc_id: str) -> Change:
    return Change(seq=seq, doc_id=doc_id, content_hash="", document=None)


def index_of(*changes: Change, recipe: AnalyzerRecipe = PLAIN) -> LexicalIndex:
    index = LexicalIndex.empty(recipe)
    index.apply(changes)
    return index


def ids(hits: Sequence[LexicalHit]) -> list[str]:
    return [hit.doc_id for hit in hits]


# -- what a search gives -------------------------------------------------------------------------


def test_the_best_document_comes_first_with_its_seq() -> None:
    index = index_of(put(1, "a", "red fox"), put(2, "b", "red red"), put(3, "c", "blue"))
    hits = index.search("red", 10)
    assert ids(hits) == ["b", "a"]
    assert hits[0].score > hits[1].score > 0
    assert [hit.seq for hit in hits] == [2, 1]


@pytest.mark.parametrize("compacted", [False, True])
def test_documents_that_tie_come_in_the_order_of_their_ids(compacted: bool) -> None:
    """Also where more documents tie than were asked for."""
    names = [f"doc-{number:03d}" for number in range(200)]
    index = index_of(*(put(seq, name, "same") for seq, name in enumerate(reversed(names), 1)))
    if compacted:
        index.compact()
    for k in (1, 10, 199, 200, 500):
        assert ids(index.search("same", k)) == names[:k]


def test_nothing_is_found_in_an_empty_index() -> None:
    index = LexicalIndex.empty(PLAIN)
    assert index.search("anything", 10) == []
    assert (index.watermark, index.documents, index.pending) == (0, 0, 0)


@pytest.mark.parametrize("query", ["", "the of and", "unheard", "?!", "\ud800"])
def test_a_query_without_a_known_term_finds_nothing(query: str) -> None:
    index = index_of(put(1, "a", "the red fox"), recipe=AnalyzerRecipe())
    assert index.search(query, 10) == []


def test_documents_without_any_term_can_be_stored() -> None:
    index = index_of(put(1, "a", "?!"))
    index.compact()
    assert index.contains("a")
    assert index.search("a", 10) == []


def test_a_k_below_one_is_refused() -> None:
    with pytest.raises(InvalidQuery, match="k is 0, expected at least 1"):
        index_of(put(1, "a", "red")).search("red", 0)


def test_the_title_is_searched_too() -> None:
    document = Document.of(doc_id="a", text="body", title="Heading")
    index = index_of(Change(seq=1, doc_id="a", content_hash="x", document=document))
    assert ids(index.search("heading", 10)) == ["a"]


def test_matched_terms_are_those_that_a_document_holds() -> None:
    index = index_of(put(1, "a", "red foxes"), recipe=AnalyzerRecipe())
    assert index.matched_terms("the Fox is not red but foxes are") == ["fox", "red"]


# -- changes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compacted", [False, True])
def test_an_edit_replaces_the_old_text(compacted: bool) -> None:
    index = index_of(put(1, "a", "red"), put(2, "b", "red"))
    if compacted:
        index.compact()
    index.apply([put(3, "a", "blue")])
    assert ids(index.search("red", 10)) == ["b"]
    assert ids(index.search("blue", 10)) == ["a"]
    assert (index.documents, index.watermark) == (2, 3)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_deleted_document_is_gone_and_can_come_back(compacted: bool) -> None:
    index = index_of(put(1, "a", "red"), put(2, "b", "red"))
    if compacted:
        index.compact()
    index.apply([delete(3, "a")])
    assert ids(index.search("red", 10)) == ["b"]
    assert not index.contains("a")
    assert index.documents == 1
    if compacted:
        index.compact()
    index.apply([put(4, "a", "red")])
    assert ids(index.search("red", 10)) == ["a", "b"]


def test_changes_may_come_twice() -> None:
    changes = [put(1, "a", "red"), put(2, "b", "blue"), delete(3, "a")]
    index = index_of(*changes)
    index.apply(changes)
    index.compact()
    index.apply(changes)
    assert list(index.scan()) == [("b", 2, changes[1].content_hash)]
    assert (index.watermark, index.pending) == (3, 0)


def test_a_late_change_does_not_resurrect_a_deleted_document(tmp_path: Path) -> None:
    index = LexicalIndex.open(tmp_path / "lexical", PLAIN)
    index.apply([put(1, "a", "red"), put(2, "b", "red")])
    index.apply([delete(9, "a")])
    index.compact()
    index.save()
    index = LexicalIndex.open(tmp_path / "lexical", PLAIN)
    index.apply([put(5, "a", "red")])
    assert not index.contains("a")
    index.apply([put(10, "a", "red")])
    assert index.contains("a")


def test_a_late_change_does_not_replace_a_newer_text() -> None:
    index = index_of(put(5, "a", "new"))
    index.apply([put(3, "a", "old"), put(4, "b", "old")])
    assert ids(index.search("old", 10)) == ["b"]
    assert ids(index.search("new", 10)) == ["a"]
    assert index.watermark == 5


def test_the_last_of_several_changes_of_a_document_counts() -> None:
    index = index_of(put(2, "a", "second"), put(3, "a", "third"), put(1, "a", "first"))
    assert [seq for _, seq, _ in index.scan()] == [3]
    assert ids(index.search("first second third", 10)) == ["a"]
    assert index.search("second", 10) == []


def test_compaction_is_due_when_enough_has_changed() -> None:
    changes = [put(seq, f"doc-{seq}", "text") for seq in range(1, MIN_PENDING + 2)]
    index = index_of(*changes[:-1])
    assert not index.should_compact()
    index.apply(changes[-1:])
    assert index.should_compact()
    index.compact()
    assert index.pending == 0
    assert not index.should_compact()


def test_a_caller_that_never_compacts_is_helped_out() -> None:
    index = LexicalIndex.empty(PLAIN)
    for start in range(0, 5 * MIN_PENDING, 500):
        index.apply([put(seq, f"doc-{seq}", "text") for seq in range(start + 1, start + 501)])
    assert index.pending <= 2 * MIN_PENDING
    assert index.documents == 5 * MIN_PENDING


def test_terms_that_nobody_holds_any_more_are_forgotten() -> None:
    index = index_of(*(put(seq, f"doc-{seq}", f"only{seq} all") for seq in range(1, 2_001)))
    index.compact()
    index.apply([delete(2_000 + seq, f"doc-{seq}") for seq in range(1, 1_999)])
    index.compact()
    assert index._now.vocabulary.terms == ["all", "only1999", "only2000"]
    assert ids(index.search("only2000", 10)) == ["doc-2000"]
    assert ids(index.search("all", 10)) == ["doc-1999", "doc-2000"]


# -- the same as from scratch --------------------------------------------------------------------

WORDS = [f"word{number}" for number in range(12)]
TEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).map(" ".join)
NAMES = st.sampled_from([f"doc{number}" for number in range(8)])
QUERIES = ["word0", "word1 word2", " ".join(WORDS), "word3 word3 word4"]


class SameAsFromScratch(RuleBasedStateMachine):
    """After any sequence of puts, deletes, compactions, saves and restarts, an index finds what
    bm25s finds in an index of the same documents built from scratch, with the same scores."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "lexical"
        self.index = LexicalIndex.open(self.path, PLAIN)
        self.documents: dict[str, Change] = {}
        self.log: list[Change] = []

    def apply(self, changes: list[Change]) -> None:
        self.log += changes
        self.index.apply(changes)
        for change in changes:
            if change.document is None:
                self.documents.pop(change.doc_id, None)
            else:
                self.documents[change.doc_id] = change

    @rule(texts=st.dictionaries(NAMES, TEXTS, min_size=1))
    def put(self, texts: dict[str, str]) -> None:
        seq = len(self.log)
        self.apply([put(seq + n, name, texts[name]) for n, name in enumerate(texts, 1)])

    @rule(names=st.sets(NAMES, min_size=1))
    def delete(self, names: set[str]) -> None:
        seq = len(self.log)
        self.apply([delete(seq + n, name) for n, name in enumerate(sorted(names), 1)])

    @rule()
    def compact(self) -> None:
        self.index.compact()
        assert self.index.pending == 0

    @rule()
    def save(self) -> None:
        self.index.save()

    @rule()
    def restart(self) -> None:
        """What was not saved is applied again from the log."""
        self.index.close()
        self.index = LexicalIndex.open(self.path, PLAIN)
        self.index.apply(self.log[self.index.watermark :])

    @rule(data=st.data())
    def apply_again(self, data: st.DataObject) -> None:
        if self.log:
            newest = {change.doc_id: change for change in self.log}
            self.index.apply(data.draw(st.permutations(sorted(newest.values(), key=id))))

    @invariant()
    def finds_the_same(self) -> None:
        doc_ids = sorted(self.documents)
        assert sorted(self.index.scan()) == [
            (name, self.documents[name].seq, self.documents[name].content_hash) for name in doc_ids
        ]
        assert self.index.documents == len(doc_ids)
        assert self.index.watermark == len(self.log)
        if not doc_ids:
            return
        scratch = bm25s.BM25(k1=PLAIN.k1, b=PLAIN.b, method="lucene")
        texts = [
            change.document.full_text
            for _, change in sorted(self.documents.items())
            if change.document is not None
        ]
        scratch.index([text.split() for text in texts], show_progress=False)
        for query in QUERIES:
            terms = [term for term in query.split() if term in scratch.vocab_dict]
            scores = scratch.get_scores(terms).tolist() if terms else [0.0] * len(doc_ids)
            expected = {
                name: score for name, score in zip(doc_ids, scores, strict=True) if score > 0
            }
            hits = self.index.search(query, 10)
            assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(
                expected, rel=1e-5, abs=1e-6
            )
            assert [(-hit.score, hit.doc_id) for hit in hits] == sorted(
                (-hit.score, hit.doc_id) for hit in hits
            )

    def teardown(self) -> None:
        self.index.close()
        self.folder.cleanup()


TestSameAsFromScratch = SameAsFromScratch.TestCase
TestSameAsFromScratch.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


# -- filters -------------------------------------------------------------------------------------


def test_a_selective_filter_still_gives_the_k_best_that_match() -> None:
    index = index_of(*(put(n, f"doc-{n:03d}", "red " * n, year=n) for n in range(1, 101)))
    expected = ["doc-005", "doc-004", "doc-003"]
    assert ids(index.search("red", 3, parse_filter(["year<=5"]))) == expected
    index.compact()
    assert ids(index.search("red", 3, parse_filter(["year<=5"]))) == expected


def test_a_filter_follows_the_changes() -> None:
    where = parse_filter(["kind=a"])
    index = index_of(put(1, "x", "red", kind="a"), put(2, "y", "red", kind="b"))
    index.compact()
    assert ids(index.search("red", 9, where)) == ["x"]
    index.apply([put(3, "y", "red", kind="a"), put(4, "z", "red", kind="a"), delete(5, "x")])
    assert ids(index.search("red", 9, where)) == ["y", "z"]
    index.compact()
    assert ids(index.search("red", 9, where)) == ["y", "z"]


@pytest.mark.parametrize("compacted", [False, True])
def test_true_is_not_one_in_a_filter_that_was_asked_before(compacted: bool) -> None:
    index = index_of(put(1, "yes", "red", flag=True), put(2, "one", "red", flag=1))
    if compacted:
        index.compact()
    assert ids(index.search("red", 9, (Condition(field="flag", any_of=(1,)),))) == ["one"]
    assert ids(index.search("red", 9, (Condition(field="flag", any_of=(True,)),))) == ["yes"]


def test_integers_beyond_float_precision_are_compared_exactly() -> None:
    index = index_of(put(1, "even", "red", size=2**53), put(2, "odd", "red", size=2**53 + 1))
    limit = 2.0**53
    assert ids(index.search("red", 9, (Condition(field="size", gt=limit),))) == ["odd"]
    assert ids(index.search("red", 9, (Condition(field="size", lte=limit),))) == ["even"]


SCALARS = st.one_of(
    st.sampled_from(["a", "b", "", "1", "true"]),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
    st.sampled_from([-0.5, 0.0, 1.0, 1.5, 2.0**53, 2.0**62, 1e300, -1e300]),
)
FIELDS = st.sampled_from(["f", "g", "h"])
BOUNDS = st.none() | st.sampled_from(
    [-1e300, -1.0, -0.5, 0.0, 1.0, 1.5, 2.0, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300]
)
CONDITIONS = st.builds(
    Condition, field=FIELDS, any_of=st.lists(SCALARS, min_size=1, max_size=3).map(tuple)
) | st.builds(Condition, field=FIELDS, gt=BOUNDS, gte=BOUNDS, lt=BOUNDS, lte=BOUNDS)
METADATA = st.dictionaries(FIELDS, SCALARS | st.lists(SCALARS, max_size=3))


@settings(max_examples=150, deadline=None)
@given(
    metadata=st.lists(METADATA, min_size=1, max_size=12),
    split=st.integers(0, 12),
    filters=st.lists(st.lists(CONDITIONS, min_size=1, max_size=2).map(tuple), min_size=1),
)
def test_a_filter_means_what_its_conditions_say(
    metadata: list[dict[str, object]], split: int, filters: list[Filter]
) -> None:
    changes = [put(n, f"doc-{n:02d}", "red", **entry) for n, entry in enumerate(metadata, 1)]
    index = index_of(*changes[:split])
    index.compact()
    index.apply(changes[split:])
    for where in filters:
        expected = [
            change.doc_id
            for change in changes
            if change.document is not None
            and all(condition.matches(change.document.metadata) for condition in where)
        ]
        assert ids(index.search("red", 100, where)) == expected


# -- threads -------------------------------------------------------------------------------------


def test_searches_see_each_change_whole_while_others_change_and_compact() -> None:
    """A document is moved between two words and back; one of them holds it at any moment."""
    index = index_of(
        put(1, "moving", "left"),
        *(put(seq, f"doc-{seq}", "left right other") for seq in range(2, 3_000)),
    )
    done, failures = threading.Event(), []

    def search() -> None:
        while not done.is_set():
            hits = index.search("left right", 5_000)
            if len(hits) != len(set(ids(hits))) or len(hits) != 2_999:
                failures.append(len(hits))

    def compact() -> None:
        while not done.is_set():
            index.compact()

    threads = [threading.Thread(target=work) for work in (search, search, compact)]
    for thread in threads:
        thread.start()
    until, seq = time.monotonic() + 1.5, 3_000
    while time.monotonic() < until:
        seq += 1
        index.apply([put(seq, "moving", "right" if seq % 2 else "left")])
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert [hit.seq for hit in index.search("left right", 5_000) if hit.doc_id == "moving"] == [seq]


def test_changes_made_during_a_compaction_are_kept() -> None:
    index = index_of(*(put(seq, f"doc-{seq:05d}", f"red w{seq}") for seq in range(1, 4_000)))
    compacting = threading.Thread(target=index.compact)
    compacting.start()
    seq = 4_000
    while compacting.is_alive():
        index.apply([put(seq, f"doc-{seq % 50 + 1:05d}", f"blue v{seq}")])
        seq += 1
    compacting.join()
    assert index.watermark == seq - 1
    assert len(index.search("blue", 100)) == min(50, seq - 4_000)
    assert index.documents == 3_999


# -- opening and closing -------------------------------------------------------------------------


def test_a_closed_index_says_so() -> None:
    index = index_of(put(1, "a", "red"))
    index.close()
    index.close()
    with pytest.raises(SearchError, match="closed; open it again"):
        index.search("red", 1)


def test_the_scoring_engine_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, search.lexical; print('bm25s' in sys.modules, 'numba' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert found.stdout.split() == ["False", "False"]
